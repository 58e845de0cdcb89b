"""The learning time does not depend on depth: Figures 1 and 3 of the CNN paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.train_depths

Trains networks of several depths from delta-orthogonal kernels (Figure 1) and from orthogonal
ones, whose spatial modes fade with depth (Figure 3). Draws training and test accuracy against
steps and prints after how many steps each network is at a training accuracy and a training loss.
With SGD or momentum and `--learning_rate=auto` each network has the rate that its own NTK allows.
"""

import math

from absl import flags
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments import binary, common, ranges, sweep, vanilla_sweep
from experiments.curves import Rows, curves_of

FLAGS = flags.FLAGS

# The settings of the presets.
_QUICK = vanilla_sweep.network_settings(
    depths=["50", "200", "1000"],
    initializations=["delta_orthogonal", "orthogonal"],
    target=0.75,
    filters=8,
    resize=14,
    readout="flatten",
    optimizer="momentum",
    test_subset=500,
    steps=300,
    eval_every=20,
)
# Figure 1 on CIFAR-10; --dataset=mnist is its other row. Figure 3 is
# --initializations=orthogonal --depths=32,64,128,256,512,1024,2048,4096,8192.
_PAPER = {
    **vanilla_sweep.PAPER_NETWORK,
    **vanilla_sweep.PAPER_VARIANCES,
    "dataset": "cifar10",
    "depths": ["1250", "2500", "5000", "10000"],
    "initializations": ["delta_orthogonal"],
    "steps": 40_000,
    "eval_every": 200,
    "checkpoint_every": 200,
}


def report(rows: Rows, target: float, target_loss: float) -> None:
    """Prints, for each network, the steps to the two targets and the last test accuracy."""
    for (initialization, depth), curve in curves_of(rows, "initialization", "depth").items():
        below = (row["step"] for row in curve if row["train_loss"] <= target_loss)
        print(
            f"{initialization}, {depth:.0f} layers: {target:.0%} training accuracy at step "
            f"{vanilla_sweep.steps_to(curve, target):.0f}, training loss {target_loss:g} at step "
            f"{min(below, default=math.inf):.0f}; test accuracy {curve[-1]['test_accuracy']:.1%} "
            f"after {curve[-1]['step']:.0f} steps."
        )


def draw(rows: Rows) -> Figure:
    """A panel for each initialization: solid for test, dashed for training accuracy, as there."""
    curves = curves_of(rows, "initialization", "depth")
    names = list(dict.fromkeys(name for name, _ in curves))
    depths = sorted({depth for _, depth in curves})
    figure, axes = common.subplots(
        1, len(names), figsize=(1 + 4.2 * len(names), 3.8), squeeze=False, sharey=True
    )
    for (name, depth), curve in curves.items():
        axis = axes[0, names.index(name)]
        color = colormaps["viridis"](0.9 * depths.index(depth) / max(len(depths) - 1, 1))
        label = f"{depth:.0f} layers"
        vanilla_sweep.plot_accuracy(axis, curve, "test", "train", color=color, label=label)
        axis.set(title=name.replace("_", "-"), xlabel="steps", ylim=(0, 1.02))
        axis.legend()
    axes[0, 0].set_ylabel("accuracy (dashed: training)")
    return figure


def define_flags() -> None:
    """Defines the flags of this binary."""
    vanilla_sweep.define_flags("train_depths", "depths", "initializations", "target")
    flags.DEFINE_float("target_loss", 0.6, "Training loss to reach.", **ranges.LOSS)


def main(_: list[str]) -> None:
    """Trains all networks, writes the table, draws the figure, prints the learning times."""
    settings = common.settings(_QUICK, _PAPER)
    directory = sweep.open_sweep(settings)
    networks = vanilla_sweep.Networks(settings)
    # Depth outermost: both starts of one depth share a program.
    points = [
        {"depth": int(depth), "initialization": initialization}
        for depth in settings["depths"]
        for initialization in settings["initializations"]
    ]
    rows = sweep.run(points, networks.curve, directory, cost=lambda point: point["depth"] + 20)
    if rows is not None:
        report(rows, settings["target"], FLAGS.target_loss)
        common.save_figure(draw(rows), directory / "train_depths.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
