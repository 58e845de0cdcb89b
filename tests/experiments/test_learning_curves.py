"""How fast each eigenmode is learnt."""

import numpy as np

from experiments import learning_curves, samples
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table
from tests.tolerances import float32, float64


def test_a_linear_network_follows_the_law_in_steps():
    """Depth 0 is linear in its weights: its kernel is exact and constant."""
    settings = learning_curves._QUICK | {"depth": 0, "examples": 4, "steps": 30}
    problem = learning_curves.Problem("chaotic", settings, *samples.draw("digits", "train", 4, 0))
    steps, shares = learning_curves.train(problem, settings, seed=3)
    ratios = problem.spectrum.eigenvalues / problem.spectrum.eigenvalues[0]
    expected = 1 - (1 - 2 * settings["rho"] * ratios) ** steps[:, None]
    np.testing.assert_allclose(shares, expected, atol=10 * float32.deep)
    assert steps[0] == 1 and steps[-1] == 30


def test_the_law_is_that_of_the_matrix_exponential():
    settings = learning_curves._QUICK | {"depth": 1, "examples": 4}
    problem = learning_curves.Problem("ordered", settings, *samples.draw("digits", "train", 4, 0))
    theta = problem.vectors @ np.diag(problem.spectrum.eigenvalues) @ problem.vectors.T
    eta, t = 2 / problem.spectrum.lambda_max, 3.0
    power = np.linalg.matrix_power(np.eye(4) - eta * t * theta / 2**20, 2**20)
    found = problem.learnt((np.eye(4) - power) @ problem.y, problem.y)
    # (1 - x / n)^n is off by x^2 / 2n.
    law = learning_curves.law(problem.spectrum, np.array([t]))[0]
    np.testing.assert_allclose(found, law, atol=36 / 2 / 2**20)
    np.testing.assert_allclose(law[-1], -np.expm1(-2 * t / problem.spectrum.condition_number))


def test_the_binary_trains_and_draws(tmp_path, pictures, capsys):
    sizes = "--examples=3 --depth=1 --width=512 --seeds=2 --steps=40".split()
    run(learning_curves, tmp_path, *sizes)
    rows = table(tmp_path / "metrics.csv", phase="critical")
    # Width 512: single entries of the kernel are off by sqrt(1 / 512) = 4 %, the shares by less.
    assert max(abs(row["learnt"] - row["law_in_steps"]) for row in rows) < 0.1
    picture = pictures["learning_curves.png"]
    picture.assert_readable()
    hardest = picture.panel("critical line").line(r"$1 - e^{-2t/\kappa}$")
    curve = [row for row in rows if row["mode"] == 3]
    assert_drawn(hardest, [row["t"] for row in curve], [row["law"] for row in curve])
    np.testing.assert_allclose(
        [row["law"] for row in curve],
        [1 - np.exp(-2 * row["t"] / row["kappa"]) for row in curve],
        rtol=float64.solved,
    )
    assert "hardest mode half learnt" in capsys.readouterr().out
    run(learning_curves, tmp_path, *sizes)  # all is there: nothing is trained again
