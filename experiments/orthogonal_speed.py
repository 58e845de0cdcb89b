"""Orthogonal kernels train sooner than Gaussian ones of equal variance: Figure 5 of the CNN paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.orthogonal_speed

One depth, one point on the critical line, several initializations, each at several learning
rates. Draws training and test accuracy against steps, each initialization at the rate that is
first at the target, and prints after how many steps each gets there.
"""

import functools
import math

from absl import flags
from matplotlib.figure import Figure

from experiments import binary, common, sweep, vanilla_sweep
from experiments.curves import Rows, column, curves_of

FLAGS = flags.FLAGS
COLORS = {"orthogonal": "tab:red", "delta_orthogonal": "tab:orange", "gaussian": "tab:blue"}

# The settings of the presets.
_QUICK = vanilla_sweep.network_settings(
    depth=300,
    initializations=["orthogonal", "gaussian"],
    learning_rates=["0.003", "0.01", "0.03"],
    target=0.9,
    readout="flatten",
    resize=14,
    subset=1000,
    test_subset=250,
    steps=700,
    eval_every=20,
    steps_per_execution=20,
)
# Figure 5: MNIST, 90,000 steps are about 60 epochs, so batches of 40.
_PAPER = {
    **vanilla_sweep.PAPER_NETWORK,
    **vanilla_sweep.PAPER_VARIANCES,
    "dataset": "mnist",
    "depth": 4000,
    "batch_size": 40,
    "learning_rates": ["4"],
    "steps": 90_000,
    "eval_every": 500,
    "checkpoint_every": 500,
    "steps_per_execution": 10,
}


def best_curves(rows: Rows, target: float) -> dict[str, Rows]:
    """The curve of each initialization at its best learning rate.

    Args:
        rows: dicts with initialization, learning_rate, step, train_accuracy.
        target: training accuracy.

    Returns:
        dict from initialization to the rows of the rate that is first at the target, or gets to
        the largest accuracy if none gets there.
    """

    def rank(curve: Rows) -> tuple[float, float]:
        return -vanilla_sweep.steps_to(curve, target), max(column(curve, "train_accuracy"))

    return {
        initialization: max(curves_of(mine, "learning_rate").values(), key=rank)
        for (initialization,), mine in curves_of(rows, "initialization").items()
    }


def verdict(curves: dict[str, Rows], target: float) -> str:
    """In words: who gets to the target, when, and how many times sooner than the Gaussian start."""
    lines = []
    for initialization, curve in curves.items():
        steps = vanilla_sweep.steps_to(curve, target)
        words = f"{initialization} (learning rate {curve[0]['learning_rate']:.3g}): "
        if steps == math.inf:
            last, highest = (max(column(curve, name)) for name in ("step", "train_accuracy"))
            words += f"not at {target:.0%} in {last:.0f} steps, at most {highest:.1%}"
        else:
            words += f"{target:.0%} training accuracy at step {steps:.0f}"
            if initialization != "gaussian" and "gaussian" in curves:
                words += _beside_gaussian(steps, curves["gaussian"], target)
        lines.append(words + f"; last test accuracy {curve[-1]['test_accuracy']:.1%}.")
    return "\n".join(lines)


def _beside_gaussian(steps: float, gaussian: Rows, target: float) -> str:
    reference, last = vanilla_sweep.steps_to(gaussian, target), max(column(gaussian, "step"))
    more = "more than " if reference == math.inf else ""
    return f", {more}{min(reference, last) / steps:.1f} times sooner than gaussian"


def draw(curves: dict[str, Rows], target: float, depth: int) -> Figure:
    """Accuracy against steps: solid for training, dashed for test."""
    figure, axis = common.subplots(figsize=(6, 3.8))
    for initialization, curve in curves.items():
        look = {"color": COLORS[initialization], "label": initialization.replace("_", "-")}
        vanilla_sweep.plot_accuracy(axis, curve, "train", "test", **look)
    axis.axhline(target, color="k", lw=0.8)
    axis.set(
        xlabel="steps",
        ylabel="accuracy (dashed: test)",
        ylim=(0, 1.02),
        title=f"{depth} layers, critical, equal variance",
    )
    axis.legend()
    return figure


def define_flags() -> None:
    """Defines the flags of this binary."""
    vanilla_sweep.define_flags(
        "orthogonal_speed", "depth", "initializations", "learning_rates", "target"
    )


def main(_: list[str]) -> None:
    """Trains all networks, writes the table, draws the figure, prints who is first."""
    settings = common.settings(_QUICK, _PAPER)
    directory = sweep.open_sweep(settings)
    depth, target = settings["depth"], settings["target"]
    networks = vanilla_sweep.Networks(settings)
    points = [
        {"initialization": initialization, "learning_rate": float(rate) / depth}
        for initialization in settings["initializations"]
        for rate in settings["learning_rates"]
    ]
    rows = sweep.run(points, functools.partial(networks.curve, depth=depth), directory)
    if rows is not None:
        curves = best_curves(rows, target)
        print(verdict(curves, target))
        common.save_figure(draw(curves, target, depth), directory / "orthogonal_speed.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
