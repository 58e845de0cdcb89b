"""How far the wide kernel of real data is from one mean covariance: eps of the finite-width paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.perturbation --dataset=mnist

The paper writes Theta(X) = mean Theta (1 + eps(X)), where mean Theta has kappa_1 on the diagonal
and the mean of kappa_2 elsewhere, and leaves eps out of Theorem 5.3. Shown over depth, in the three
phases: the spread of kappa_2 over its mean, which the paper finds small; the operator norm of
eps = (mean Theta)^-1 Theta - 1; and how far the predictions of the two kernels on new inputs are
apart, relative to those of Theta.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from experiments import binary, common, kappa
from experiments.curves import Rows, column, curves_of
from mfcnn import data, meanfield

FLAGS = flags.FLAGS

# The settings of the presets. The paper has no figure of it.
_QUICK = {"dataset": "digits", "examples": 50, "max_depth": 30}
_PAPER = {"dataset": "mnist", "examples": 128, "max_depth": 100}
_COLUMNS = {
    "spread": "standard deviation of $\\kappa_2$ over its mean",
    "norm": "operator norm of $\\epsilon$",
    "predictions": "change of the predictions",
}


def load(settings: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Covariances [2 n, 2 n] of training and test images of norm 1, and targets [n] of +-1."""
    count, parts = settings["examples"], []
    for split in ("train", "test"):
        images, labels = data.load_arrays(settings["dataset"], split, count, settings["seed"])
        parts.append((images.reshape(count, -1).astype(np.float64), labels))
    x = np.concatenate([images for images, _ in parts])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.clip(x @ x.T, -1, 1), np.where(parts[0][1] % 2, 1.0, -1.0)


def compared(theta: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """The quantities of `_COLUMNS` for a kernel of training and test inputs.

    Args:
        theta: [2 n, 2 n] of equal diagonal entries, training inputs first.
        targets: of the training inputs [n].

    Returns:
        dict by name.
    """
    n = len(targets)
    off = theta[~np.eye(2 * n, dtype=bool)]
    mean = np.full_like(theta, off.mean())
    np.fill_diagonal(mean, theta[0, 0])
    difference = np.linalg.solve(mean[:n, :n], theta[:n, :n] - mean[:n, :n])
    real, ideal = (k[n:, :n] @ np.linalg.solve(k[:n, :n], targets) for k in (theta, mean))
    return {
        "spread": float(off.std() / off.mean()),
        "norm": float(np.linalg.norm(difference, 2)),
        "predictions": float(np.linalg.norm(real - ideal) / np.linalg.norm(real)),
    }


def measure(settings: Mapping[str, Any]) -> Rows:
    """Rows of activation, phase and depth."""
    covariances, targets = load(settings)
    depths = np.unique(np.round(np.geomspace(1, settings["max_depth"], 8)).astype(int))
    rows = []
    for (activation, phase), variances in kappa.starts().items():
        for depth in map(int, depths):
            form = meanfield.mean_field_ntk(activation, depth, *variances, covariances)
            theta = np.array(form.kappa_2)
            np.fill_diagonal(theta, form.kappa_1)
            place = {"activation": activation, "phase": phase, "depth": depth}
            rows.append(place | compared(theta, targets))
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
