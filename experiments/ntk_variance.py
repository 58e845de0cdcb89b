"""Variance of the tangent kernel at initialization: Figures 1, 2 and 7 of the finite-width paper.

    python -m experiments.ntk_variance --widths=50,500

The heat maps show E[Theta^2] / E[Theta]^2 over 200 networks by weight variance and depth, with the
critical line, for several widths and for several bias variances; each column has draws of its own.
The curves show it by depth and by depth over width, with the law of Hanin and Nica for relu at
(2, 0), which the last panel tests with many networks. A few networks do not show a large ratio:
beyond the dotted line its mean is that of a tail in which none of them is.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags, logging
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from scipy import stats

from experiments import binary, common, maps, ranges
from experiments.curves import Rows, column, curves_of
from mfcnn import activations, empirical, meanfield

FLAGS = flags.FLAGS

_CURVES = ((1.0, 1.0), (1.5, 1.0), (2.0, 0.0), (3.0, 1.0))
_LAW = (2.0, 0.0)  # relu's curve that Hanin and Nica's law is about
# A narrow network reaches the exponential regime in few layers, and many fit in a batch.
_LAW_WIDTH, _LAW_DEPTH = 32, 12

# The settings of the presets. The paper does not print the bias variances of its Figure 7.
_QUICK = {
    "widths": ["50", "100", "200", "500"],
    "depth": 40,
    "depth_count": 10,
    "initializations": 200,
    "grid": 10,
    "bias_variance": 1.0,
    "bias_variances": ["0.05", "0.5", "4"],
    "bias_width": 100,
    "curve_widths": ["50", "100", "200", "500"],
    "curve_depth": 100,
    "law_networks": 20_000,
}
_PAPER = {
    "depth": 100,
    "depth_count": 50,
    "grid": 40,
    "law_networks": 50_000,
}


def measure_point(
    activation: str,
    width: int,
    depths: np.ndarray | int,
    variances: tuple[float, float],
    count: int,
    seed: int,
) -> tuple[empirical.NTKMoments, Rows]:
    """The moments over `count` networks at one (sigma_w^2, sigma_b^2), and their rows by depth."""
    moments = empirical.ntk_moments(activation, width, depths, *variances, count, seed=seed)
    return moments, [
        {
            "activation": activation,
            "width": width,
            "depth": int(layer),
            "weight_variance": variances[0],
            "bias_variance": variances[1],
            "initializations": count,
            "ratio": ratio,
            "ratio_error": error,
        }
        for layer, ratio, error in zip(moments.depth, moments.ratio, moments.ratio_error)
    ]


def resolved_ratio(count: int) -> float:
    """The largest ratio that so many draws show, of a kernel that is about log-normal.

    With s^2 the variance of log Theta the ratio is exp(s^2), and E[Theta^2] is made of draws 2 s
    standard deviations above the mean of log Theta: one of `count` is expected there as long as
    2 s < z with P(Z > z) = 1 / count.

    Example:
        >>> round(resolved_ratio(200), 2)
        5.25
    """
    return float(np.exp((stats.norm.isf(1 / count) / 2) ** 2))


def depths_of(most: int, count: int) -> np.ndarray:
    """Some depths up to the largest, equally far apart."""
    return np.unique(np.round(np.linspace(1, most, count)).astype(int))


def seed_of(seed: int, *indices: int) -> int:
    """A seed for each column and curve: what they share they would show as bands."""
    return int(np.random.SeedSequence([seed, *indices]).generate_state(1)[0] >> 1)


def measure_maps(settings: Mapping[str, Any]) -> Rows:
    """Figures 1 and 7: rows on a grid of weight variances about the critical one, and depths."""
    biases = [(settings["bias_width"], b) for b in map(float, settings["bias_variances"])]
    maps_ = [(int(w), settings["bias_variance"]) for w in settings["widths"]] + biases
    rows, count = [], settings["initializations"]
    depths = depths_of(settings["depth"], settings["depth_count"])
    for number, (activation, (width, bias_variance)) in enumerate(
        itertools.product(settings["activations"], maps_)
    ):
        critical = maps.critical_weight_variance(activation, bias_variance)
        logging.info("%s: critical weight variance %.3f", activation, critical)
        for column_, w in enumerate(np.linspace(0.4, 1.8, settings["grid"]) * critical):
            seed = seed_of(settings["seed"], 0, number, column_)
            variances = float(w), bias_variance
            rows += measure_point(activation, width, depths, variances, count, seed)[1]
    return rows


def measure_curves(settings: Mapping[str, Any]) -> Rows:
    """Figure 2: rows of relu networks of several widths, at the points of `_CURVES`."""
    depths = depths_of(settings["curve_depth"], 2 * settings["depth_count"])
    count, widths = settings["initializations"], map(int, settings["curve_widths"])
    return [
        row
        for number, (width, variances) in enumerate(itertools.product(widths, _CURVES))
        for row in measure_point(
            "relu", width, depths, variances, count, seed_of(settings["seed"], 1, number)
        )[1]
    ]


def draw_maps(rows: Rows, across: str) -> Figure:
    """A line of panels for each activation, by width or by bias variance: Figures 1 and 7."""
    panels = curves_of(rows, "activation", across)
    lines, columns = (sorted({key[i] for key in panels}) for i in (0, 1))
    figure, axes = common.subplots(
        len(lines),
        len(columns),
        figsize=(3.2 * len(columns) + 0.8, 3.1 * len(lines)),
        squeeze=False,
    )
    for (activation, value), mine in panels.items():
        axis = axes[lines.index(activation), columns.index(value)]
        shown = axis.pcolormesh(
            *maps.table(mine, "ratio"), norm=LogNorm(1, 10), cmap="magma", rasterized=True
        )
        bias_variance = mine[0]["bias_variance"]
        critical = maps.critical_weight_variance(activation, bias_variance)
        axis.axvline(critical, color="w", ls="--")
        axis.set(
            xlabel="weight variance $\\sigma_w^2$",
            title=f"{activation}, width {mine[0]['width']}, $\\sigma_b^2$ = {bias_variance:g}",
        )
        axis.grid(False)
    for line in axes:
        line[0].set_ylabel("hidden layers")
        figure.colorbar(shown, ax=line[-1], label="E[Theta^2] / E[Theta]^2", extend="max")
    return figure


def draw_curves(rows: Rows, law: empirical.NTKMoments) -> Figure:
    """Figure 2 by depth and by depth / width with the law at (2, 0), and a test of the law."""
    figure, axes = common.subplots(1, 3, figsize=(14, 4.6))
    styles = dict(zip(sorted({row["width"] for row in rows}), ("-", "--", ":", "-.")))
    curves = curves_of(rows, "weight_variance", "bias_variance", "width")
    limit = resolved_ratio(rows[0]["initializations"])
    for axis, by_width in zip(axes, (False, True)):
        for (*variances, width), curve in curves.items():
            x = column(curve, "depth") / (width if by_width else 1)
            color = f"C{_CURVES.index(tuple(variances))}"
            label = f"({variances[0]:g}, {variances[1]:g}), width {width}"
            axis.plot(x, column(curve, "ratio"), styles[width], color=color, label=label)
            if tuple(variances) == _LAW:
                values = meanfield.relu_critical_ratio(column(curve, "depth"), width)
                axis.plot(x, values, styles[width], color="k", lw=0.8)
        axis.axhline(limit, color="gray", ls=":", label=f"limit of {rows[0]['initializations']}")
        axis.set(ylim=(0.9, 200), xlabel="depth / width" if by_width else "hidden layers")
    axes[0].set_title("relu; black: the law at (2, 0)")
    _draw_law(axes[2], law)
    for axis in axes:
        axis.set(yscale="log", ylabel="E[Theta^2] / E[Theta]^2")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=7, ncols=6)
    axes[2].legend()
    return figure


def _draw_law(axis: Axes, moments: empirical.NTKMoments) -> None:
    x = moments.depth / _LAW_WIDTH
    axis.errorbar(x, moments.ratio, 2 * moments.ratio_error, fmt=".", label="measured")
    law = meanfield.relu_critical_ratio(moments.depth, _LAW_WIDTH)
    axis.plot(x, law, "k-", label="law, exponent 5")
    exponent, error = empirical.fitted_exponent(moments, _LAW_WIDTH)
    axis.set(xlabel="depth / width")
    axis.set_title(
        f"relu at (2, 0), width {_LAW_WIDTH}: exponent {exponent:.2f} $\\pm$ {error:.2f}"
    )


def define_flags() -> None:
    """Defines the flags of this binary."""
    common.define_flags("ntk_variance")
    common.define_names(
        "activations",
        ["tanh", "relu"],
        "Names of activations, a line of heat maps for each.",
        activations.NAMES,
    )
    override, numbers = common.define_override, common.define_numbers
    override(
        "bias_variance",
        "sigma_b^2 of the heat maps by width.",
        flags.DEFINE_float,
        **ranges.VARIANCE,
    )
    override("bias_variances", "sigma_b^2 of the others.", numbers, **ranges.VARIANCE)
    override("bias_width", "The width of the others.", lower_bound=1)
    override("widths", "Units of each layer.", numbers, integers=True, lower_bound=1)
    override("depth", "Largest number of hidden layers in the heat maps.", lower_bound=2)
    override("depth_count", "Rows of a heat map; curves have twice as many.", lower_bound=2)
    override("initializations", "Networks for each point.", lower_bound=2)
    override("grid", "Number of weight variances.", lower_bound=2)
    override("curve_widths", "Widths of the curves.", numbers, integers=True, lower_bound=1)
    override("curve_depth", "Largest number of hidden layers in the curves.", lower_bound=2)
    override("law_networks", "Networks for the fit at (2, 0).", lower_bound=100)


def main(_: list[str]) -> None:
    """Computes, writes and draws all three figures."""
    settings = common.settings(_QUICK, _PAPER, ("activations",))
    directory = common.prepare_output_dir(settings)
    in_maps, in_curves = measure_maps(settings), measure_curves(settings)
    count, seed = settings["law_networks"], seed_of(settings["seed"], 2)
    law, in_law = measure_point("relu", _LAW_WIDTH, _LAW_DEPTH, _LAW, count, seed)
    exponent, error = empirical.fitted_exponent(law, _LAW_WIDTH)
    print(f"relu at (2, 0): exponent {exponent:.2f} +- {error:.2f}, Hanin and Nica: 5")
    common.write_csv(directory / "metrics.csv", in_maps + in_curves + in_law)
    by_width = [row for row in in_maps if row["bias_variance"] == settings["bias_variance"]]
    by_bias = [row for row in in_maps if row["width"] == settings["bias_width"]]
    common.save_figure(draw_maps(by_width, "width"), directory / "heat_map.png")
    common.save_figure(draw_maps(by_bias, "bias_variance"), directory / "bias_map.png")
    common.save_figure(draw_curves(in_curves, law), directory / "curves.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
