"""The heat maps' data and files."""

import numpy as np

from experiments import maps, ntk_variance
from tests.experiments.running import run, table
from tests.tolerances import float64


def test_the_ratio_is_near_1_below_the_critical_line_and_grows_above():
    settings = {"activations": ["relu"], "bias_variances": ["1"], "width": 50, "depth": 20}
    rows = ntk_variance.measure_maps(settings | {"grid": 3, "initializations": 100, "seed": 0})
    variances, depths, ratios = maps.table(rows, "ratio")
    critical = maps.critical_weight_variance("relu", 1.0)
    assert critical == 2 and depths == list(range(1, 21))
    assert variances[0] < critical < variances[-1]
    assert np.all(ratios[:, 0] < 1.3)
    assert ratios[-1, -1] > 2


def test_the_binary_writes_its_files(tmp_path, pictures):
    sizes = "--width=8 --depth=6 --initializations=20 --grid=3 --curve_widths=8"
    run(ntk_variance, tmp_path, *sizes.split(), "--law_networks=200")
    maps, curves = pictures["heat_map.png"], pictures["curves.png"]
    for picture in (maps, curves):
        picture.assert_readable()
    for activation in ("tanh", "relu"):
        rows = table(tmp_path / "metrics.csv", activation=activation, width=8, bias_variance=1)
        drawn = maps.panel(activation).images[0]
        grid = [row for row in rows if row["weight_variance"] not in (1, 1.5, 3)]
        ratios = [
            row["ratio"] for row in sorted(grid, key=lambda r: (r["depth"], r["weight_variance"]))
        ]
        np.testing.assert_allclose(drawn.ravel(), ratios, rtol=float64.summed)
    for variances in ((1, 1), (1.5, 1), (2, 0), (3, 1)):
        label = f"({variances[0]:g}, {variances[1]:g}), width 8"
        assert len(curves.panels[0].line(label)[0]) == 6
    measured, law = (curves.panel("exponent").lines[i] for i in (0, 1))
    assert law[0] == "law, exponent 5" and np.all(np.abs(np.log(measured[2] / law[2])) < 1)
    # Two heat maps of 3 x 6, four curves of 6, the law's 12 depths, and the heading.
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 36 + 24 + 12 + 1
