"""A directory has one owner and one configuration, and a refused start leaves no trace."""

import fcntl
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from mfcnn import files, ownership
from mfcnn.ownership import DirectoryInUseError
from mfcnn.run_directory import ConfigurationError, RunDirectory

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = {"depth": 10, "rates": np.array([0.5, 1.0]), "name": ("a", "b"), "width": np.int64(3)}


def lock_of(directory):
    return directory / ".owner.json"


@pytest.fixture
def other():
    """Another process that owns a directory until its input is closed."""
    processes = []

    def start(directory, part=(0, 1)):
        program = f"""
            import sys, types
            mfcnn = types.ModuleType("mfcnn"); mfcnn.__path__ = ["mfcnn"]  # not all of the package
            sys.modules["mfcnn"] = mfcnn
            from mfcnn.run_directory import RunDirectory
            with RunDirectory({str(directory)!r}, part={part}):
                print("owned", flush=True)
                sys.stdin.read()
        """
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        processes.append(process)
        assert process.stdout.readline() == "owned\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_nothing_is_left_of_a_run_that_wrote_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), RunDirectory(tmp_path / "a" / "b", CONFIG) as directory:
        (directory / "points").mkdir()
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_the_configuration_is_on_the_disk_before_the_first_result(tmp_path):
    with RunDirectory(tmp_path / "a", CONFIG) as directory:
        assert not (directory / "config.json").exists()

        def result(partial):
            assert json.loads((directory / "config.json").read_text())["depth"] == 10
            partial.write_text("1")

        files.write_atomically(directory / "metrics.csv", result)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"config.json", "metrics.csv"}
    written = json.loads((tmp_path / "a" / "config.json").read_text())
    assert set(written.pop("versions")) == {"mfcnn", "tensorflow", "keras"}
    assert written == {"depth": 10, "rates": [0.5, 1.0], "name": ["a", "b"], "width": 3}


def write(directory, config, **options):
    with RunDirectory(directory, config, **options) as entered:
        files.write_atomically(entered / "metrics.csv", "1")


def test_another_configuration_is_refused_entry_by_entry(tmp_path):
    write(tmp_path, CONFIG)
    write(tmp_path, CONFIG)
    for name, value in {"depth": 11, "rates": [0.5], "name": None, "width": 3.5}.items():
        with pytest.raises(ConfigurationError, match=f"[(]{name}: .* there, .* now[)]"):
            write(tmp_path, CONFIG | {name: value})
    with pytest.raises(ConfigurationError, match="new: None there, 1 now"):
        write(tmp_path, CONFIG | {"new": 1})
    write(tmp_path, CONFIG | {"new": 1}, defaults={"new": 1})
    write(tmp_path, CONFIG | {"new": 2}, may_differ=("new",))
    assert json.loads((tmp_path / "config.json").read_text())["new"] == 2


@pytest.mark.parametrize("content", ["[]", '{"depth": 1', "", "\x00"])
def test_a_damaged_configuration_is_refused_by_its_name(tmp_path, content):
    write(tmp_path, CONFIG)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(files.DamagedFileError, match="config.json is damaged.*another output_dir"):
        write(tmp_path, CONFIG)


def test_results_of_an_unknown_configuration_are_refused(tmp_path):
    write(tmp_path, CONFIG)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigurationError, match="metrics.csv but no config.json"):
        write(tmp_path, CONFIG)


def test_no_path_and_a_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match="output_dir=''"):
        RunDirectory("")
    (tmp_path / "file").write_text("")
    for path in ("file", "file/below"):
        with pytest.raises(NotADirectoryError, match="is a file"):
            write(tmp_path / path, CONFIG)


def test_the_owner_is_named_and_its_end_frees_the_directory(tmp_path, other):
    process = other(tmp_path)
    words = f"in use by pid {process.pid} on {socket.gethostname()} since 20"
    with pytest.raises(DirectoryInUseError, match=words):
        write(tmp_path, CONFIG)
    assert not (tmp_path / "metrics.csv").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lock_of(tmp_path).exists()  # of the killed one
    write(tmp_path, CONFIG)
    assert not lock_of(tmp_path).exists()


