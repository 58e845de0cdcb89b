"""Figure 4 of the CNN paper, tiny."""

import numpy as np

from experiments import variance_profiles
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table
from tests.experiments.sweeping import TINY, assert_figure


def test_the_binary_draws_its_table(tmp_path, capsys, pictures):
    arguments = [*TINY, "--depths=2,3", "--profiles=gs0,gs4", "--seeds=1"]
    run(variance_profiles, tmp_path, *arguments)
    accuracy, modes = assert_figure(tmp_path, pictures, "variance_profiles.png").panels
    for name in ("gs0", "gs4"):
        rows = table(tmp_path / "metrics.csv", profile=name, step=4)
        assert_drawn(accuracy.line(name.upper()), [2, 3], [row["test_accuracy"] for row in rows])
    np.testing.assert_allclose(modes.lines[0][2], 1)
    assert "GS4: test accuracy 2: " in capsys.readouterr().out
