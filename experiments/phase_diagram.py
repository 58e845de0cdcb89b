"""Order, chaos and the critical line over the two variances: figure S1 of the CNN paper.

    python -m experiments.phase_diagram --activation=tanh

The colour is q* along the critical line; beside it the map of the depth scale xi_c.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags, logging
from matplotlib import colors
from matplotlib.figure import Figure

from experiments import binary, common, ranges
from mfcnn import activations, meanfield

FLAGS = flags.FLAGS

# The settings of the presets.
_QUICK = {"grid": 200}
_PAPER = {"grid": 400}


def phase_diagram(
    activation: str, max_weight_variance: float, max_bias_variance: float, grid: int
) -> tuple[np.ndarray, np.ndarray, meanfield.FixedPoint, np.ndarray]:
    """Fixed points on a grid and the critical line.

    Args:
        activation: a name.
        max_weight_variance: the largest sigma_w^2; the grid starts at its first step.
        max_bias_variance: the largest sigma_b^2; the grid starts at 0.
        grid: points in each direction.

    Returns:
        (weight_variances [grid], bias_variances [grid], FixedPoint of arrays [grid, grid], line),
        with line a float64 array [n, 3] of (weight_variance, bias_variance, q_star).
    """
    weights = np.linspace(max_weight_variance / grid, max_weight_variance, grid)
    biases = np.linspace(0.0, max_bias_variance, grid)
    points = meanfield.fixed_points(activation, weights[:, None], biases)
    line = []
    reach = max_weight_variance + max_bias_variance  # no larger q* for a phi bounded by 1
    for q_star in np.concatenate([np.geomspace(1e-6, 0.1, 40), np.linspace(0.11, reach, 600)]):
        try:
            w, b = meanfield.critical_point(activation, q_star)
        except ValueError:  # no critical point with this q*
            continue
        if w <= max_weight_variance and b <= max_bias_variance:
            line.append((w, b, q_star))
    return weights, biases, points, np.array(line).reshape(-1, 3)


def rows_of(
    weights: np.ndarray, biases: np.ndarray, points: meanfield.FixedPoint
) -> Iterator[dict[str, Any]]:
    """The rows of the table, one for each point of the grid."""
    fields = ("phase", "q_star", "c_star", "chi_1", "chi_c", "chi_q", "xi_c")
    for i, j in np.ndindex(np.shape(points.q_star)):
        yield {"weight_variance": weights[i], "bias_variance": biases[j]} | {
            name: getattr(points, name)[i, j] for name in fields
        }


def draw(
    weights: np.ndarray,
    biases: np.ndarray,
    points: meanfield.FixedPoint,
    line: np.ndarray,
    title: str,
) -> Figure:
    """Figure S1 beside the map of xi_c."""
    figure, (left, right) = common.subplots(1, 2, figsize=(10, 4.2))
    phases, chi_1, xi_c = (np.asarray(v) for v in (points.phase, points.chi_1, points.xi_c))
    left.contourf(weights, biases, chi_1.T, levels=[0, 1], colors=["#dfe8f5"])
    left.contourf(weights, biases, chi_1.T, levels=[1, 1e9], colors=["#f8e3dc"])
    if len(line):
        shown = left.scatter(*line[:, :2].T, c=line[:, 2], s=14, cmap="viridis")
        figure.colorbar(shown, ax=left, label="$q^*$ on the critical line")
    for name in ("ordered", "chaotic"):
        inside = np.argwhere(phases == name)
        if len(inside) > 0.03 * phases.size:
            i, j = inside.mean(axis=0).astype(int)
            left.text(weights[i], biases[j], name, ha="center", fontsize=12)
    norm = colors.LogNorm(0.1, 1e4, clip=True)
    shown = right.pcolormesh(weights, biases, xi_c.T, norm=norm, cmap="magma", rasterized=True)
    figure.colorbar(shown, ax=right, label="depth scale $\\xi_c$ [layers]")
    right.grid(False)
    if len(line):
        right.plot(*line[:, :2].T, "w--", label="$\\chi_1 = 1$")
        right.legend(loc="upper left", labelcolor="white", frameon=False)
    for axis in (left, right):
        axis.set(xlabel="weight variance $\\sigma_w^2$", ylabel="bias variance $\\sigma_b^2$")
        axis.set(xlim=(weights[0], weights[-1]), ylim=(biases[0], biases[-1]))
    figure.suptitle(title)
    return figure


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("phase_diagram")
    flags.DEFINE_enum("activation", "tanh", activations.NAMES, "Activation function.")
    flags.DEFINE_float(
        "max_weight_variance",
        6.0,
        "Largest sigma_w^2.",
        lower_bound=0.1,
        upper_bound=ranges.VARIANCE["upper_bound"],
    )
    flags.DEFINE_float(
        "max_bias_variance",
        2.0,
        "Largest sigma_b^2.",
        lower_bound=1e-3,
        upper_bound=ranges.VARIANCE["upper_bound"],
    )
    common.define_override("grid", "Points in each direction.", lower_bound=2)


def main(_: list[str]) -> None:
    """Computes, writes and draws the phase diagram."""
    names = ("activation", "max_weight_variance", "max_bias_variance")
    settings = common.settings(_QUICK, _PAPER, names)
    directory = common.prepare_output_dir(settings)
    weights, biases, points, line = phase_diagram(*(settings[name] for name in (*names, "grid")))
    common.write_csv(directory / "metrics.csv", rows_of(weights, biases, points))
    if len(line):
        columns = ("weight_variance", "bias_variance", "q_star")
        common.write_csv(directory / "critical_line.csv", (dict(zip(columns, row)) for row in line))
    figure = draw(weights, biases, points, line, f"Phase diagram of {settings['activation']}")
    common.save_figure(figure, directory / "phase_diagram.png")
    phases = np.asarray(points.phase)
    counts = {str(name): int(np.sum(phases == name)) for name in np.unique(phases)}
    logging.info("%d points: %s. Written to %s", phases.size, counts, directory)


if __name__ == "__main__":
    binary.start(define_flags, main)
