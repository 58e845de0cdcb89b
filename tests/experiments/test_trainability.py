"""Figure 2 of the CNN paper, tiny."""

import numpy as np

from experiments import trainability
from mfcnn import meanfield
from tests.experiments.running import table
from tests.experiments.sweeping import TINY, assert_figure, assert_two_kills_change_nothing
from tests.tolerances import float64


def test_two_kills_change_nothing(tmp_path, capsys, pictures):
    arguments = [*TINY, "--depths=2,4", "--weight_variances=0.5,1.5"]
    directory = assert_two_kills_change_nothing(trainability, tmp_path, *arguments)
    picture = assert_figure(directory, pictures, "trainability.png")
    for steps in (2, 4):
        panel = picture.panel(f"{steps} steps")
        rows = table(directory / "metrics.csv", step=steps)
        rows.sort(key=lambda row: (row["depth"], row["weight_variance"]))
        drawn = [row["train_accuracy"] for row in rows]
        np.testing.assert_allclose(panel.images[0].ravel(), drawn, rtol=float64.summed)
        variances, depths = panel.line("$6\\,\\xi_c$")
        expected = [6 * meanfield.fixed_point("tanh", v, 2e-5).xi_c for v in variances[::50]]
        np.testing.assert_allclose(depths[::50], expected)
    assert "rank correlation" in capsys.readouterr().out


def test_agreement_is_perfect_where_theory_is_right():
    rows = [
        {"depth": depth, "weight_variance": 1.0, "train_accuracy": 1 / depth}
        for depth in (2, 4, 8, 16)
    ]
    assert np.allclose(trainability.agreement(rows, {1.0: 3.0}), 1)
