"""Networks against their linearizations: Table 1 and Figures 2 to 4 and 6 of its paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.linearization

For each width factor the network and its linearization start from the same weights and see the
same minibatches, with the mean squared error on one-hot targets, momentum and weight decay. Each
training is a point of a sweep and keeps a checkpoint after every epoch; started again, the binary
goes on from there. Training curves are in a CSV file for each.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from experiments import binary, common, pairs, ranges, sweep
from experiments.curves import Rows, column, curves_of
from mfcnn import data, files
from mfcnn.run_directory import RunDirectory

FLAGS = flags.FLAGS

_TABLE_1 = {  # test accuracy in percent: the network, its linearization
    ("lenet", "mnist"): {
        1: (99.2, 93.2),
        2: (99.3, 96.3),
        5: (99.4, 97.9),
        10: (99.4, 98.3),
        60: (99.4, 98.9),
    },
    ("lenet", "cifar10"): {
        1: (62.5, 42.3),
        2: (69.6, 46.3),
        5: (76.1, 54.2),
        10: (77.4, 57.7),
        60: (78.8, 65.6),
    },
    ("alexnet", "imagenet_snakes"): {
        1: (53.8, 35.2),
        2: (54.4, 36.4),
        3: (54.2, 34.2),
        4: (57.0, 39.2),
    },
}

# The settings of each kind of `pairs.KINDS`.
_EPOCHS = dict(zip(pairs.KINDS, ("epochs", "linear_epochs")))
_RATES = dict(zip(pairs.KINDS, ("learning_rate", "linear_learning_rate")))

# The settings of the presets.
_QUICK = {
    "dataset": "mnist",
    "width_factors": ["1", "2"],
    "epochs": 5,
    "linear_epochs": 10,
    "trajectory_steps": 100,
    "train_size": 0,
}
_PAPER = {
    "width_factors": ["1", "2", "5", "10", "25", "60"],
    "epochs": 100,
    "linear_epochs": 100,
    "trajectory_steps": 200,
}


def load(settings: Mapping[str, Any]) -> data.ImageData:
    """The data of the settings."""
    return data.load(
        settings["dataset"],
        settings["batch_size"],
        seed=settings["seed"],
        subset=settings["train_size"] or None,
        resize=pairs.digits_side(settings["architecture"], settings["dataset"]),
    )


def start(
    settings: Mapping[str, Any], dataset: data.ImageData, width_factor: float
) -> dict[str, pairs.Run]:
    """A new pair, ready to be trained."""
    sizes = dataset.image_shape, dataset.classes, width_factor, settings["seed"]
    decay = settings["momentum"], settings["weight_decay"]
    models = pairs.make(settings["architecture"], *sizes)
    return {kind: pairs.Run(model, dataset.classes, *decay) for kind, model in models.items()}


def measure(
    settings: Mapping[str, Any],
    dataset: data.ImageData,
    directory: RunDirectory,
    point: Mapping[str, Any],
    folder: pathlib.Path,
) -> Rows:
    """Trains one model; its curve is copied to the directory. A row with its accuracies."""
    factor, kind = point["width_factor"], point["model"]
    folder.mkdir(parents=True, exist_ok=True)
    run = start(settings, dataset, factor)[kind]
    epochs, rate = settings[_EPOCHS[kind]], settings[_RATES[kind]]
    pairs.train(run, dataset, epochs, rate, settings["schedule"], folder)
    curve = directory / f"{settings['architecture']}_x{factor:g}_{kind}.csv"
    files.write_atomically(curve, (folder / "training.csv").read_bytes())
    published = _TABLE_1.get((settings["architecture"], settings["dataset"]), {})
    paper = dict(zip(pairs.KINDS, published.get(factor, (np.nan, np.nan))))
    return [
        {
            "epochs": epochs,
            "train_accuracy": run.accuracy(*dataset.arrays("train")),
            "test_accuracy": run.accuracy(*dataset.arrays("test")),
            "test_accuracy_in_the_paper": paper[kind] / 100,
        }
    ]


def follow(settings: Mapping[str, Any], dataset: data.ImageData) -> Rows:
    """Figure 2: the outputs in the first steps of each pair; prints what a step costs."""
    images, labels = (part[:5] for part in dataset.arrays("test"))
    steps, rate = settings["trajectory_steps"], settings["learning_rate"]
    rows = []
    for factor in map(float, settings["width_factors"]):
        ratio = pairs.step_cost_ratio(start(settings, dataset, factor), dataset)
        print(f"width x{factor:g}: a linearized step costs {ratio:.2f} times a step", flush=True)
        for kind, run in start(settings, dataset, factor).items():
            outputs = pairs.trajectory(run, dataset, steps, rate, images, labels)
            rows += [
                {"width_factor": factor, "model": kind, "step": step}
                | {f"example_{i}": float(value) for i, value in enumerate(values)}
                for step, values in enumerate(outputs)
            ]
    return rows


def draw_trajectories(rows: Rows) -> Figure:
    """Figure 2: a panel for each width factor; light lines are the linearization."""
    panels = curves_of(rows, "width_factor")
    figure, axes = common.subplots(
        1, len(panels), figsize=(4 * len(panels), 3.3), squeeze=False, sharey=True
    )
    examples = [name for name in rows[0] if name.startswith("example_")]
    for axis, ((factor,), pair) in zip(axes[0], panels.items()):
        for i, example in enumerate(examples):
            for (kind,), curve in curves_of(pair, "model").items():
                look = {"color": f"C{i}", "alpha": 1.0 if kind == "network" else 0.4}
                label = None if i else kind
                axis.plot(column(curve, "step"), column(curve, example), label=label, **look)
        axis.set(title=f"width x{factor:g}", xlabel="steps", ylim=(-0.5, 1.8))
    axes[0, 0].set_ylabel("output for the right class")
    axes[0, 0].legend()
    return figure


def draw_accuracies(rows: Rows) -> Figure:
    """Figures 3, 4 and 6: accuracy over the width factor, beside the paper's on test data."""
    figure, axis = common.subplots(figsize=(5.5, 3.8))
    looks = dict(zip(pairs.KINDS, (("o", "C0"), ("*", "C1"))))
    for (kind,), mine in curves_of(rows, "model").items():
        marker, color = looks[kind]
        factors = column(mine, "width_factor")
        for split, line in (("test", "-"), ("train", ":")):
            values = 100 * column(mine, f"{split}_accuracy")
            axis.plot(factors, values, line + marker, color=color, label=f"{kind}, {split}")
        published = 100 * column(mine, "test_accuracy_in_the_paper")
        if np.any(np.isfinite(published)):
            axis.plot(factors, published, "D", color=color, mfc="none", label=f"{kind}, paper")
    axis.set(xscale="log", xlabel="width factor", ylabel="accuracy [%]")
    axis.set_xticks(factors, [f"{factor:g}" for factor in factors])
    axis.minorticks_off()
    axis.legend()
    return figure


