"""Kills a sweep in the middle, in this process, and takes it up again."""

import contextlib

import pytest

from mfcnn.training import Trainer
from tests.experiments.running import run

# Flags of the smallest sweep of vanilla CNNs: seconds, and three checkpoints in each point.
TINY = [
    "--dataset=digits",
    "--subset=64",
    "--test_subset=32",
    "--filters=3",
    "--batch_size=16",
    "--steps=4",
    "--eval_every=2",
    "--checkpoint_every=1",
    "--steps_per_execution=1",
    "--nojit_compile",
]


class KilledError(Exception):
    """Stands for a kill: nothing in the program catches it."""


@contextlib.contextmanager
def killed_after(checkpoints):
    """Ends the program right after that many checkpoints were written, within a point."""
    original, count = Trainer._open, [0]

    def opened(self, *arguments):
        original(self, *arguments)
        save = self.checkpoints.save

        def save_and_die(step):
            save(step)
            count[0] += 1
            if count[0] == checkpoints:
                raise KilledError

        self.checkpoints.save = save_and_die

    Trainer._open = opened
    try:
        yield
    finally:
        Trainer._open = original


def assert_two_kills_change_nothing(module, directory, *arguments, kills=(2, 3)):
    """Runs a binary whole and with two kills, and compares metrics.csv byte for byte.

    Returns:
      The directory of the uninterrupted run.
    """
    run(module, directory / "whole", *arguments)
    for checkpoints in kills:
        with killed_after(checkpoints), pytest.raises(KilledError):
            run(module, directory / "parts", *arguments)
    run(module, directory / "parts", *arguments)
    whole, parts = ((directory / name / "metrics.csv").read_bytes() for name in ("whole", "parts"))
    assert parts == whole
    return directory / "whole"


def assert_figure(directory, pictures, name):
    """Asserts that the figure is readable and that finished points left no folder.

    Returns:
      The `Picture`.
    """
    pictures[name].assert_readable()
    assert (directory / "config.json").exists() and not (directory / "points").exists()
    return pictures[name]
