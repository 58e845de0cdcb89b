"""The main job as a user starts it: results, refusals, a kill in the middle."""

import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from absl import flags

from experiments import train as binary

ROOT = pathlib.Path(__file__).parents[2]
SMALL = ["--depth=12", "--filters=4", "--batch_size=16", "--eval_every=20", "--checkpoint_every=10"]


def command(directory, *arguments):
    program = [sys.executable, "-m", "experiments.train"]
    return [*program, f"--output_dir={directory}", *SMALL, *arguments]


def train(directory, *arguments):
    return subprocess.run(
        command(directory, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished")
    result = train(directory, "--steps=60")
    assert result.returncode == 0, result.stderr
    return directory, result.stdout


def test_it_says_what_theory_expects_and_writes_its_files(finished):
    directory, output = finished
    for word in ("sigma_w^2", "ritical", "xi_c", "parameters", "memory", "test accuracy"):
        assert word in output
    names = {path.name for path in directory.iterdir()}
    assert {"config.json", "metrics.csv", "curves.png", "model.keras", "checkpoints"} <= names


def test_a_run_killed_in_the_middle_ends_with_the_same_metrics(finished, tmp_path):
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command(tmp_path, "--steps=60"), cwd=ROOT, **silent)
    deadline = time.time() + 200
    while not (tmp_path / "checkpoints" / "ckpt-30.index").exists():
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = train(tmp_path, "--steps=60")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "metrics.csv").read_text() == (finished[0] / "metrics.csv").read_text()


def test_another_configuration_in_the_directory_is_refused(finished):
    result = train(finished[0], "--steps=60", "--seed=4", "--filters=5")
    assert result.returncode != 0
    assert "filters: 4 there, 5 now" in result.stderr and "seed: 0 there, 4 now" in result.stderr


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--depth=0", "depth"),
        ("--depth=-1", "depth"),
        ("--filters=0", "filters"),
        ("--q_star=0", "--q_star=0: 0.0 is not a number in the range [1e-12, 100.0]"),
        ("--q_star=-1", "is not a number in the range [1e-12, 100.0]"),
        ("--weight_variance=-1", "is not a number in the range [0.0, 10000.0]"),
        ("--weight_variance=0", "weight_variance must be positive"),
        ("--bias_variance=-1", "bias_variance"),
        ("--weight_variance=1", "both weight_variance and bias_variance"),
        ("--dataset=cifar", "digits|mnist|fashion_mnist|cifar10|imagenet_snakes"),
        ("--initialization=he", "delta_orthogonal|orthogonal|gaussian"),
        ("--optimizer=lion", "sgd|momentum|rmsprop|adam"),
        ("--activation=thanh", "tanh|tanh_shrink|threshold"),
        ("--learning_rate=fast", "auto or a positive number"),
        ("--strategy=pods", "default|mirrored|multiworker|tpu"),
        ("--logical_cpus=2", "logical_cpus needs strategy=mirrored"),
    ],
)
def test_a_bad_flag_is_named_with_what_is_accepted(argument, message):
    values = flags.FlagValues()
    binary.define_flags(values)
    with pytest.raises(flags.Error, match=re.escape(message)):
        values(["train", argument])
