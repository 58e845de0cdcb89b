"""The finite-depth part of the mean predictor."""

import numpy as np
import pytest

from experiments import deep_predictor, phases
from mfcnn import kernels
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table
from tests.tolerances import float64


def limit_of(phase):
    return kernels.limits("erf", *phases.variances(phase, "erf", 0.5, deep_predictor._FACTORS))


@pytest.mark.parametrize("phase", phases.FACTORS)
def test_the_part_is_the_prediction_less_that_of_the_limit_kernel(phase):
    rng, limit, layer, ridge = np.random.default_rng(0), limit_of(phase), 9, 0.3
    features = rng.normal(size=(8, 12))
    theta, y = features @ features.T, rng.normal(size=(5, 2))
    train, test = theta[:5, :5], theta[5:, :5]
    diagonal, off = {
        "ordered": (limit.p, limit.p),
        "critical": (limit.q_star * layer, limit.q_star * layer / 3),
        "chaotic": (sum(limit.q_star * limit.chi_1**k for k in range(layer)), limit.p_ab),
    }[phase]
    ridge = ridge if phase == "ordered" else 0.0
    star = off + (diagonal - off) * np.eye(5) + ridge * np.eye(5)
    delta = test @ np.linalg.solve(train + ridge * np.eye(5), y)
    delta -= np.full((3, 5), off) @ np.linalg.solve(star, y)
    found = deep_predictor.sizes(limit, layer, train, test, y, [0.3])
    expected = np.sqrt(np.mean(delta**2))
    np.testing.assert_allclose(found[phase, ridge], expected, rtol=float64.solved)


def test_the_binary_shows_the_laws(tmp_path, pictures):
    sizes = ("--train_size=5", "--test_size=8", "--max_depth=60")
    run(deep_predictor, tmp_path, *sizes)
    picture = pictures["deep_predictor.png"]
    picture.assert_readable()
    for what, ridge, title in (("chaotic", 0, "chaotic"), ("ordered", 1, "with a ridge")):
        rows = table(tmp_path / "metrics.csv", what=what, ridge=ridge)
        label = "measured, $\\sigma$ = 1" if ridge else "measured"
        layers, values = ([row[name] for row in rows] for name in ("layer", "size"))
        assert_drawn(picture.panel(title).line(label), layers, values)
        # Fitted at two thirds of the depths; l is the leading part of delta + l epsilon.
        assert rows[-1]["size"] == pytest.approx(rows[-1]["law"], rel=0.5)
        assert rows[-1]["size"] < 1e-3 * rows[0]["size"]
    rows = table(tmp_path / "metrics.csv", what="ordered_limit")
    whole = table(tmp_path / "metrics.csv", what="ordered_prediction")
    assert rows[-1]["size"] < 1e-3 * whole[-1]["size"] and whole[-1]["size"] > 0.05
