"""Figure 2 of the CNN paper, tiny."""

import numpy as np

from experiments import trainability
from tests.experiments.sweeping import assert_figure, assert_two_kills_change_nothing

ARGUMENTS = [
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


def test_two_kills_change_nothing(tmp_path, capsys):
    arguments = [*ARGUMENTS, "--depths=2,4", "--weight_variances=0.5,1.5"]
    directory = assert_two_kills_change_nothing(trainability, tmp_path, *arguments)
    assert_figure(directory, "trainability.png")
    assert "rank correlation" in capsys.readouterr().out


def test_agreement_is_perfect_where_theory_is_right():
    rows = [
        {"depth": depth, "weight_variance": 1.0, "train_accuracy": 1 / depth}
        for depth in (2, 4, 8, 16)
    ]
    assert np.allclose(trainability.agreement(rows, {1.0: 3.0}), 1)
