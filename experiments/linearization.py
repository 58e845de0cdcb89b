"""Networks against their linearizations: Table 1 and Figures 1 to 4 and 6 of its paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.linearization

For each width factor the network and its linearization start from the same weights and see the
same minibatches, with the mean squared error on one-hot targets, momentum and weight decay; beside
them is a logistic regression on the pixels. Each training is a point of a sweep and keeps a
checkpoint after every epoch; started again, the binary goes on from there. Training curves are in
a CSV file for each, and so are the trained networks: --initial_weights=THAT_FOLDER
starts from them. `--preset=paper` has the paper's settings for the network and the data.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from experiments import binary, common, pairs, ranges, samarin, sweep
from experiments.curves import Rows, column, curves_of
from mfcnn import data, files
from mfcnn.run_directory import RunDirectory

FLAGS = flags.FLAGS
_REGRESSION = "logistic_regression"

# The settings of the quick preset that are not the paper's; those are in `samarin.set_up`.
_QUICK = {
    "width_factors": ["1", "2"],
    "epochs": 2,
    "linear_epochs": 3,
    "logistic_epochs": 2,
    "schedule": "linear",
    "trajectory_steps": 100,
    "trajectory_factors": ["1", "3"],
    "train_size": 0,
}


def load(settings: Mapping[str, Any]) -> data.ImageData:
    """The data of the settings."""
    loaded = data.load(
        settings["dataset"],
        settings["batch_size"],
        seed=settings["seed"],
        subset=settings["train_size"] or None,
        resize=pairs.side(settings["architecture"], settings["dataset"]),
    )
    if settings["normalize"]:
        return loaded
    zeros, ones = np.zeros_like(loaded.mean), np.ones_like(loaded.std)
    return dataclasses.replace(loaded, mean=zeros, std=ones)


def pair(
    settings: Mapping[str, Any], dataset: data.ImageData, width_factor: float, **decay: float
) -> dict[str, pairs.Run]:
    """A new pair, ready to be trained; both of one weight decay."""
    sizes = dataset.image_shape, dataset.classes, width_factor, settings["seed"]
    folder, name = settings["initial_weights"], weights_file(settings["architecture"], width_factor)
    weights = pathlib.Path(folder, name) if folder else None
    if weights and not weights.exists():
        raise FileNotFoundError(f"initial_weights must be a folder with {name}. Received: {folder}")
    models = pairs.make(settings["architecture"], *sizes, weights)
    options = settings["momentum"], decay.get("weight_decay", settings["weight_decay"])
    return {
        kind: pairs.Run(model, dataset.classes, *options, settings["loss"])
        for kind, model in models.items()
    }


def weights_file(architecture: str, width_factor: float) -> str:
    """The name of the file of a trained network's weights."""
    return f"{architecture}_x{width_factor:g}_network.keras"


def regression(settings: Mapping[str, Any], dataset: data.ImageData) -> pairs.Run:
    """Logistic regression, ready to be trained."""
    model = pairs.logistic_regression(dataset.image_shape, dataset.classes)
    return pairs.Run(model, dataset.classes, settings["momentum"], 0.0, "cross_entropy")


def points_of(settings: Mapping[str, Any]) -> list[sweep.Point]:
    """All trainings: networks, their linearizations at each rate, and a logistic regression."""
    linear = [settings[f"linear_{name}"] for name in ("learning_rates", "weight_decays")]
    if len(linear[0]) != len(linear[1]):
        raise ValueError(
            "linear_weight_decays must be as many as linear_learning_rates. "
            f"Received: {linear[1]}, {linear[0]}"
        )
    kinds = [("network", settings["learning_rate"], settings["weight_decay"], "epochs")]
    kinds += [("linearization", float(r), float(d), "linear_epochs") for r, d in zip(*linear)]
    names = ("architecture", "width_factor", "model", "learning_rate", "weight_decay", "epochs")
    points = [
        dict(zip(names, (settings["architecture"], float(factor), *kind[:3], settings[kind[3]])))
        for factor in settings["width_factors"]
        for kind in kinds
    ]
    last = settings["logistic_learning_rate"], 0.0, settings["logistic_epochs"]
    points.append(dict(zip(names, (settings["architecture"], 1.0, _REGRESSION, *last))))
    return [point for point in points if point["epochs"]]


def measure(
    settings: Mapping[str, Any],
    dataset: data.ImageData,
    directory: RunDirectory,
    point: Mapping[str, Any],
    folder: pathlib.Path,
) -> Rows:
    """Trains one model; its curve is copied to the directory. A row with its accuracies."""
    factor, kind, rate, decay, epochs = list(point.values())[1:]
    architecture, schedule = settings["architecture"], settings["schedule"]
    folder.mkdir(parents=True, exist_ok=True)
    if kind == _REGRESSION:
        run, schedule = regression(settings, dataset), "linear"
    else:
        run = pair(settings, dataset, factor, weight_decay=decay)[kind]
    pairs.train(run, dataset, epochs, rate, schedule, folder)
    curve = directory / f"{architecture}_x{factor:g}_{kind}_{rate:g}.csv"
    files.write_atomically(curve, (folder / "training.csv").read_bytes())
    if kind == "network":
        files.write_atomically(directory / weights_file(architecture, factor), run.model.save)
    accuracies = {
        "train": run.accuracy(dataset.train_batches().take(dataset.steps_per_epoch)),
        "test": run.accuracy(dataset.test_batches(500)),
    }
    printed = functools.partial(samarin.accuracy, architecture, settings["dataset"], kind, rate)
    return [
        {f"{split}_accuracy": value for split, value in accuracies.items()}
        | {f"{split}_accuracy_in_the_paper": printed(split, factor) for split in accuracies}
    ]


