"""kappa_2 and kappa_1 / kappa_2 over depth (finite-width paper, Figures 5 and 6).

    python -m experiments.kappa --output_dir=runs/kappa

kappa_1(x) and kappa_2(x, x') are the NTK's diagonal and off-diagonal entries per unit of width:
kappa = sum over layers of (1/L) q^(l-1) p^l, with q the covariance of the activations below layer l
and p the covariance of the gradients arriving at it
(`mfcnn.meanfield.mean_field_ntk`). The figure shows inputs of unit norm and
covariance x . x' in [0, 1], in the ordered phase, on the border and in the chaotic phase.
Dashed lines are the limits of kappa_1 / kappa_2: 1 in the ordered phase, on the border 3 (erf) and,
since relu's kink slows the off-diagonal down, 4 (relu). Relu's correlations know no chaos: beyond
sigma_w^2 = 2 its q grows, and the ratio goes where it goes on the border.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments import binary, common, phases
from experiments.curves import Rows, column, curves_of
from mfcnn import meanfield

FLAGS = flags.FLAGS
_PHASES = phases.FINITE_WIDTH_PHASES
# Of kappa_1 / kappa_2 at infinite depth.
_LIMITS = {
    ("erf", "ordered"): 1.0,
    ("erf", "border"): 3.0,
    ("relu", "ordered"): 1.0,
    ("relu", "border"): 4.0,
    ("relu", "chaotic"): 4.0,
}

# The settings of the presets. The paper says only in which phase the variances lie: those of
# `phases.finite_width_starts` and the depths are choices.
_QUICK = {"max_depth": 30}
_PAPER = {"max_depth": 100}


def kappas(
    activation: str,
    variances: tuple[float, float],
    depths: np.ndarray | list[int] | range,
    correlations: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """kappa_1 and kappa_2 of networks of equal widths, for inputs of unit norm.

    Args:
        activation: a name.
        variances: (sigma_w^2, sigma_b^2).
        depths: numbers of hidden layers, [n].
        correlations: x . x' of the inputs, [m].

    Returns:
        (kappa_1 [n], kappa_2 [n, m]).
    """
    forms = [
        meanfield.mean_field_ntk(activation, depth, *variances, correlations) for depth in depths
    ]
    return np.array([f.kappa_1 for f in forms]), np.array([f.kappa_2 for f in forms])


def measure(settings: Mapping[str, Any]) -> Rows:
    """Rows of activation, phase, correlation and depth."""
    correlations = np.linspace(0.0, 0.95, 8)
    depths = np.unique(np.round(np.geomspace(1, settings["max_depth"], 16)).astype(int))
    rows = []
    for (activation, phase), variances in phases.finite_width_starts().items():
        kappa_1, kappa_2 = kappas(activation, variances, depths, correlations)
        rows += [
            {
                "activation": activation,
                "phase": phase,
                "correlation": c,
                "depth": int(depth),
                "kappa_1": kappa_1[i],
                "kappa_2": kappa_2[i, k],
            }
            for k, c in enumerate(correlations)
            for i, depth in enumerate(depths)
        ]
    return rows


def draw(rows: Rows) -> Figure:
    """kappa_2 above, kappa_1 / kappa_2 below; a colour for each correlation."""
    figure, axes = common.subplots(4, 3, figsize=(10, 11))
    for (activation, phase), mine in curves_of(rows, "activation", "phase").items():
        line, place = ("erf", "relu").index(activation), _PHASES.index(phase)
        top, bottom = axes[line, place], axes[2 + line, place]
        for (c,), curve in curves_of(mine, "correlation").items():
            depths, kappa_1, kappa_2 = (column(curve, k) for k in ("depth", "kappa_1", "kappa_2"))
            color = colormaps["viridis"](c)
            top.semilogy(depths, kappa_2, color=color)
            bottom.semilogy(depths, kappa_1 / kappa_2, color=color, label=f"{c:.2f}")
        limit = _LIMITS.get((activation, phase))
        if limit:
            bottom.axhline(limit, color="k", lw=0.8, ls="--")
        top.set(title=rf"{activation}, {phase}: $\kappa_2$", ylabel=r"$\kappa_2$", xlabel="depth")
        goal = f", to {limit:g}" if limit else ""
        bottom.set(
            title=rf"{activation}, {phase}: $\kappa_1/\kappa_2${goal}",
            ylabel=r"$\kappa_1/\kappa_2$",
            xlabel="depth",
        )
    axes[2, 0].legend(title=r"$x\cdot x'$", fontsize=6)
    return figure


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("kappa")
    common.define_override("max_depth", "Largest number of hidden layers.", lower_bound=2)


def main(_: list[str]) -> None:
    """Computes all curves, writes metrics.csv and kappa.png."""
    settings = common.settings(_QUICK, _PAPER)
    directory = common.prepare_output_dir(settings)
    rows = measure(settings)
    common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(draw(rows), directory / "kappa.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
