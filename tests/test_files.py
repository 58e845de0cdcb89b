"""A file is the old one or the new one; what is damaged is said in a sentence."""

import json
import os
import resource
import signal
import subprocess
import sys

import pytest

from mfcnn import files

REMEDY = "Do this."


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.keras"
    files.write_atomically(path, b"old")

    def half(partial):
        assert partial.suffix == path.suffix
        partial.write_bytes(b"ne")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        files.write_atomically(path, half)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_file_over_the_limit_leaves_the_old_one(tmp_path):
    path = tmp_path / "metrics.csv"
    files.write_atomically(path, "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            files.write_atomically(path, "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_a_kill_left_is_removed(tmp_path):
    program = (
        "import os, sys; sys.path.insert(0, '.'); from mfcnn import files\n"
        "def die(partial): partial.write_text('half'); os.kill(os.getpid(), 9)\n"
        f"files.write_atomically({str(tmp_path / 'a.json')!r}, die)"
    )
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    assert len(list(tmp_path.iterdir())) == 1
    files.remove_partials(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"[]", b'{"a": 1', b"", b"\xff\xfe{", b"null"])
def test_damaged_json_is_named_with_the_remedy(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(files.DamagedFileError, match="config.json is damaged .*Do this."):
        files.read_json(path, REMEDY)


@pytest.mark.parametrize("position", range(0, 24, 5))
@pytest.mark.parametrize("how", ["flip", "cut"])
def test_a_checked_file_with_a_byte_flipped_or_cut_off_is_refused(tmp_path, position, how):
    path = tmp_path / "metrics.csv"
    files.write_checked(path, "step,loss\n1,0.5\n2,0.25\n")
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content if how == "flip" else content[:position])
    with pytest.raises(files.DamagedFileError, match="metrics.csv is damaged .*Do this."):
        files.read_checked(path, REMEDY)


def test_a_checked_file_is_right_before_between_and_after_its_two_moves(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    files.write_checked(path, "old\n")
    original, moves = files.write_atomically, []

    def move(target, content):
        assert files.read_checked(path, REMEDY) == "old\n"
        original(target, content)
        moves.append(files.read_checked(path, REMEDY))

    monkeypatch.setattr(files, "write_atomically", move)
    files.write_checked(path, "new\n")
    assert moves == ["old\n", "new\n"]


def test_a_checked_file_that_is_gone_is_refused_and_one_without_checksum_taken(tmp_path):
    path = tmp_path / "metrics.csv"
    assert not files.was_checked(path)
    path.write_text("of an older version")
    assert files.read_checked(path, REMEDY) == "of an older version"
    files.write_checked(path, "x")
    path.unlink()
    assert files.was_checked(path)
    with pytest.raises(files.DamagedFileError, match="gone"):
        files.read_checked(path, REMEDY)


def test_json_comes_back(tmp_path):
    files.write_atomically(tmp_path / "a.json", json.dumps({"ä": 1}))
    assert files.read_json(tmp_path / "a.json", REMEDY) == {"ä": 1}
