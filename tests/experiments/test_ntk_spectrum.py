"""The table of the NTK's spectrum: fitted rates beside theory."""

import numpy as np
import pytest

from experiments import ntk_spectrum
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table
from tests.tolerances import float64


def test_fits_find_known_rates():
    layers = np.arange(40.0, 100.0, 5.0)
    np.testing.assert_allclose(
        ntk_spectrum._base(layers, 3 * 0.8**layers), 0.8, rtol=float64.summed
    )
    values = 0.8**layers * (2 + 5 * layers)
    # log(1 + 0.4 / l) is 0.4 / l up to 0.08 / l^2: a change of slope below 2 * 0.08 / 40^3.
    np.testing.assert_allclose(ntk_spectrum._base(layers, values, power=1), 0.8, rtol=3e-6)
    line = ntk_spectrum._slope(layers, 0.3 * layers - 2 * np.log(layers) + 7)
    np.testing.assert_allclose(line, 0.3, rtol=float64.solved)


def test_fitted_rates_are_those_of_theory(tmp_path, pictures):
    run(ntk_spectrum, tmp_path, "--inputs=4", "--architectures=fcn")
    rows = table(tmp_path / "rates.csv")
    assert {row["phase"] for row in rows} == {"ordered", "critical", "chaotic"}
    for row in rows:
        # kappa itself is met within O(log(l) / l), everything else is a rate.
        tolerance = 0.02 if row["quantity"] == "kappa" else 5e-3
        assert row["fitted"] == pytest.approx(row["theory"], rel=tolerance)
    pictures["ntk_spectrum.png"].assert_readable()
    for phase in ("ordered", "critical", "chaotic"):
        rows = table(tmp_path / "metrics.csv", phase=phase, kernel="ntk")
        panel = pictures["ntk_spectrum.png"].panel(f"{phase}: $\\kappa$")
        depths, numbers = ([row[k] for row in rows] for k in ("depth", "condition_number"))
        assert_drawn(panel.line("FCN"), depths, numbers)
    (deepest,) = table(tmp_path / "metrics.csv", kernel="ntk", depth=1024)
    kappa, law = deepest["condition_number"], deepest["condition_number_law"]
    leading = (4 + 2) / 2
    # The amplitude comes from the middle depth, 64 or more, and is off by O(log(64) / 64).
    assert abs(kappa - law) < np.log(64) / 64 * abs(kappa - leading)
