"""The laws of the learning rate, tiny, and the rules between made-up tables."""

import math

import numpy as np
import pytest

from experiments import rate_laws
from tests.experiments.running import run, table
from tests.experiments.sweeping import TINY, assert_figure

GRID = [
    {"optimizer": "sgd", "depth": 10.0, "multiple": m, "learning_rate": 0.2 * m, "train_loss": loss}
    for m, loss in ((0.5, 2.0), (1.0, 1.0), (2.0, math.nan))
]


def test_the_binary_draws_its_table(tmp_path, capsys, pictures):
    sizes = ["--depths=2,4", "--untrained_depths=3,30000", "--multiples=0.5,1"]
    run(rate_laws, tmp_path, *TINY, *sizes, "--optimizers=momentum,adam", "--readout=pool")
    picture = assert_figure(tmp_path, pictures, "rate_laws.png")
    for panel, optimizer in zip(picture.panels, ("momentum", "adam")):
        assert panel.title == optimizer
        for depth in (2, 4):
            rows = table(tmp_path / "metrics.csv", optimizer=optimizer, depth=depth)
            np.testing.assert_allclose(
                panel.line(f"{depth} layers"),
                [[row["multiple"] for row in rows], [row["train_loss"] for row in rows]],
            )
    rates = {
        row["depth"]: row["learning_rate"]
        for row in table(tmp_path / "metrics.csv", optimizer="adam")
        if row["multiple"] in (0, 1)
    }
    assert rates == {3: 0.01 / 3, 30_000: 0.01 / 30_000, 2: 0.005, 4: 0.0025}
    deep = table(tmp_path / "metrics.csv", optimizer="momentum", depth=30_000)
    assert len(deep) == 1 and 1e-7 < deep[0]["learning_rate"] < 1e-3
    assert math.isnan(deep[0]["train_loss"])
    assert "adam, 4 layers: loss" in capsys.readouterr().out


def test_a_diverged_network_is_never_the_best():
    assert rate_laws.best(GRID)["multiple"] == pytest.approx(1)
    assert rate_laws.best(GRID[1:])["multiple"] == 1  # one converged
    assert math.isnan(rate_laws.best(GRID[2:])["train_loss"])
    assert math.isnan(rate_laws.loss_at(GRID[2:], 0.4))


def test_the_best_rate_is_found_between_the_points_of_the_grid():
    rows = [
        {**GRID[0], "multiple": m, "learning_rate": 0.2 * m, "train_loss": 3 * math.exp(x * x)}
        for m in (0.5, 1.0, 2.0, 4.0, 8.0)
        for x in [math.log(m / 3)]
    ]
    found = rate_laws.best(rows)
    assert found["multiple"] == pytest.approx(3, rel=2e-3)  # of 2,001 rates between 0.5 and 8
    assert found["learning_rate"] == pytest.approx(0.6, rel=2e-3)
    assert found["train_loss"] == pytest.approx(3, rel=4e-6)
    assert rate_laws.loss_at(rows, 1.2) == pytest.approx(3 * 2 ** math.log(2))


@pytest.mark.parametrize(
    ("rate", "loss"), [(0.1, 2.0), (0.2, 1.0), (0.1 * math.sqrt(2), math.sqrt(2)), (0.05, math.nan)]
)
def test_losses_between_rates_are_of_a_power_law(rate, loss):
    np.testing.assert_allclose(rate_laws.loss_at(GRID[:2], rate), loss)


def test_rules_carry_the_best_rate_of_the_first_depth():
    theory = {10.0: 0.2, 1000.0: 0.004}
    found = rate_laws.carried(GRID[1], theory, 1000.0)
    assert found == pytest.approx({"theory": 0.004, "1 / depth": 0.002, "depth^-3/2": 0.0002})
