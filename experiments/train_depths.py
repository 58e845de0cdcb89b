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

from experiments import binary, common, sweep, vanilla_sweep
from mfcnn import models

FLAGS = flags.FLAGS


def curves_of(rows):
    """Dict from (initialization, depth) to the rows of that network."""
    curves = {}
    for row in rows:
        curves.setdefault((row["initialization"], int(row["depth"])), []).append(row)
    return curves


def report(curves, target, target_loss):
    """Prints, for each network, the steps to the two targets and the last test accuracy."""
    for (initialization, depth), curve in curves.items():
        below = (row["step"] for row in curve if row["train_loss"] <= target_loss)
        print(
            f"{initialization}, {depth} layers: {target:.0%} training accuracy at step "
            f"{vanilla_sweep.steps_to(curve, target):.0f}, training loss {target_loss:g} at step "
            f"{min(below, default=math.inf):.0f}; test accuracy {curve[-1]['test_accuracy']:.1%} "
            f"after {curve[-1]['step']:.0f} steps."
        )


def draw(curves):
    """A panel for each initialization: solid for test, dashed for training accuracy, as there."""
    names = list(dict.fromkeys(name for name, _ in curves))
    depths = sorted({depth for _, depth in curves})
    figure, axes = common.subplots(
        1, len(names), figsize=(1 + 4.2 * len(names), 3.8), squeeze=False, sharey=True
    )
    for (name, depth), curve in curves.items():
        axis = axes[0, names.index(name)]
        color = colormaps["viridis"](0.9 * depths.index(depth) / max(len(depths) - 1, 1))
        steps = [row["step"] for row in curve]
        for split, line, label in (("test", "-", f"{depth} layers"), ("train", "--", None)):
            values = [row[f"{split}_accuracy"] for row in curve]
            axis.plot(steps, values, line, color=color, label=label)
        axis.set(title=name.replace("_", "-"), xlabel="steps", ylim=(0, 1.02))
        axis.legend()
    axes[0, 0].set_ylabel("accuracy (dashed: training)")
    return figure


def define_flags() -> None:
    """Defines the flags of this binary."""
    sweep.define_flags("train_depths")
    vanilla_sweep.define_network_flags()
    common.define_override("depths", "Depths.", common.define_numbers, integers=True, lower_bound=1)
    common.define_override(
        "initializations",
        f"Some of {', '.join(models.INITIALIZATIONS)}.",
        common.define_names,
        accepted=models.INITIALIZATIONS,
    )
    common.define_override(
        "target", "Training accuracy to reach.", flags.DEFINE_float, lower_bound=0, upper_bound=1
    )
    flags.DEFINE_float("target_loss", 0.6, "Training loss to reach.", lower_bound=0)


def main(_: list[str]) -> None:
    """Trains all networks, writes the table, draws the figure, prints the learning times."""
    settings = common.settings(
        quick=vanilla_sweep.network_settings(
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
        ),
        # Figure 1 on CIFAR-10; --dataset=mnist is its other row. Figure 3 is
        # --initializations=orthogonal --depths=32,64,128,256,512,1024,2048,4096,8192.
        paper=vanilla_sweep.PAPER_NETWORK
        | {
            "dataset": "cifar10",
            "depths": ["1250", "2500", "5000", "10000"],
            "filters": None,
            "initializations": ["delta_orthogonal"],
            "steps": 40_000,
            "eval_every": 200,
            "checkpoint_every": 200,
            "weight_variance": vanilla_sweep.PAPER_VARIANCES[0],
            "bias_variance": vanilla_sweep.PAPER_VARIANCES[1],
        },
    )
    directory = sweep.open_sweep(settings)
    networks = vanilla_sweep.Networks(settings)
    # Depth outermost: both starts of one depth share a program.
    points = [
        {"depth": int(depth), "initialization": initialization}
        for depth in settings["depths"]
        for initialization in settings["initializations"]
    ]
    rows = sweep.run(points, networks.curve, directory, cost=lambda point: point["depth"] + 20)
    if rows is None:
        return
    curves = curves_of(rows)
    report(curves, settings["target"], FLAGS.target_loss)
    common.save_figure(draw(curves), directory / "train_depths.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
