"""Several replicas train and compute what one does; bad set-ups are refused with reasons."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mfcnn.training import STRATEGIES, failure, make_strategy, records, strategy, trainer
from tests.tolerances import float32, float64
from tests.training import on_replicas
from tpu import launch

ROOT = pathlib.Path(__file__).parents[2]


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return on_replicas.results(tmp_path_factory.mktemp("single"), None)


def assert_same_results(found, single):
    assert len(found["rows"]) == len(single["rows"]) == 3
    for row, expected in zip(found["rows"], single["rows"]):
        # Float32 sums in another order, 12 steps, 7 digits in the file.
        assert row == pytest.approx(expected, rel=2e-5)
    np.testing.assert_allclose(found["ntk"], single["ntk"], rtol=float64.rounded)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_have_the_loss_curve_and_the_kernel_of_one(single, tmp_path, replicas):
    result = python("-m", "tests.training.on_replicas", tmp_path, "mirrored", replicas)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "worker_0.json").read_text())
    assert_same_results(found, single)
    refusal = f"batch_size must be a multiple of the {replicas} replicas. Received: 15"
    assert single["refused"] == "" and refusal in found["refused"]


def test_two_processes_have_the_loss_curve_and_the_kernel_of_one(single, tmp_path):
    launch_two = ["-m", "tpu.launch", "--processes=2", "--max_restarts=0"]
    program = ["-m", "tests.training.on_replicas", tmp_path, "multiworker"]
    result = python(*launch_two, f"--worker_logs={tmp_path}", "--", *program)
    assert result.returncode == 0, (tmp_path / "worker_0.log").read_text()[-2000:]
    for worker in (0, 1):
        found = json.loads((tmp_path / f"worker_{worker}.json").read_text())
        assert_same_results(found, single)
        assert "batch_size must be a multiple of the 2 replicas" in found["refused"]
    assert len(list((tmp_path / "run" / "checkpoints").glob("*.index"))) == 2


def train(*arguments):
    program = "-m experiments.train --depth=12 --filters=4 --batch_size=16 --steps=200"
    often = "--eval_every=20 --checkpoint_every=10 --nojit_compile"
    return [*program.split(), *often.split(), *arguments]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_killed_in_the_middle_leaves_the_same_result(tmp_path, victim):
    assert python(*train(f"--output_dir={tmp_path / 'single'}")).returncode == 0
    launch_two = [sys.executable, "-m", "tpu.launch", "--processes=2"]
    program = train("--strategy=multiworker", f"--output_dir={tmp_path / 'two'}")
    launcher = subprocess.Popen(
        [*launch_two, f"--worker_logs={tmp_path}", "--", *program],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "two" / "checkpoints" / "ckpt-60.index").exists():
        assert launcher.poll() is None
        time.sleep(0.05)
    children = pathlib.Path(f"/proc/{launcher.pid}/task").glob("*/children")
    workers = [int(pid) for path in children for pid in path.read_text().split()]
    mark = f'"index": {victim}}}'.encode()
    (pid,) = [p for p in workers if mark in pathlib.Path(f"/proc/{p}/environ").read_bytes()]
    os.kill(pid, signal.SIGKILL)
    _, errors = launcher.communicate(timeout=300)
    assert launcher.returncode == 0
    assert f"Worker {victim} ended with status -9" in errors
    assert f"Worker {1 - victim} ended with status 75" in errors
    single, two = (
        records.MetricsFile(tmp_path / run / "metrics.csv", trainer._FIELDS).rows()
        for run in ("single", "two")
    )
    assert len(two) == len(single) == 10
    for row, expected in zip(two, single):
        assert row == pytest.approx(expected, rel=float32.deep)


def cluster(workers=("a:1", "b:2"), index=0, job="worker"):
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": job, "index": index}})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "it is not set"),
        ("{worker}", "it is not JSON"),
        ("[]", "no cluster of workers"),
        ('{"cluster": {"worker": ["a:1"]}}', "no task.type or no task.index"),
        (cluster(index=2), "task.index must be from 0 to 1, not 2"),
        (cluster(job="chief"), "it has no task chief:0"),
        (cluster(index="0"), "it has no task worker:0"),
        (cluster(["a", "b:2"]), "'a' is not host:port"),
        (cluster(["a:1", "a:1"]), "a:1 is in it twice"),
        ('{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "worker or chief"),
    ],
)
def test_a_bad_tf_config_is_refused_with_its_problem(monkeypatch, text, problem):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="TF_CONFIG") as error:
        make_strategy("multiworker")
    assert problem in str(error.value) and "host0:2222" in str(error.value)


def test_a_port_in_use_is_refused(monkeypatch):
    with strategy.socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("TF_CONFIG", cluster([f"localhost:{port}"]))
        with pytest.raises(ValueError, match=f"port {port} .* is taken"):
            make_strategy("multiworker")


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("local", "TPUs not found"),
        ("", "name is empty"),
        ("grpc://localhost:1", "refused"),
        ("grpc://localhost:port", "not grpc://host:port"),
    ],
)
def test_no_tpu_is_an_error_with_its_reason_within_seconds(address, problem):
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=f"no TPU at tpu='{address}'.*{problem}"):
        make_strategy("tpu", address)
    assert time.monotonic() - start < 20


def test_a_worker_whose_peer_never_comes_ends_in_time_and_names_it():
    ports = launch.free_ports(2)
    workers = [f"localhost:{port}" for port in ports]
    program = "from mfcnn.training import make_strategy; make_strategy('multiworker', timeout=1.0)"
    result = python("-c", program, TF_CONFIG=cluster(workers))
    assert result.returncode in (failure.EXIT_START_AGAIN, -signal.SIGALRM)
    assert f"Not all of the other workers came: {workers[1]}" in result.stderr


def test_an_unknown_strategy_lists_the_known_ones():
    with pytest.raises(ValueError, match="one of.*mirrored.*'pods'"):
        make_strategy("pods")
    assert set(STRATEGIES) == {"default", "mirrored", "multiworker", "tpu"}


def test_a_wait_longer_than_its_limit_ends_the_process():
    program = (
        "import time; from mfcnn.training.failure import time_limit\n"
        "with time_limit(0.5, 'The other worker did not come'): time.sleep(60)"
    )
    result = python("-c", program)
    assert result.returncode == failure.EXIT_START_AGAIN
    assert "did not come (waited 0.5 s)" in result.stderr
