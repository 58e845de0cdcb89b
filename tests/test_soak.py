"""The short form of `make soak`: a few faults of every kind, against a figure and a kernel."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def soak(*arguments):
    result = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--minutes=5", "--lost=0", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def test_a_figure_and_a_kernel_survive_some_faults():
    assert "12 faults, 0 of them" in soak("--faults=12", "--seed=7", "--programs=figure,kernel")


@pytest.mark.slow
def test_a_training_and_a_sweep_survive_some_faults():
    assert "30 faults, 0 of them" in soak("--faults=30", "--seed=8", "--programs=train,sweep")
