"""The heat maps' data and files."""

import numpy as np
import pytest

from experiments import maps, ntk_variance
from tests.experiments.running import run, table
from tests.tolerances import float64

MAPS = {
    "activations": ["relu"],
    "widths": ["50"],
    "bias_variance": 1.0,
    "bias_variances": [],
    "bias_width": 50,
    "depth": 20,
    "depth_count": 5,
    "initializations": 100,
    "seed": 0,
}


def test_the_ratio_is_near_1_below_the_critical_line_and_grows_above():
    rows = ntk_variance.measure_maps(MAPS | {"grid": 3})
    variances, depths, ratios = maps.table(rows, "ratio")
    critical = maps.critical_weight_variance("relu", 1.0)
    assert critical == 2 and depths == [1, 6, 10, 15, 20]
    assert variances[0] < critical < variances[-1]
    assert np.all(ratios[:, 0] < 1.3)
    assert ratios[-1, -1] > 2


def test_columns_have_draws_of_their_own(monkeypatch):
    """At one weight variance they differ by chance only, and no two by nothing."""
    monkeypatch.setattr(np, "linspace", lambda low, high, n, f=np.linspace: f(low, low, n))
    monkeypatch.setattr(ntk_variance, "depths_of", lambda *_: np.array([2]))
    rows = ntk_variance.measure_maps(MAPS | {"grid": 4})
    assert len({row["ratio"] for row in rows}) == len(rows) == 4


@pytest.mark.parametrize("count", [200, 10_000])
def test_draws_show_a_log_normal_ratio_up_to_their_limit(count):
    """The median of 200 samples: within a third of the limit below it, far from ten times it."""
    rng, limit = np.random.default_rng(0), ntk_variance.resolved_ratio(count)
    for ratio, low, high in ((limit, 2 / 3, 1.1), (10 * limit, 0, 0.6)):
        theta = np.exp(rng.normal(size=(200, count)) * np.log(ratio) ** 0.5)
        median = np.median(np.mean(theta**2, 1) / np.mean(theta, 1) ** 2)
        assert low < median / ratio < high


def test_the_binary_writes_its_files(tmp_path, pictures):
    sizes = "--widths=8 --depth=6 --depth_count=6 --initializations=20 --grid=3 --curve_widths=8"
    sizes += " --curve_depth=6 --bias_width=9 --bias_variances=0.1,4"
    run(ntk_variance, tmp_path, *sizes.split(), "--law_networks=200")
    curves = pictures["curves.png"]
    for name in ("heat_map.png", "bias_map.png", "curves.png"):
        pictures[name].assert_readable()
    for name, width, bias_variance in (("heat_map", 8, 1), ("bias_map", 9, 4)):
        for activation in ("tanh", "relu"):
            title = f"{activation}, width {width}, $\\sigma_b^2$ = {bias_variance}"
            chosen = {"activation": activation, "width": width, "bias_variance": bias_variance}
            rows = table(tmp_path / "metrics.csv", **chosen)
            drawn = pictures[f"{name}.png"].panel(title).images[0]
            grid = [row for row in rows if row["weight_variance"] not in (1, 1.5, 3)]
            by_place = sorted(grid, key=lambda r: (r["depth"], r["weight_variance"]))
            ratios = [row["ratio"] for row in by_place]
            np.testing.assert_allclose(drawn.ravel(), ratios, rtol=float64.summed)
    for variances in ((1, 1), (1.5, 1), (2, 0), (3, 1)):
        label = f"({variances[0]:g}, {variances[1]:g}), width 8"
        for panel in curves.panels[:2]:
            assert len(panel.line(label)[0]) == 6
    measured, law = (curves.panel("exponent").lines[i] for i in (0, 1))
    assert law[0] == "law, exponent 5" and np.all(np.abs(np.log(measured[2] / law[2])) < 1)
    # Two activations with three heat maps of 3 x 6, four curves of 6, the law's 12 depths.
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 108 + 24 + 12 + 1
