"""The heat maps' data and files."""

import numpy as np

from experiments import ntk_variance
from tests.experiments.running import run


def test_the_ratio_is_near_1_below_the_critical_line_and_grows_above():
    variances, ratios, critical = ntk_variance.heat_map("relu", 50, 20, 1.0, 3, 100, 0)
    assert critical == 2
    assert variances[0] < critical < variances[-1]
    assert np.all(ratios[0] < 1.3)
    assert ratios[-1, -1] > 2


def test_the_binary_writes_its_files(tmp_path):
    run(
        ntk_variance, tmp_path, "--width=8", "--depth=6", "--initializations=20", "--grid=3",
        "--curve_widths=8", "--law_networks=200",
    )  # fmt: skip
    for name in ("heat_map.png", "curves.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    # Two heat maps of 3 x 6, four curves of 6, the law's 12 depths, and the heading.
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 36 + 24 + 12 + 1
