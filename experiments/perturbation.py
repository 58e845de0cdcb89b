"""How far the wide kernel of real data is from one mean covariance: eps of the finite-width paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.perturbation --dataset=mnist

The paper writes Theta(X) = mean Theta (1 + eps(X)), where mean Theta has kappa_1 on the diagonal
and the mean of kappa_2 elsewhere, and leaves eps out of Theorem 5.3. Shown over depth, in the three
phases: the spread of kappa_2 over its mean, which the paper finds small; the operator norm of
eps = (mean Theta)^-1 Theta - 1; and the theorem's variance of trained outputs on new inputs over
the exact one of the same wide networks.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from experiments import binary, common, phases
from experiments.curves import Rows, column, curves_of
from mfcnn import data, meanfield

FLAGS = flags.FLAGS

# The settings of the presets. The paper has no figure of it.
_QUICK = {"dataset": "digits", "examples": 30, "max_depth": 30}
_PAPER = {"dataset": "mnist", "examples": 128, "max_depth": 100}
_COLUMNS = {
    "spread": "standard deviation of $\\kappa_2$ over its mean",
    "norm": "operator norm of $\\epsilon$",
    "theorem": "variance by theorem 5.3 over the exact one",
}


def load(settings: Mapping[str, Any]) -> np.ndarray:
    """Covariances [2 n, 2 n] of training and test images of norm 1."""
    count = settings["examples"]
    images = [
        data.load_arrays(settings["dataset"], split, count, settings["seed"])[0]
        for split in ("train", "test")
    ]
    x = np.concatenate(images).reshape(2 * count, -1).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.clip(x @ x.T, -1, 1)


def compared(theta: np.ndarray, nngp: np.ndarray) -> dict[str, float]:
    """The quantities of `_COLUMNS` for kernels of n training and n test inputs.

    Args:
        theta: [2 n, 2 n] of equal diagonal entries, training inputs first.
        nngp: likewise.

    Returns:
        dict by name.
    """
    n = len(theta) // 2
    outside = ~np.eye(2 * n, dtype=bool)
    off = theta[outside]
    mean = np.full_like(theta, off.mean())
    np.fill_diagonal(mean, theta[0, 0])
    difference = np.linalg.solve(mean[:n, :n], theta[:n, :n] - mean[:n, :n])
    smoother = np.linalg.solve(theta[:n, :n], theta[:n, n:]).T
    rows = np.concatenate([-smoother, np.eye(n)], axis=1)
    exact = np.mean(np.sum(rows @ nngp * rows, axis=1))
    ntk_form = float(theta[0, 0]), float(off.mean())
    nngp_form = float(nngp[0, 0]), float(nngp[outside].mean())
    return {
        "spread": float(off.std() / off.mean()),
        "norm": float(np.linalg.norm(difference, 2)),
        "theorem": meanfield.trained_output_variance(*ntk_form, *nngp_form, n) / float(exact),
    }


def measure(settings: Mapping[str, Any]) -> Rows:
    """Rows of activation, phase and depth."""
    covariances = load(settings)
    depths = np.unique(np.round(np.geomspace(1, settings["max_depth"], 6)).astype(int))
    rows, pairs = [], np.triu_indices(len(covariances), 1)
    for (activation, phase), variances in phases.finite_width_starts().items():
        for depth in map(int, depths):
            form = meanfield.mean_field_ntk(activation, depth, *variances, covariances[pairs])
            theta, nngp = (one * np.eye(len(covariances)) for one in (form.kappa_1, form.q))
            theta[pairs] = theta.T[pairs] = form.kappa_2
            nngp[pairs] = nngp.T[pairs] = form.q_sr
            place = {"activation": activation, "phase": phase, "depth": depth}
            rows.append(place | compared(theta, nngp))
    return rows


def draw(rows: Rows) -> Figure:
    """A panel for each quantity."""
    figure, axes = common.subplots(1, 3, figsize=(11, 3.6))
    for (activation, phase), mine in curves_of(rows, "activation", "phase").items():
        look = {
            "color": f"C{('ordered', 'border', 'chaotic').index(phase)}",
            "ls": "-" if activation == "erf" else "--",
            "label": f"{activation}, {phase}",
        }
        for axis, name in zip(axes, _COLUMNS):
            axis.loglog(column(mine, "depth"), column(mine, name), **look)
    for axis, title in zip(axes, _COLUMNS.values()):
        axis.set(xlabel="hidden layers")
        axis.set_title(title, fontsize=10)
    axes[0].legend(fontsize=7)
    return figure


def define_flags() -> None:
    """Defines the flags of this binary."""
    common.define_flags("perturbation")
    common.define_override("dataset", "Data set.", flags.DEFINE_enum, enum_values=data.NAMES)
    common.define_override("examples", "Training examples, and as many test ones.", lower_bound=2)
    common.define_override("max_depth", "Largest number of hidden layers.", lower_bound=2)


def main(_: list[str]) -> None:
    """Computes all curves, writes metrics.csv and perturbation.png."""
    settings = common.settings(_QUICK, _PAPER)
    directory = common.prepare_output_dir(settings)
    rows = measure(settings)
    common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(draw(rows), directory / "perturbation.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
