"""Variance of the tangent kernel at initialization: Figures 1, 2 and 7 of the finite-width paper.

    python -m experiments.ntk_variance --activations=tanh,relu --width=50

The heat maps show E[Theta^2] / E[Theta]^2 over 200 networks by weight variance and depth, with the
critical line; the curves show it by depth over width; the last panel compares relu at (2, 0) with
the law of Hanin and Nica.
"""

from typing import Any

import numpy as np
from absl import flags, logging
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from experiments import binary, common
from mfcnn import activations, empirical, meanfield

FLAGS = flags.FLAGS


_CURVES = ((1.0, 1.0), (1.5, 1.0), (2.0, 0.0), (3.0, 1.0))


def heat_map(
    activation: str,
    width: int,
    depth: int,
    bias_variance: float,
    grid: int,
    initializations: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Ratios on a grid.

    Returns:
      (weight variances [grid], ratios [grid, depth], the critical weight variance).
    """
    homogeneity = activations.get(activation).homogeneity
    if homogeneity is None:
        critical = meanfield.critical_weight_variance(activation, bias_variance)
    else:  # chi_1 = 1 at any bias variance, though with biases the variance q has no fixed point
        critical = 1 / homogeneity
    variances = np.linspace(0.4 * critical, 1.8 * critical, grid)
    ratios = [
        empirical.ntk_moments(
            activation, width, depth, w, bias_variance, initializations, seed=seed
        ).ratio
        for w in variances
    ]
    return variances, np.array(ratios), critical


def draw_heat_maps(maps: dict[tuple[str, float], Any], width: int) -> Figure:
    """A panel for each (activation, bias variance): Figures 1 and 7."""
    rows = sorted({b for _, b in maps})
    columns = list(dict.fromkeys(a for a, _ in maps))
    figure, axes = common.subplots(
        len(rows),
        len(columns),
        figsize=(4.8 * len(columns), 3.6 * len(rows)),
        squeeze=False,
    )
    for (activation, bias_variance), (variances, ratios, critical) in maps.items():
        axis = axes[rows.index(bias_variance), columns.index(activation)]
        depth = np.arange(1, ratios.shape[1] + 1)
        shown = axis.pcolormesh(
            variances, depth, ratios.T, norm=LogNorm(1, 10), cmap="magma", rasterized=True
        )
        axis.axvline(critical, color="w", ls="--")
        axis.set(
            xlabel="weight variance $\\sigma_w^2$",
            ylabel="hidden layers",
            title=f"{activation}, width {width}, $\\sigma_b^2$ = {bias_variance:g}",
        )
        axis.grid(False)
        figure.colorbar(shown, ax=axis, label="E[Theta^2] / E[Theta]^2", extend="max")
    return figure


def draw_curves(curves: dict[tuple[tuple[float, float], int], Any], law: tuple[Any, ...]) -> Figure:
    """Figure 2 by depth / width, beside the law at (2, 0)."""
    figure, axes = common.subplots(1, 2, figsize=(10, 3.8))
    styles = dict(zip(sorted({width for _, width in curves}), ("-", "--", ":", "-.")))
    for (point, width), moments in curves.items():
        axes[0].plot(
            moments.depth / width,
            moments.ratio,
            styles[width],
            color=f"C{_CURVES.index(point)}",
            label=f"({point[0]:g}, {point[1]:g}), width {width}",
        )
    moments, width, exponent, error = law
    axes[1].errorbar(
        moments.depth / width, moments.ratio, 2 * moments.ratio_error, fmt=".", label="measured"
    )
    axes[1].plot(
        moments.depth / width,
        empirical.relu_critical_ratio(moments.depth, width),
        "k-",
        label="law, exponent 5",
    )
    axes[1].set_title(f"relu at (2, 0), width {width}: exponent {exponent:.2f} $\\pm$ {error:.2f}")
    for axis in axes:
        axis.set(yscale="log", xlabel="depth / width", ylabel="E[Theta^2] / E[Theta]^2")
        axis.legend(fontsize=7)
    return figure


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
        lower_bound=0,
    )
    common.define_override("width", "Units of each layer in the heat maps.", lower_bound=1)
    common.define_override("depth", "Largest number of hidden layers.", lower_bound=2)
    common.define_override("initializations", "Networks for each point.", lower_bound=2)
    common.define_override("grid", "Number of weight variances.", lower_bound=2)
    common.define_override(
        "curve_widths", "Widths of the curves.", common.define_numbers, integers=True, lower_bound=1
    )
    common.define_override("law_networks", "Networks for the fit at (2, 0).", lower_bound=100)


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


def main(_: list[str]) -> None:
    """Computes, writes and draws all three figures."""
    settings = common.settings(quick=_QUICK, paper=_PAPER)
    settings |= {"activations": FLAGS.activations, "bias_variances": FLAGS.bias_variances}
    for name in FLAGS.activations:
        activations.get(name)
    directory = common.prepare_output_dir(settings)
    width, depth, seed = settings["width"], settings["depth"], FLAGS.seed
    rows, maps = [], {}
    for activation in FLAGS.activations:
        for b in map(float, FLAGS.bias_variances):
            maps[activation, b] = heat_map(
                activation, width, depth, b, settings["grid"], settings["initializations"], seed
            )
            logging.info("%s: critical weight variance %.3f", activation, maps[activation, b][2])
            for w, ratios in zip(*maps[activation, b][:2]):
                for layer, ratio in enumerate(ratios, 1):
                    rows.append(
                        (activation, width, layer, w, b, settings["initializations"], ratio)
                    )
    curves = {}
    for point in _CURVES:
        for curve_width in map(int, settings["curve_widths"]):
            moments = empirical.ntk_moments(
                "relu", curve_width, depth, *point, settings["initializations"], seed=seed
            )
            curves[point, curve_width] = moments
            for layer, ratio in zip(moments.depth, moments.ratio):
                rows.append(
                    ("relu", curve_width, layer, *point, settings["initializations"], ratio)
                )
    # A narrow network reaches the exponential regime in few layers, and many fit in a batch.
    law_width = 32
    moments = empirical.ntk_moments(
        "relu", law_width, 12, 2.0, 0.0, settings["law_networks"], seed=seed + 1
    )
    exponent, error = empirical.fitted_exponent(moments, law_width)
    for layer, ratio in zip(moments.depth, moments.ratio):
        rows.append(("relu", law_width, layer, 2.0, 0.0, settings["law_networks"], ratio))
    print(f"relu at (2, 0): exponent {exponent:.2f} +- {error:.2f}, Hanin and Nica: 5")
    names = (
        "activation",
        "width",
        "depth",
        "weight_variance",
        "bias_variance",
        "initializations",
        "ratio",
    )
    common.write_csv(directory / "metrics.csv", (dict(zip(names, row)) for row in rows))
    common.save_figure(draw_heat_maps(maps, width), directory / "heat_map.png")
    common.save_figure(
        draw_curves(curves, (moments, law_width, exponent, error)), directory / "curves.png"
    )


if __name__ == "__main__":
    binary.start(define_flags, main)
