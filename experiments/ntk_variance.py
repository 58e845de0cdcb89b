"""Variance of the tangent kernel at initialization: Figures 1, 2 and 7 of the finite-width paper.

    python -m experiments.ntk_variance --activations=tanh,relu --width=50

The heat maps show E[Theta^2] / E[Theta]^2 over 200 networks by weight variance and depth, with the
critical line; the curves show it by depth over width; the last panel compares relu at (2, 0) with
the law of Hanin and Nica.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags, logging
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from experiments import binary, common, maps, ranges
from experiments.curves import Rows, column, curves_of
from mfcnn import activations, empirical, meanfield

FLAGS = flags.FLAGS

_CURVES = ((1.0, 1.0), (1.5, 1.0), (2.0, 0.0), (3.0, 1.0))
# A narrow network reaches the exponential regime in few layers, and many fit in a batch.
_LAW_WIDTH, _LAW_DEPTH = 32, 12

# The settings of the presets.
_QUICK = {
    "width": 50,
    "depth": 40,
    "initializations": 200,
    "grid": 12,
    "curve_widths": ["25", "50"],
    "law_networks": 20_000,
}
_PAPER = {
    "depth": 100,
    "grid": 40,
    "curve_widths": ["50", "100", "200", "500"],
    "law_networks": 50_000,
}


def measure_point(
    activation: str, width: int, depth: int, variances: tuple[float, float], count: int, seed: int
) -> tuple[empirical.NTKMoments, Rows]:
    """The moments over `count` networks at one (sigma_w^2, sigma_b^2), and their rows by depth."""
    moments = empirical.ntk_moments(activation, width, depth, *variances, count, seed=seed)
    return moments, [
        {
            "activation": activation,
            "width": width,
            "depth": layer,
            "weight_variance": variances[0],
            "bias_variance": variances[1],
            "initializations": count,
            "ratio": ratio,
        }
        for layer, ratio in zip(moments.depth, moments.ratio)
    ]


def measure_maps(settings: Mapping[str, Any]) -> Rows:
    """Figures 1 and 7: rows on a grid of weight variances about the critical one, and depths."""
    rows = []
    for activation in settings["activations"]:
        for bias_variance in map(float, settings["bias_variances"]):
            critical = maps.critical_weight_variance(activation, bias_variance)
            logging.info("%s: critical weight variance %.3f", activation, critical)
            for w in np.linspace(0.4 * critical, 1.8 * critical, settings["grid"]):
                sizes = settings["width"], settings["depth"]
                count, seed = settings["initializations"], settings["seed"]
                rows += measure_point(activation, *sizes, (w, bias_variance), count, seed)[1]
    return rows


def measure_curves(settings: Mapping[str, Any]) -> Rows:
    """Figure 2: rows of relu networks of several widths, at the points of `_CURVES`."""
    count, seed = settings["initializations"], settings["seed"]
    return [
        row
        for variances in _CURVES
        for width in map(int, settings["curve_widths"])
        for row in measure_point("relu", width, settings["depth"], variances, count, seed)[1]
    ]


def draw_maps(rows: Rows) -> Figure:
    """A panel for each (activation, bias variance): Figures 1 and 7."""
    panels = curves_of(rows, "activation", "bias_variance")
    columns, lines = list(dict.fromkeys(a for a, _ in panels)), sorted({b for _, b in panels})
    figure, axes = common.subplots(
        len(lines),
        len(columns),
        figsize=(4.8 * len(columns), 3.6 * len(lines)),
        squeeze=False,
    )
    for (activation, bias_variance), mine in panels.items():
        axis = axes[lines.index(bias_variance), columns.index(activation)]
        shown = axis.pcolormesh(
            *maps.table(mine, "ratio"), norm=LogNorm(1, 10), cmap="magma", rasterized=True
        )
        critical = maps.critical_weight_variance(activation, bias_variance)
        axis.axvline(critical, color="w", ls="--")
        axis.set(
            xlabel="weight variance $\\sigma_w^2$",
            ylabel="hidden layers",
            title=f"{activation}, width {mine[0]['width']}, $\\sigma_b^2$ = {bias_variance:g}",
        )
        axis.grid(False)
        figure.colorbar(shown, ax=axis, label="E[Theta^2] / E[Theta]^2", extend="max")
    return figure


def draw_curves(rows: Rows, law: empirical.NTKMoments) -> Figure:
    """Figure 2 by depth / width, beside the law at (2, 0)."""
    figure, (left, right) = common.subplots(1, 2, figsize=(10, 3.8))
    styles = dict(zip(sorted({row["width"] for row in rows}), ("-", "--", ":", "-.")))
    curves = curves_of(rows, "weight_variance", "bias_variance", "width")
    for (*variances, width), curve in curves.items():
        left.plot(
            column(curve, "depth") / width,
            column(curve, "ratio"),
            styles[width],
            color=f"C{_CURVES.index(tuple(variances))}",
            label=f"({variances[0]:g}, {variances[1]:g}), width {width}",
        )
    _draw_law(right, law)
    for axis in (left, right):
        axis.set(yscale="log", xlabel="depth / width", ylabel="E[Theta^2] / E[Theta]^2")
        axis.legend(fontsize=7)
    return figure


def _draw_law(axis: Axes, moments: empirical.NTKMoments) -> None:
    x = moments.depth / _LAW_WIDTH
    axis.errorbar(x, moments.ratio, 2 * moments.ratio_error, fmt=".", label="measured")
    law = meanfield.relu_critical_ratio(moments.depth, _LAW_WIDTH)
    axis.plot(x, law, "k-", label="law, exponent 5")
    exponent, error = empirical.fitted_exponent(moments, _LAW_WIDTH)
    axis.set_title(
        f"relu at (2, 0), width {_LAW_WIDTH}: exponent {exponent:.2f} $\\pm$ {error:.2f}"
    )


def define_flags() -> None:
    """Defines the flags of this binary."""
    common.define_flags("ntk_variance")
    common.define_names(
        "activations",
        ["tanh", "relu"],
        "Names of activations, a heat map for each.",
        activations.NAMES,
    )
    common.define_numbers(
        "bias_variances",
        ["1"],
        "Values of sigma_b^2, a row of heat maps for each.",
        **ranges.VARIANCE,
    )
    common.define_override("width", "Units of each layer in the heat maps.", lower_bound=1)
    common.define_override("depth", "Largest number of hidden layers.", lower_bound=2)
    common.define_override("initializations", "Networks for each point.", lower_bound=2)
    common.define_override("grid", "Number of weight variances.", lower_bound=2)
    common.define_override(
        "curve_widths", "Widths of the curves.", common.define_numbers, integers=True, lower_bound=1
    )
    common.define_override("law_networks", "Networks for the fit at (2, 0).", lower_bound=100)


def main(_: list[str]) -> None:
    """Computes, writes and draws all three figures."""
    settings = common.settings(_QUICK, _PAPER, ("activations", "bias_variances"))
    directory = common.prepare_output_dir(settings)
    in_maps, in_curves = measure_maps(settings), measure_curves(settings)
    sizes, seed = (_LAW_WIDTH, _LAW_DEPTH), settings["seed"] + 1
    law, in_law = measure_point("relu", *sizes, (2.0, 0.0), settings["law_networks"], seed)
    exponent, error = empirical.fitted_exponent(law, _LAW_WIDTH)
    print(f"relu at (2, 0): exponent {exponent:.2f} +- {error:.2f}, Hanin and Nica: 5")
    common.write_csv(directory / "metrics.csv", in_maps + in_curves + in_law)
    common.save_figure(draw_maps(in_maps), directory / "heat_map.png")
    common.save_figure(draw_curves(in_curves, law), directory / "curves.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
