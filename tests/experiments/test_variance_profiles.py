"""Figure 4 of the CNN paper, tiny."""

import numpy as np

from experiments import variance_profiles
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import table
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


def test_two_kills_change_nothing(tmp_path, capsys, pictures):
    arguments = [*ARGUMENTS, "--depths=2,3", "--profiles=gs0,gs4", "--seeds=1"]
    directory = assert_two_kills_change_nothing(variance_profiles, tmp_path, *arguments)
    accuracy, modes = assert_figure(directory, pictures, "variance_profiles.png").panels
    for name in ("gs0", "gs4"):
        rows = table(directory / "metrics.csv", profile=name, step=4)
        assert_drawn(accuracy.line(name.upper()), [2, 3], [row["test_accuracy"] for row in rows])
    np.testing.assert_allclose(modes.lines[0][2], 1)
    assert "GS4: test accuracy 2: " in capsys.readouterr().out
