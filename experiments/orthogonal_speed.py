"""Orthogonal kernels train sooner than Gaussian ones of equal variance: Figure 5 of the CNN paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.orthogonal_speed

One depth, one point on the critical line, several initializations, each at several learning
rates. Draws training and test accuracy against steps, each initialization at the rate that is
first at the target, and prints after how many steps each gets there.
"""

import math

from absl import flags

from experiments import binary, common, sweep, vanilla_sweep
from mfcnn import models

FLAGS = flags.FLAGS
COLORS = {"orthogonal": "tab:red", "delta_orthogonal": "tab:orange", "gaussian": "tab:blue"}


def best_curves(rows, target):
    """The curve of each initialization at its best learning rate.

    Args:
      rows: dicts with initialization, learning_rate, step, train_accuracy.
      target: training accuracy.

    Returns:
      dict from initialization to the rows of the rate that is first at the target, or gets to the
      largest accuracy if none gets there.
    """
    curves = {}
    for row in rows:
        curves.setdefault((row["initialization"], row["learning_rate"]), []).append(row)
    best = {}
    for (initialization, _), curve in curves.items():
        rank = (-vanilla_sweep.steps_to(curve, target), max(r["train_accuracy"] for r in curve))
        if initialization not in best or rank > best[initialization][0]:
            best[initialization] = rank, curve
    return {initialization: curve for initialization, (_, curve) in best.items()}


def verdict(curves, target):
    """In words: who gets to the target, when, and how many times sooner than the Gaussian start."""
    lines = []
    reference = vanilla_sweep.steps_to(curves["gaussian"], target) if "gaussian" in curves else None
    for initialization, curve in curves.items():
        steps, last = vanilla_sweep.steps_to(curve, target), max(r["step"] for r in curve)
        highest = max(r["train_accuracy"] for r in curve)
        words = f"{initialization} (learning rate {curve[0]['learning_rate']:.3g}): "
        if steps < math.inf:
            words += f"{target:.0%} training accuracy at step {steps:.0f}"
            if reference is not None and initialization != "gaussian":
                more = "more than " if reference == math.inf else ""
                limit = max(r["step"] for r in curves["gaussian"])
                words += f", {more}{min(reference, limit) / steps:.1f} times sooner than gaussian"
        else:
            words += f"not at {target:.0%} in {last:.0f} steps, at most {highest:.1%}"
        lines.append(words + f"; last test accuracy {curve[-1]['test_accuracy']:.1%}.")
    return "\n".join(lines)


def draw(curves, target, depth):
    """Accuracy against steps: solid for training, dashed for test."""
    figure, axis = common.subplots(figsize=(6, 3.8))
    for initialization, curve in curves.items():
        steps = [row["step"] for row in curve]
        name = initialization.replace("_", "-")
        for split, line, label in (("train", "-", name), ("test", "--", None)):
            values = [row[f"{split}_accuracy"] for row in curve]
            axis.plot(steps, values, line, color=COLORS[initialization], label=label)
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
    sweep.define_flags("orthogonal_speed")
    vanilla_sweep.define_network_flags()
    common.define_override("depth", "Layers of the deep block.", lower_bound=1)
    common.define_override(
        "initializations",
        f"Some of {', '.join(models.INITIALIZATIONS)}.",
        common.define_names,
        accepted=models.INITIALIZATIONS,
    )
    common.define_override(
        "learning_rates",
        "Learning rates times the depth, tried for each.",
        common.define_numbers,
        above=0,
    )
    common.define_override(
        "target", "Training accuracy to reach.", flags.DEFINE_float, lower_bound=0, upper_bound=1
    )


def main(_: list[str]) -> None:
    """Trains all networks, writes the table, draws the figure, prints who is first."""
    settings = common.settings(
        quick=vanilla_sweep.network_settings(
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
        ),
        paper=vanilla_sweep.PAPER_NETWORK
        | {
            # Figure 5: MNIST, 90,000 steps are about 60 epochs, so batches of 40.
            "dataset": "mnist",
            "depth": 4000,
            "filters": None,
            "batch_size": 40,
            "learning_rates": ["4"],
            "steps": 90_000,
            "eval_every": 500,
            "checkpoint_every": 500,
            "steps_per_execution": 10,
            "weight_variance": vanilla_sweep.PAPER_VARIANCES[0],
            "bias_variance": vanilla_sweep.PAPER_VARIANCES[1],
        },
    )
    directory = sweep.open_sweep(settings)
    networks = vanilla_sweep.Networks(settings)
    points = [
        {"initialization": initialization, "learning_rate": float(rate) / settings["depth"]}
        for initialization in settings["initializations"]
        for rate in settings["learning_rates"]
    ]
    rows = sweep.run(
        points,
        lambda point, folder: networks.curve(point, folder, depth=settings["depth"]),
        directory,
    )
    if rows is None:
        return
    curves = best_curves(rows, settings["target"])
    print(verdict(curves, settings["target"]))
    figure = draw(curves, settings["target"], settings["depth"])
    common.save_figure(figure, directory / "orthogonal_speed.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
