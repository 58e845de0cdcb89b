"""Correlations and kernels beside their limits."""

import numpy as np
import pytest

from experiments import kernel_limits, phases
from mfcnn import kernels
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table
from tests.kernels import reference
from tests.tolerances import float64

SETTINGS = kernel_limits._QUICK | {"max_depth": 24, "correlations": [0.0, 0.9]}


def of_phase(phase):
    variances = phases.variances(phase, "erf", 0.5, kernel_limits._FACTORS)
    return variances, kernels.limits("erf", *variances)


@pytest.mark.parametrize("phase", phases.FACTORS)
def test_the_map_is_one_layer_of_the_covariance(phase):
    variances, limit = of_phase(phase)
    q, c = limit.q_star, np.array([0.0, 0.4, limit.c_star, 1.0])
    expected = (variances[0] * reference.erf_maps(q, q, c * q)[0] + variances[1]) / q
    found = kernel_limits.correlation_map("erf", variances, q, c)
    np.testing.assert_allclose(found, expected, rtol=float64.summed)
    np.testing.assert_allclose(found[2:], c[2:], rtol=1e-7)  # fixed points; sqrt(eps) at c = 1


@pytest.mark.parametrize("phase", phases.FACTORS)
def test_entries_are_those_of_a_plain_recursion(phase):
    variances, limit = of_phase(phase)
    power = (limit.q_star - variances[1]) / variances[0]
    rows = kernel_limits.measure_pairs(phase, SETTINGS)
    for row in (row for row in rows if row["layer"] in (3, 25)):
        c = row["correlation"]
        x = np.sqrt(2 * power) * np.array([[1.0, 0.0], [c, np.sqrt(1 - c * c)]])
        nngp, ntk = reference.fully_connected(x, row["layer"] - 1, "erf", *variances)
        np.testing.assert_allclose(row["nngp"], nngp[0, 1], rtol=float64.deep)
        np.testing.assert_allclose(row["ntk"], ntk[0, 1], rtol=float64.deep)
        np.testing.assert_allclose(row["ntk_diagonal_law"], ntk[0, 0], rtol=1e-7)


def test_the_binary_draws_what_it_measured(tmp_path, pictures):
    run(kernel_limits, tmp_path, "--max_depth=40", "--examples=5")
    picture = pictures["kernel_limits.png"]
    picture.assert_readable()
    for column, phase in enumerate(phases.FACTORS):
        _, limit = of_phase(phase)
        rows = table(tmp_path / "metrics.csv", phase=phase, correlation=0.9)
        layers = [row["layer"] for row in rows]
        away = [abs(row["nngp"] / limit.q_star - limit.c_star) for row in rows]
        assert_drawn(picture.panels[3 + column].line("0.9"), layers, away)
        images = table(tmp_path / "images.csv", phase=phase)
        # The rate chi_q: the last two layers that differ from q* by more than rounding.
        last = [row for row in images if row["q_largest"] > 1e-9][-2:]
        steps = last[1]["layer"] - last[0]["layer"]
        rate = (last[1]["q_largest"] / last[0]["q_largest"]) ** (1 / steps)
        assert rate == pytest.approx(images[0]["chi_q"], rel=1e-3)
