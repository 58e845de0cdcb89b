"""The largest learning rate that trains: Figure 2 of the NTK paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.learning_rates

Fully connected networks are trained by full-batch gradient descent at rho = eta / eta_theory.
First row: the best accuracy over training, the paper's figure. Second row: the largest training
loss of the first steps over the first loss. Theory, linear in the weights, says that the error
along the largest eigenvector grows from rho = 1 on; there the early loss begins to rise in wide,
shallow networks. A finite network then finds weights of a smaller lambda_max and learns
after all, so that the accuracy breaks later, at 2 and more. Prints both places for each network.
"""

import functools
import pathlib

import numpy as np
from absl import flags
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments import binary, common, dense_networks, ranges, sweep
from experiments.curves import Rows, column
from mfcnn import data

FLAGS = flags.FLAGS

# The settings of the presets.
_QUICK = {
    "dataset": "mnist",
    "resize": 14,
    "activation": "erf",
    "bias_std": 0.43,
    "weight_stds": ["1.0", "1.5", "2.0"],
    "depths": ["3", "10"],
    "width": 256,
    "examples": 128,
    "steps": 50,
    "eval_every": 2,
    "early_steps": 20,
    "checkpoint_every": 60,
    "rhos": "0.25 0.5 0.8 0.9 1 1.1 1.2 1.4 1.6 2 2.5 4".split(),
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
    # The paper's ten, 0.1 to 10, and between them a fine grid around 1.
    "rhos": [
        f"{rho:.3g}"
        for rho in sorted([*np.geomspace(0.1, 10, 10), 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6, 2, 2.5])
    ],
}
_CEILING = 5.0  # of the early loss as drawn: beyond, it overflows before long
_TICKS = [0.1, 0.25, 0.5, 1, 2, 4, 10]
_RISEN = (
    1.01  # of the early loss over the first: rounding and sampling have no part in full batches
)


def measure(
    networks: dense_networks.DenseNetworks, point: sweep.Point, folder: pathlib.Path
) -> Rows:
    """The row of one network at one rate."""
    depth, variance = point["depth"], point["weight_std"] ** 2
    curve = networks.curve(depth, variance, point["rho"], folder)
    first, last, steps = curve[0], curve[-1], networks.settings["steps"]
    early = [r["train_loss"] for r in curve if r["step"] <= networks.settings["early_steps"]]
    finite = [loss for loss in early if np.isfinite(loss)]
    fell = last["step"] == steps and last["train_loss"] <= first["train_loss"]
    return [
        {
            "eta_theory": float(networks.eta_theory(depth, variance)),
            "train_accuracy": max(row["train_accuracy"] for row in curve),
            "test_accuracy": max(row["test_accuracy"] for row in curve),
            "loss_fell": int(fell),
            "early_peak": max(finite) / first["train_loss"]
            if len(finite) == len(early)
            else np.inf,
        }
    ]


def draw(rows: Rows) -> Figure:
    """A column for each depth: best accuracies (dashed: test), under them the early loss."""
    depths, stds = (sorted({row[name] for row in rows}) for name in ("depth", "weight_std"))
    figure, axes = common.subplots(
        2, len(depths), figsize=(1 + 3.6 * len(depths), 6.4), squeeze=False, sharey="row"
    )
    for (top, bottom), depth in zip(axes.T, depths):
        for index, std in enumerate(stds):
            mine = [r for r in rows if r["depth"] == depth and r["weight_std"] == std]
            color = colormaps["coolwarm"](index / max(len(stds) - 1, 1))
            rhos, label = column(mine, "rho"), f"$\\sigma_w$ = {std:g}"
            top.plot(rhos, column(mine, "train_accuracy"), "-", color=color, label=label)
            top.plot(rhos, column(mine, "test_accuracy"), "--", color=color)
            peaks = column(mine, "early_peak").astype(float)
            peaks = np.where(np.isfinite(peaks), np.minimum(peaks, _CEILING), _CEILING)
            bottom.plot(rhos, peaks, "o-", ms=3, color=color, label=label)
        for axis in (top, bottom):
            axis.axvline(1, color="k", lw=0.8)
            axis.set(xscale="log", xlabel="$\\eta / \\eta_{theory}$")
            limits = axis.get_xlim()
            axis.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
            axis.set(xlim=limits)
            axis.minorticks_off()
        top.set(title=f"depth {depth:.0f}")
    axes[0, 0].set_ylabel("best accuracy (dashed: test)")
    axes[1, 0].set_ylabel(f"largest early loss / first loss\n({_CEILING:g}: that or more)")
    axes[0, 0].legend(fontsize=7)
    return figure


def report(rows: Rows) -> None:
    """Prints for each network from which rho its early loss rises, and where training breaks."""
    for depth, std in sorted({(row["depth"], row["weight_std"]) for row in rows}):
        mine = [r for r in rows if (r["depth"], r["weight_std"]) == (depth, std)]
        rises = min((r["rho"] for r in mine if r["early_peak"] > _RISEN), default=np.inf)
        calm = max((r["rho"] for r in mine if r["rho"] < rises), default=0.0)
        first = min((r["rho"] for r in mine if not r["loss_fell"]), default=np.inf)
        last = max((r["rho"] for r in mine if r["rho"] < first), default=0.0)
        print(
            f"depth {depth:.0f}, sigma_w {std:g}: the early loss rises from rho = {rises:.2f} on "
            f"and not at {calm:.2f} (theory: 1); the loss falls in the end up to rho = {last:.2f} "
            f"and not at {first:.2f}"
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
    common.define_override("early_steps", "Steps whose largest loss is shown.", lower_bound=1)
    common.define_override(
        "rhos",
        "Learning rates in units of eta_theory.",
        common.define_numbers,
        above=0.0,
        upper_bound=100.0,
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
        for rho in settings["rhos"]
    ]
    one = functools.partial(measure, networks)
    rows = sweep.run(points, one, directory, cost=lambda point: point["depth"] + 1)
    if rows is not None:
        report(rows)
        common.save_figure(draw(rows), directory / "learning_rates.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