def test_one_process_may_enter_twice(tmp_path):
    with RunDirectory(tmp_path, CONFIG), RunDirectory(tmp_path / "points" / "1") as inner:
        files.write_atomically(inner / "metrics.csv", "1")
    assert (tmp_path / "config.json").exists() and not lock_of(tmp_path).exists()


def test_parts_work_side_by_side_and_another_division_is_refused(tmp_path, other):
    other(tmp_path, (0, 2))
    with RunDirectory(tmp_path, part=(1, 2)):
        pass
    for part in ((0, 2), (0, 1), (1, 3)):
        with pytest.raises(DirectoryInUseError):
            write(tmp_path, CONFIG, part=part)


def foreign(directory, age, **changes):
    """A lock as a process on another host leaves it on shared storage."""
    record = {"host": "elsewhere", "boot": "b", "pid": 7, "started": "1", "since": "2026"}
    lock_of(directory).write_text(json.dumps(record | {"token": "t"} | changes))
    then = time.time() - age
    os.utime(lock_of(directory), (then, then))


def test_on_shared_storage_the_last_sign_of_life_decides(tmp_path):
    foreign(tmp_path, ownership.STALE / 2)
    with pytest.raises(DirectoryInUseError, match="pid 7 on elsewhere since 2026.*60 s after"):
        write(tmp_path, CONFIG)
    foreign(tmp_path, 2 * ownership.STALE)
    write(tmp_path, CONFIG)


def test_an_owner_gives_signs_of_life(tmp_path):
    with RunDirectory(tmp_path, beat=0.01):
        os.utime(lock_of(tmp_path), (0, 0))
        deadline = time.time() + 20
        while not lock_of(tmp_path).stat().st_mtime:
            assert time.time() < deadline
            time.sleep(0.01)


def test_an_owner_that_was_taken_for_dead_writes_no_more(tmp_path):
    with RunDirectory(tmp_path, CONFIG, beat=0.01) as directory:
        files.write_atomically(directory / "metrics.csv", "mine")
        foreign(tmp_path, 0)
        deadline = time.time() + 20
        with pytest.raises(DirectoryInUseError, match="pid 7 on elsewhere has taken it over"):
            while time.time() < deadline:
                files.write_atomically(directory / "metrics.csv", "mine")
    assert json.loads(lock_of(tmp_path).read_text())["pid"] == 7  # it is not ours to remove


@pytest.fixture
def no_locks(monkeypatch):
    def refuse(*arguments):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_without_locks_in_the_file_system_the_process_is_looked_up(tmp_path, other, no_locks):
    process = other(tmp_path)
    with pytest.raises(DirectoryInUseError, match=f"pid {process.pid}"):
        write(tmp_path, CONFIG)
    process.kill()
    process.wait()
    write(tmp_path, CONFIG)


def test_a_process_of_the_same_number_is_not_taken_for_the_owner(tmp_path, no_locks):
    host, boot = socket.gethostname(), ownership._boot()
    foreign(tmp_path, 0, host=host, boot=boot, pid=os.getpid(), started="before")
    write(tmp_path, CONFIG)
    foreign(tmp_path, 0, host=host, boot="before the machine was started again", pid=os.getpid())
    write(tmp_path, CONFIG)


def test_of_two_that_sign_at_once_one_owns(tmp_path, no_locks, monkeypatch):
    original = ownership.Owner._sign

    def sign(self, descriptor):
        original(self, descriptor)
        foreign(tmp_path, 0)  # the other one signs a moment later

    monkeypatch.setattr(ownership.Owner, "_sign", sign)
    with pytest.raises(DirectoryInUseError, match="elsewhere"):
        write(tmp_path, CONFIG)
