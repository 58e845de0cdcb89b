"""The launcher: signals go on to the processes, which never outlive it and are started together."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def program(directory, body):
    """A worker: notes its start, then runs some lines that know `index` and `directory`."""
    path = directory / "worker.py"
    path.write_text(
        "import json, os, pathlib, signal, socket, sys, time\n"
        f"directory = pathlib.Path({str(directory)!r})\n"
        "index = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
        "starts = directory / f'starts_{index}'\n"
        "with starts.open('a') as file: file.write(f'{os.getpid()}\\n')\n"
        "generation = len(starts.read_text().split())\n" + body
    )
    return path


def launcher(directory, body, *arguments):
    launch_two = [sys.executable, "-m", "tpu.launch", "--processes=2", "--restart_delay=0"]
    return subprocess.Popen(
        [*launch_two, *arguments, "--", str(program(directory, body))],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def pids(directory):
    return [int(p) for f in directory.glob("starts_*") for p in f.read_text().split()]


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


SLEEP = "time.sleep(100)\n"
SAVE = "def save(signum, frame): (directory / f'saved_{index}').touch(); sys.exit(128 + signum)\n"
SAVE += "signal.signal(signal.SIGTERM, save); signal.signal(signal.SIGINT, save)\n"


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_passed_on_and_decides_the_status(tmp_path, signum, status):
    ready = "(directory / f'ready_{index}').touch()\n"
    process = launcher(tmp_path, SAVE + ready + SLEEP)
    wait_for(lambda: len(list(tmp_path.glob("ready_*"))) == 2)
    process.send_signal(signum)
    process.communicate(timeout=60)
    assert process.returncode == status
    assert len(list(tmp_path.glob("saved_*"))) == 2 and not any(map(is_alive, pids(tmp_path)))


def test_the_processes_end_with_a_killed_launcher(tmp_path):
    process = launcher(tmp_path, SLEEP)
    wait_for(lambda: len(pids(tmp_path)) == 2)
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(is_alive, pids(tmp_path))), 10)


def test_a_process_that_does_not_leave_is_killed_after_the_grace(tmp_path):
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); (directory / f'ready_{index}').touch()\n"
    process = launcher(tmp_path, deaf + SLEEP, "--grace=0.5")
    wait_for(lambda: len(list(tmp_path.glob("ready_*"))) == 2)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143 and not any(map(is_alive, pids(tmp_path)))


def test_all_are_started_again_together_when_one_is_killed(tmp_path):
    body = (
        "living = directory / f'living_{index}'\n"
        "other = directory / f'living_{1 - index}'\n"
        "living.write_text(str(generation))\n"
        "while not other.exists() or other.read_text() in ('', '0'): time.sleep(0.01)\n"
        "(directory / 'seen').open('a').write(f'{generation}{other.read_text()} ')\n"
        "if generation == 1 and index == 0: time.sleep(0.3); os.kill(os.getpid(), 9)\n"
        "if generation == 1: time.sleep(1.0); living.write_text('0'); sys.exit(75)\n"
        "time.sleep(0.3)\n"
    )
    process = launcher(tmp_path, body)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0
    assert "Worker 0 ended with status -9" in errors and "Worker 1 ended with status 75" in errors
    assert len(pids(tmp_path)) == 4


def test_a_mistake_ends_the_launch_with_its_status(tmp_path):
    both = "while index and not any(f.read_text() for f in directory.glob('starts_0')): pass\n"
    process = launcher(tmp_path, both + "sys.exit(3) if index else time.sleep(100)\n")
    assert process.wait(timeout=60) == 3 and len(pids(tmp_path)) == 2


def test_restarts_have_an_end(tmp_path):
    process = launcher(tmp_path, "sys.exit(75)\n", "--max_restarts=2")
    assert process.wait(timeout=60) == 75 and len(pids(tmp_path)) == 6


def test_the_processes_have_a_network_of_their_own_or_the_ports_are_named(tmp_path):
    body = "(directory / f'net_{index}').write_text(json.dumps(socket.if_nameindex()))\n"
    process = launcher(tmp_path, body)
    _, errors = process.communicate(timeout=60)
    networks = [json.loads(path.read_text()) for path in tmp_path.glob("net_*")]
    assert process.returncode == 0 and len(networks) == 2
    if "must not be reachable from outside" not in errors:
        assert all([name for _, name in network] == ["lo"] for network in networks)


def test_a_port_in_the_network_of_the_processes_is_not_one_of_this_machine(tmp_path):
    """What is bound to all addresses there cannot be reached from here."""
    body = (
        "server = socket.create_server(('', 0)); (directory / f'port_{index}').write_text("
        "str(server.getsockname()[1])); time.sleep(100)\n"
    )
    process = launcher(tmp_path, body)
    try:
        wait_for(lambda: len([p for p in tmp_path.glob("port_*") if p.read_text()]) == 2)
        ports = {path.read_text() for path in tmp_path.glob("port_*")}
        if os.readlink(f"/proc/{pids(tmp_path)[0]}/ns/net") == os.readlink("/proc/self/ns/net"):
            pytest.skip("this system gives no network namespaces")
        listening = pathlib.Path("/proc/net/tcp").read_text().split()
        assert not {f"00000000:{int(port):04X}" for port in ports} & set(listening)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to start"),
        (["--processes=2", "--hosts=a:1", "--", "x"], "Exactly one of"),
        (["--", "x"], "must have a value other than None"),
        (["--hosts=a:1,b:2", "--index=2", "--", "x"], "index must be a place in --hosts"),
        (["--hosts=a:1,b:2", "--", "x"], "give --index"),
    ],
)
def test_what_cannot_be_launched_is_refused_in_one_line(arguments, words):
    arguments = arguments or ["--processes=1"]
    result = subprocess.run(
        [sys.executable, "-m", "tpu.launch", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1 and words in result.stderr
    assert len(result.stderr.splitlines()) == 1