def follow(settings: Mapping[str, Any], dataset: data.ImageData) -> Rows:
    """Figure 2: the outputs in the first steps of each pair; prints what a step costs."""
    images, labels = (part[:5] for part in dataset.arrays("test"))
    steps, rate = settings["trajectory_steps"], settings["learning_rate"]
    rows = []
    for factor in map(float, settings["trajectory_factors"]):
        ratio = pairs.step_cost_ratio(pair(settings, dataset, factor), dataset)
        print(f"width x{factor:g}: a linearized step costs {ratio:.2f} times a step", flush=True)
        for kind, run in pair(settings, dataset, factor).items():
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
    factors = sorted({row["width_factor"] for row in rows})
    for i, ((kind, rate), mine) in enumerate(curves_of(rows, "model", "learning_rate").items()):
        name = f"{kind.replace('_', ' ')}, rate {rate:g}"
        flat = kind == _REGRESSION  # has no width
        x = [min(factors), max(factors)] if flat else column(mine, "width_factor")
        for split, line in (("test", "-"), ("train", ":")):
            values = 100 * column(mine, f"{split}_accuracy")
            marker = "" if flat else "o"
            y = [*values, *values] if flat else values
            axis.plot(x, y, line + marker, color=f"C{i}", label=f"{name}, {split}")
        published = 100 * column(mine, "test_accuracy_in_the_paper")
        if np.any(np.isfinite(published)) and not flat:
            axis.plot(x, published, "D", color=f"C{i}", mfc="none", label=f"{kind}, paper's test")
    axis.set(xscale="log", xlabel="width factor", ylabel="accuracy [%]")
    axis.set_xticks(factors, [f"{factor:g}" for factor in factors])
    axis.minorticks_off()
    axis.legend(fontsize=7)
    return figure


def define_flags() -> None:
    """Defines the flags of this binary."""
    sweep.define_flags("linearization")
    override, numbers = common.define_override, common.define_numbers
    flags.DEFINE_enum("architecture", "lenet", ["lenet", "alexnet"], "The network.")
    override(
        "dataset",
        "Data set; images too small for the network are enlarged.",
        flags.DEFINE_enum,
        enum_values=data.NAMES,
    )
    override("batch_size", "Examples in a step.", lower_bound=1)
    override("learning_rate", "Of the network.", flags.DEFINE_float, **ranges.LEARNING_RATE)
    override("linear_learning_rates", "Of the linearization.", numbers, **ranges.LEARNING_RATE)
    flags.DEFINE_float(
        "logistic_learning_rate", 0.01, "Of the logistic regression.", **ranges.LEARNING_RATE
    )
    override("momentum", "Momentum.", flags.DEFINE_float, **ranges.FRACTION)
    override(
        "weight_decay",
        "Times the weights, added to the gradient of the network.",
        flags.DEFINE_float,
        **ranges.FRACTION,
    )
    override("linear_weight_decays", "One for each of its rates.", numbers, **ranges.FRACTION)
    override(
        "schedule",
        "Of the rate: linear to 0, constant, or step, a tenth every 30 epochs.",
        flags.DEFINE_enum,
        enum_values=list(pairs.SCHEDULES),
    )
    override("loss", "What is trained.", flags.DEFINE_enum, enum_values=list(pairs.LOSSES))
    flags.DEFINE_string(
        "initial_weights", None, "Folder of another run, whose trained networks are the start."
    )
    flags.DEFINE_boolean("normalize", True, "Pixels of mean 0 and variance 1; else in [0, 1].")
    override("width_factors", "Factors of the widths.", numbers, **ranges.WIDTH_FACTOR)
    for name, whose in (("", "networks"), ("linear_", "linearizations"), ("logistic_", "logistic")):
        override(f"{name}epochs", f"Epochs of the {whose}; 0 leaves out.", lower_bound=0)
    override("trajectory_steps", "Steps of the trajectories.", lower_bound=0)
    override("trajectory_factors", "Their factors of the widths.", numbers, **ranges.WIDTH_FACTOR)
    override("train_size", "Training examples; 0 is all.", lower_bound=0)


def settings_of_flags() -> dict[str, Any]:
    """The preset of the network and the data, with the flags that were given."""
    paper = dict(samarin.set_up(FLAGS.architecture, FLAGS.dataset)) | {"logistic_epochs": 100}
    others = "architecture", "logistic_learning_rate", "initial_weights", "normalize"
    return common.settings(paper | _QUICK, paper, others)


def main(_: list[str]) -> None:
    """Trains all pairs, writes the tables and draws the figures."""
    settings = settings_of_flags()
    points = points_of(settings)
    directory = sweep.open_sweep(settings)
    dataset = load(settings)
    trajectories = directory / "trajectories.csv"
    if settings["trajectory_steps"] and FLAGS.shard_index == 0 and not trajectories.exists():
        followed = follow(settings, dataset)
        common.save_figure(draw_trajectories(followed), directory / "trajectories.png")
        common.write_csv(trajectories, followed)
    if not points:
        return
    rows = sweep.run(
        points,
        functools.partial(measure, settings, dataset, directory),
        directory,
        cost=lambda point: point["epochs"] * (2 + point["width_factor"]),
    )
    if rows is not None:
        common.save_figure(draw_accuracies(rows), directory / "accuracy.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
