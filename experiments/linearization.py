"""Networks against their linearizations: Table 1 and Figures 2 to 4 and 6 of its paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.linearization

For each width factor the network and its linearization start from the same weights and see the
same minibatches, with the mean squared error on one-hot targets, momentum and weight decay. Each
training is a point of a sweep and keeps a checkpoint after every epoch; started again, the binary
goes on from there. Training curves are in a CSV file for each.
"""

import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags, logging
from matplotlib.figure import Figure

from experiments import binary, common, sweep
from mfcnn import data, files, models
from mfcnn.training import Checkpoints, MetricsFile

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
_KINDS = ("network", "linearization")
_DIGITS_SIDE = {"lenet": 28, "alexnet": 64}


class Run:
    """Training of one model by momentum and weight decay on one-hot targets."""

    def __init__(
        self, model: keras.Model, classes: int, momentum: float, weight_decay: float
    ) -> None:
        self.model, self.classes = model, classes
        self._momentum, self._decay = momentum, weight_decay
        self.variables = [v.value for v in model.trainable_variables]
        self.velocities = [tf.Variable(tf.zeros_like(v)) for v in self.variables]
        self.step = tf.function(self._step, autograph=False)
        self.predict = tf.function(
            lambda x: model(x, training=False), autograph=False, reduce_retracing=True
        )

    def _step(self, images: tf.Tensor, labels: tf.Tensor, learning_rate: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            outputs = self.model(images, training=True)
            targets = tf.one_hot(labels, self.classes)
            loss = tf.reduce_mean(tf.square(outputs - targets))
        for v, velocity, g in zip(
            self.variables, self.velocities, tape.gradient(loss, self.variables)
        ):
            velocity.assign(self._momentum * velocity + g + self._decay * v)
            v.assign_sub(learning_rate * velocity)
        hits = tf.argmax(outputs, 1, output_type=labels.dtype) == labels
        return tf.stack([loss, tf.reduce_mean(tf.cast(hits, tf.float32))])

    def accuracy(self, images: np.ndarray, labels: np.ndarray, batch_size: int = 500) -> float:
        """The share of examples whose largest output is their class."""
        parts = range(0, len(labels), batch_size)
        hits = [
            np.argmax(self.predict(images[i : i + batch_size]), 1) == labels[i : i + batch_size]
            for i in parts
        ]
        return float(np.mean(np.concatenate(hits)))


def make_models(
    architecture: str, input_shape: tuple[int, ...], classes: int, width_factor: float, seed: int
) -> dict[str, keras.Model]:
    """The network and its linearization, as a dict."""
    build = getattr(models, architecture)
    network = build(input_shape, classes, width_factor, seed=seed)
    return dict(zip(_KINDS, (network, models.linearize(network))))


def train(
    run: "Run",
    dataset: data.ImageData,
    epochs: int,
    learning_rate: float,
    schedule: str,
    directory: pathlib.Path,
) -> list[dict[str, float]]:
    """Trains for some epochs, from the last checkpoint in the directory if there is one.

    Returns:
      The rows of training.csv: epoch, loss, train accuracy during the epoch, test accuracy.

    Raises:
      FloatingPointError: if the loss is no longer finite.
    """
    epoch, window = tf.Variable(0), tf.Variable(0.0)
    file = MetricsFile(
        directory / "training.csv", ("epoch", "loss", "running_accuracy", "test_accuracy")
    )
    checkpoints = Checkpoints(
        directory / "checkpoints", epoch, window, run.variables + run.velocities, file
    )
    checkpoints.restore()
    checkpoints.clean()
    test, steps = dataset.arrays("test"), dataset.steps_per_epoch
    for number in range(int(epoch), epochs):
        sums = tf.zeros([2])
        batches = dataset.train_batches(number * steps).take(steps)
        for index, (images, labels) in enumerate(batches, number * steps):
            share = 1 - index / (epochs * steps) if schedule == "linear" else 1.0
            sums += run.step(images, labels, tf.constant(learning_rate * share, tf.float32))
        loss, accuracy = (float(s) / steps for s in sums)
        test_accuracy = run.accuracy(*test)
        logging.info("%s epoch %d: loss %.5f test %.4f", directory, number, loss, test_accuracy)
        if not np.isfinite(loss):
            raise FloatingPointError(f"The loss is not finite in epoch {number}; lower the rate.")
        epoch.assign(number + 1)
        row = (number + 1, loss, accuracy, test_accuracy)
        file.append(dict(zip(file.fields, row)))
        checkpoints.save(number + 1)
    return file.rows()


def step_cost_ratio(runs: dict[str, "Run"], dataset: data.ImageData, calls: int = 20) -> float:
    """CPU time of a step of the linearization over that of the network: least of four turns."""
    (images, labels), rate = next(iter(dataset.train_batches())), tf.constant(0.0)
    seconds = {kind: [] for kind in runs}
    for _ in range(5):  # the first turn compiles
        for kind, run in runs.items():
            start = time.process_time()
            for _ in range(calls):
                run.step(images, labels, rate)
            seconds[kind].append(time.process_time() - start)
    return min(seconds["linearization"][1:]) / min(seconds["network"][1:])


def trajectory(
    run: "Run",
    dataset: data.ImageData,
    steps: int,
    learning_rate: float,
    images: np.ndarray,
    labels: np.ndarray,
) -> np.ndarray:
    """The outputs [steps + 1, n] for the right classes of n images after each step."""
    picked = np.arange(len(labels)), labels
    outputs = [run.predict(images).numpy()[picked]]
    for batch in dataset.train_batches().take(steps):
        run.step(*batch, tf.constant(learning_rate, tf.float32))
        outputs.append(run.predict(images).numpy()[picked])
    return np.array(outputs)


def draw_trajectories(trajectories: dict[float, dict[str, np.ndarray]]) -> Figure:
    """Figure 2: a panel for each width factor; light lines are the linearization."""
    figure, axes = common.subplots(
        1, len(trajectories), figsize=(4 * len(trajectories), 3.3), squeeze=False, sharey=True
    )
    for axis, (factor, pair) in zip(axes[0], trajectories.items()):
        for i in range(pair["network"].shape[1]):
            axis.plot(pair["network"][:, i], color=f"C{i}", label="network" if i == 0 else None)
            axis.plot(
                pair["linearization"][:, i],
                color=f"C{i}",
                alpha=0.4,
                label="linearization" if i == 0 else None,
            )
        axis.set(title=f"width x{factor:g}", xlabel="steps", ylim=(-0.5, 1.8))
    axes[0, 0].set_ylabel("output for the right class")
    axes[0, 0].legend()
    return figure


def draw_accuracies(rows: list[dict[str, Any]]) -> Figure:
    """Figures 3, 4 and 6: accuracy over the width factor, beside the paper's on test data."""
    figure, axis = common.subplots(figsize=(5.5, 3.8))
    for kind, marker in zip(_KINDS, "o*"):
        mine = [r for r in rows if r["model"] == kind]
        factors = [r["width_factor"] for r in mine]
        for split, line in (("test", "-"), ("train", ":")):
            values = [100 * r[f"{split}_accuracy"] for r in mine]
            color = "C0" if kind == "network" else "C1"
            axis.plot(factors, values, line + marker, color=color, label=f"{kind}, {split}")
        published = [100 * r["test_accuracy_in_the_paper"] for r in mine]
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
    flags.DEFINE_float("learning_rate", 0.1, "Of the network.", lower_bound=0)
    flags.DEFINE_float("linear_learning_rate", 0.1, "Of the linearization.", lower_bound=0)
    flags.DEFINE_float("momentum", 0.9, "Momentum.", lower_bound=0, upper_bound=1)
    flags.DEFINE_float(
        "weight_decay", 5e-5, "Times the weights, added to the gradient.", lower_bound=0
    )
    flags.DEFINE_enum("schedule", "linear", ["linear", "constant"], "Of the rate: to 0, or none.")
    common.define_override(
        "width_factors", "Factors of the widths.", common.define_numbers, above=0
    )
    common.define_override("epochs", "Epochs of the networks.", lower_bound=0)
    common.define_override("linear_epochs", "Epochs of the linearizations.", lower_bound=0)
    common.define_override("trajectory_steps", "Steps of the trajectories.", lower_bound=0)
    common.define_override("train_size", "Training examples; 0 is all.", lower_bound=0)


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


def main(_: list[str]) -> None:
    """Trains all pairs, writes the table and draws the figures."""
    settings = common.settings(quick=_QUICK, paper=_PAPER)
    names = (
        "architecture",
        "batch_size",
        "learning_rate",
        "linear_learning_rate",
        "momentum",
        "weight_decay",
        "schedule",
    )
    settings.update({name: FLAGS[name].value for name in names})
    directory = sweep.open_sweep(settings)
    architecture, name = FLAGS.architecture, settings["dataset"]
    dataset = data.load(
        name,
        FLAGS.batch_size,
        seed=FLAGS.seed,
        subset=settings["train_size"] or None,
        resize=_DIGITS_SIDE[architecture] if name == "digits" else None,
    )
    factors = [float(factor) for factor in settings["width_factors"]]
    published = _TABLE_1.get((architecture, name), {})
    epochs = dict(zip(_KINDS, (settings["epochs"], settings["linear_epochs"])))
    rates = dict(zip(_KINDS, (FLAGS.learning_rate, FLAGS.linear_learning_rate)))

    def make(factor: float) -> dict[str, keras.Model]:
        pair = make_models(architecture, dataset.image_shape, dataset.classes, factor, FLAGS.seed)
        return {
            kind: Run(model, dataset.classes, FLAGS.momentum, FLAGS.weight_decay)
            for kind, model in pair.items()
        }

    def measure(point: dict[str, Any], folder: pathlib.Path) -> list[dict[str, Any]]:
        factor, kind = point["width_factor"], point["model"]
        folder.mkdir(parents=True, exist_ok=True)
        run = make(factor)[kind]
        train(run, dataset, epochs[kind], rates[kind], FLAGS.schedule, folder)
        curve = directory / f"{architecture}_x{factor:g}_{kind}.csv"
        files.write_atomically(curve, (folder / "training.csv").read_bytes())
        paper = dict(zip(_KINDS, published.get(factor, (np.nan,) * 2)))
        return [
            {
                "epochs": epochs[kind],
                "train_accuracy": run.accuracy(*dataset.arrays("train")),
                "test_accuracy": run.accuracy(*dataset.arrays("test")),
                "test_accuracy_in_the_paper": paper[kind] / 100,
            }
        ]

    trajectories = directory / "trajectories.csv"
    if settings["trajectory_steps"] and FLAGS.shard_index == 0 and not trajectories.exists():
        follow(make, factors, dataset, settings["trajectory_steps"], directory)
    points = [
        {"architecture": architecture, "width_factor": factor, "model": kind}
        for factor in factors
        for kind in _KINDS
        if epochs[kind]
    ]
    if not points:
        return
    rows = sweep.run(
        points,
        measure,
        directory,
        cost=lambda point: epochs[point["model"]] * (2 + point["width_factor"]),
    )
    if rows is not None:
        common.save_figure(draw_accuracies(rows), directory / "accuracy.png")


def follow(
    make: Callable[[float], dict[str, keras.Model]],
    factors: list[float],
    dataset: data.ImageData,
    steps: int,
    directory: pathlib.Path,
) -> None:
    """The first steps of each pair, Figure 2; prints what a linearized step costs."""
    images, labels = (a[:5] for a in dataset.arrays("test"))
    trajectories = {}
    for factor in factors:
        ratio = step_cost_ratio(make(factor), dataset)
        print(f"width x{factor:g}: a linearized step costs {ratio:.2f} times a step", flush=True)
        trajectories[factor] = {
            kind: trajectory(run, dataset, steps, FLAGS.learning_rate, images, labels)
            for kind, run in make(factor).items()
        }
    common.save_figure(draw_trajectories(trajectories), directory / "trajectories.png")
    common.write_csv(
        directory / "trajectories.csv",
        (
            {"width_factor": factor, "model": kind, "step": step}
            | {f"example_{i}": float(v) for i, v in enumerate(values)}
            for factor, pair in trajectories.items()
            for kind, table in pair.items()
            for step, values in enumerate(table)
        ),
    )


if __name__ == "__main__":
    binary.start(define_flags, main)