def define_flags() -> None:
    """Defines the flags of this binary."""
    sweep.define_flags("linearization")
    common.define_override(
        "dataset", "Data set; digits are enlarged.", flags.DEFINE_enum, enum_values=data.NAMES
    )
    flags.DEFINE_enum("architecture", "lenet", ["lenet", "alexnet"], "The network.")
    flags.DEFINE_integer("batch_size", 32, "Examples in a step.", lower_bound=1)
    flags.DEFINE_float("learning_rate", 0.1, "Of the network.", **ranges.LEARNING_RATE)
    flags.DEFINE_float("linear_learning_rate", 0.1, "Of the linearization.", **ranges.LEARNING_RATE)
    flags.DEFINE_float("momentum", 0.9, "Momentum.", **ranges.FRACTION)
    flags.DEFINE_float(
        "weight_decay", 5e-5, "Times the weights, added to the gradient.", **ranges.FRACTION
    )
    flags.DEFINE_enum("schedule", "linear", ["linear", "constant"], "Of the rate: to 0, or none.")
    common.define_override(
        "width_factors", "Factors of the widths.", common.define_numbers, **ranges.WIDTH_FACTOR
    )
    common.define_override("epochs", "Epochs of the networks.", lower_bound=0)
    common.define_override("linear_epochs", "Epochs of the linearizations.", lower_bound=0)
    common.define_override("trajectory_steps", "Steps of the trajectories.", lower_bound=0)
    common.define_override("train_size", "Training examples; 0 is all.", lower_bound=0)


_OTHERS = (
    "architecture",
    "batch_size",
    "learning_rate",
    "linear_learning_rate",
    "momentum",
    "weight_decay",
    "schedule",
)


def main(_: list[str]) -> None:
    """Trains all pairs, writes the tables and draws the figures."""
    settings = common.settings(_QUICK, _PAPER, _OTHERS)
    directory = sweep.open_sweep(settings)
    dataset = load(settings)
    trajectories = directory / "trajectories.csv"
    if settings["trajectory_steps"] and FLAGS.shard_index == 0 and not trajectories.exists():
        followed = follow(settings, dataset)
        common.save_figure(draw_trajectories(followed), directory / "trajectories.png")
        common.write_csv(trajectories, followed)
    points = [
        {"architecture": settings["architecture"], "width_factor": float(factor), "model": kind}
        for factor in settings["width_factors"]
        for kind in pairs.KINDS
        if settings[_EPOCHS[kind]]
    ]
    if not points:
        return
    rows = sweep.run(
        points,
        functools.partial(measure, settings, dataset, directory),
        directory,
        cost=lambda point: settings[_EPOCHS[point["model"]]] * (2 + point["width_factor"]),
    )
    if rows is not None:
        common.save_figure(draw_accuracies(rows), directory / "accuracy.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
