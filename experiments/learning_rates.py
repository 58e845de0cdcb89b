"""The largest learning rate that trains: Figure 2 of the NTK paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.learning_rates

Fully connected networks are trained by full-batch gradient descent. The figure shows the best
accuracy over training against rho = eta / eta_theory; theory says that it breaks at 1. Prints the
largest rho at which the training loss fell to its end.
"""

import functools
import pathlib

import numpy as np
from absl import flags
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments import binary, common, dense_networks, ranges, sweep
from experiments.curves import Rows
from mfcnn import data

FLAGS = flags.FLAGS

# The settings of the presets.
_QUICK = {
    "dataset": "mnist",
    "resize": 14,
    "activation": "tanh",
    "bias_std": 0.43,
    "weight_stds": ["1.0", "1.5", "2.0"],
    "depths": ["3", "6", "10"],
    "width": 256,
    "examples": 128,
    "steps": 60,
    "eval_every": 5,
    "checkpoint_every": 60,
    "rates": 11,
}
_PAPER = {
    "dataset": "cifar10",
    "resize": None,
    "weight_stds": [f"{s:.2f}" for s in np.linspace(1.0, 2.8, 10)],
    "depths": ["5", "10", "20", "40"],
    "width": 2048,
    "examples": 1000,
    "steps": 300,
    "checkpoint_every": 50,
    "rates": 10,
}


def measure(
    networks: dense_networks.DenseNetworks, point: sweep.Point, folder: pathlib.Path
) -> Rows:
    """The row of one network at one rate."""
    depth, variance = point["depth"], point["weight_std"] ** 2
    curve = networks.curve(depth, variance, point["rho"], folder)
    first, last, steps = curve[0], curve[-1], networks.settings["steps"]
    fell = last["step"] == steps and last["train_loss"] <= first["train_loss"]
    return [
        {
            "eta_theory": float(networks.eta_theory(depth, variance)),
            "train_accuracy": max(row["train_accuracy"] for row in curve),
            "test_accuracy": max(row["test_accuracy"] for row in curve),
            "loss_fell": int(fell),
        }
    ]


def draw(rows: Rows) -> Figure:
    """A panel for each depth: solid for training, dashed for test accuracy."""
    depths, stds = (sorted({row[name] for row in rows}) for name in ("depth", "weight_std"))
    figure, axes = common.subplots(
        1, len(depths), figsize=(1 + 3.6 * len(depths), 3.6), squeeze=False, sharey=True
    )
    for axis, depth in zip(axes[0], depths):
        for index, std in enumerate(stds):
            mine = [r for r in rows if r["depth"] == depth and r["weight_std"] == std]
            color = colormaps["coolwarm"](index / max(len(stds) - 1, 1))
            for split, line in (("train", "-"), ("test", "--")):
                axis.plot(
                    [r["rho"] for r in mine],
                    [r[f"{split}_accuracy"] for r in mine],
                    line,
                    color=color,
                    label=f"$\\sigma_w$ = {std:g}" if split == "train" else None,
                )
        axis.axvline(1, color="k", lw=0.8)
        axis.set(xscale="log", xlabel="$\\eta / \\eta_{theory}$", title=f"depth {depth:.0f}")
    axes[0, 0].set_ylabel("best accuracy (dashed: test)")
    axes[0, 0].legend(fontsize=7)
    return figure


def report(rows: Rows) -> None:
    """Prints the break of each network: the last rho that trains, the first that does not."""
    for depth, std in sorted({(row["depth"], row["weight_std"]) for row in rows}):
        mine = [r for r in rows if (r["depth"], r["weight_std"]) == (depth, std)]
        first = min((r["rho"] for r in mine if not r["loss_fell"]), default=np.inf)
        last = max((r["rho"] for r in mine if r["rho"] < first), default=0.0)
        print(
            f"depth {depth:.0f}, sigma_w {std:g}: the loss falls up to rho = {last:.2f} and not at "
            f"{first:.2f} (theory: 1)"
        )


def define_flags() -> None:
    """Defines the flags of this binary."""
    sweep.define_flags("learning_rates")
    common.define_override("dataset", "Data set.", flags.DEFINE_enum, enum_values=data.NAMES)
    common.define_override("resize", "Side of the images in pixels.", lower_bound=1)
    common.define_override(
        "activation", "Activation.", flags.DEFINE_enum, enum_values=["tanh", "erf", "relu"]
    )
    common.define_override("bias_std", "sigma_b.", flags.DEFINE_float, **ranges.STANDARD_DEVIATION)
    common.define_override(
        "weight_stds",
        "Values of sigma_w.",
        common.define_numbers,
        **ranges.POSITIVE_STANDARD_DEVIATION,
    )
    common.define_override(
        "depths", "Numbers of hidden layers.", common.define_numbers, integers=True, lower_bound=1
    )
    common.define_override("width", "Units of each hidden layer.", lower_bound=1)
    common.define_override("examples", "Training examples.", lower_bound=2)
    common.define_override("steps", "Gradient descent steps.", lower_bound=1)
    common.define_override("eval_every", "Steps between two looks at the accuracy.", lower_bound=1)
    common.define_override("checkpoint_every", "Steps between two checkpoints.", lower_bound=1)
    common.define_override(
        "rates", "Number of multiples of eta_theory, from 0.1 to 10.", lower_bound=2
    )


def main(_: list[str]) -> None:
    """Trains all networks, writes the table, draws the figure, prints where it breaks."""
    settings = common.settings(_QUICK, _PAPER)
    directory = sweep.open_sweep(settings)
    sizes = ("subset", "test_subset", "batch_size", "kernel_size")
    networks = dense_networks.DenseNetworks(
        settings
        | dict.fromkeys(sizes, settings["examples"])
        | {"bias_variance": settings["bias_std"] ** 2}
    )
    points = [
        {"depth": int(depth), "weight_std": float(std), "rho": float(rho)}
        for depth in settings["depths"]
        for std in settings["weight_stds"]
        for rho in np.geomspace(0.1, 10, settings["rates"])
    ]
    one = functools.partial(measure, networks)
    rows = sweep.run(points, one, directory, cost=lambda point: point["depth"] + 1)
    if rows is not None:
        report(rows)
        common.save_figure(draw(rows), directory / "learning_rates.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
