"""What diagnosis says and repair does: plain nets by several initializations, and the verdicts.

    python -m experiments.repairs --output_dir=experiments/results/diagnose

plain.csv has a row for each plain net of --depth layers and each of its initializations: Keras's
own (before), repaired (after), AutoInit's rule, and AnyInit where it is installed. It holds what
the report says, the gradients of the first layer over the last, and the accuracy after --steps
steps of Adam at the best of --learning_rates; repairs.png is its gradients against depth.
verdicts.csv has models that train and that do not: the verdict beside the training accuracy.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from matplotlib.figure import Figure

import mfcnn
from experiments import binary, common, judged, zoo
from mfcnn import activations, data

FLAGS = flags.FLAGS
_QUICK = {
    "activations": ["tanh", "relu", "sigmoid", "gelu"],
    "depth": 100,
    "width": 64,
    "steps": 300,
    "learning_rates": [1e-3, 1e-4],
    "models": 100,
}
_PAPER = {"steps": 1000}
_SEEN = 512  # training images that the accuracy is of
_LEARNED = 0.1 + 5 * (0.1 * 0.9 / _SEEN) ** 0.5  # five standard errors above chance: 0.17
_BATCH = 32


def _digits() -> tuple[np.ndarray, ...]:
    """(training images, labels, test images, labels)."""
    return *data.load_arrays("digits", "train"), *data.load_arrays("digits", "test")


def _trainer(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> Callable:
    """A function (weights, state, rows, rate) of one program: Adam on all weights as one vector.

    `model.fit` makes some ten operations for each variable and step: at 200 variables that takes
    longer than the gradients.
    """
    shapes = [variable.shape for variable in model.trainable_variables]
    sizes = [int(np.prod(shape)) for shape in shapes]
    images, labels = tf.constant(images), tf.constant(labels)

    def unpacked(flat: tf.Tensor) -> list[tf.Tensor]:
        return [tf.reshape(v, shape) for v, shape in zip(tf.split(flat, sizes), shapes)]

    def step(k: tf.Tensor, flat: Any, state: Any, means: Any, rows: Any, rate: Any) -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(flat)
            chosen = tf.gather(images, rows[k])
            outputs, state = model.stateless_call(unpacked(flat), state, chosen, training=True)
            losses = keras.losses.sparse_categorical_crossentropy(
                tf.gather(labels, rows[k]), outputs
            )
            loss = tf.reduce_mean(losses)
        gradient = tape.gradient(loss, flat)
        first = 0.9 * means[0] + 0.1 * gradient
        second = 0.999 * means[1] + 0.001 * gradient**2
        t = tf.cast(k + 1, tf.float32)
        size = rate * tf.sqrt(1 - 0.999**t) / (1 - 0.9**t)  # keras.optimizers.Adam
        return k + 1, flat - size * first / (tf.sqrt(second) + 1e-7), state, (first, second)

    @tf.function(autograph=False)
    def run(flat: tf.Tensor, state: list, rows: tf.Tensor, rate: tf.Tensor) -> tuple:
        _, flat, state, _ = tf.while_loop(
            lambda k, *_: k < tf.shape(rows)[0],
            lambda k, flat, state, means: step(k, flat, state, means, rows, rate),
            (0, flat, state, (tf.zeros_like(flat), tf.zeros_like(flat))),
        )
        return unpacked(flat), state

    return run


def trained(
    model: keras.Model,
    digits: tuple[np.ndarray, ...],
    steps: int,
    learning_rates: list[float],
    seed: int,
) -> tuple[float, float]:
    """(training accuracy, test accuracy) at the best of some learning rates; weights stay."""
    images, labels, test_images, test_labels = digits
    run = _trainer(model, images, labels)
    flat = tf.concat([tf.reshape(v, [-1]) for v in model.trainable_variables], 0)
    state = [tf.convert_to_tensor(v) for v in model.non_trainable_variables]
    rows = np.random.default_rng(seed).integers(len(images), size=(steps, _BATCH))
    seen = tf.constant(np.concatenate([images[:_SEEN], test_images]))
    right = np.concatenate([labels[:_SEEN], test_labels])
    predict = tf.function(lambda weights, state: model.stateless_call(weights, state, seen)[0])
    best = (-1.0, 0.0)
    for rate in learning_rates:
        weights, after = run(flat, state, tf.constant(rows), tf.constant(rate, tf.float32))
        hits = np.argmax(predict(weights, after), -1) == right
        best = max(best, (float(hits[:_SEEN].mean()), float(hits[_SEEN:].mean())))
    return best


def _ratio(report: mfcnn.diagnosis.Report) -> float:
    """log10 of the squared gradient of the first layer with weights over that of the last."""
    logs = [layer.gradient.log10 for layer in report.layers if layer.parameters]
    return logs[0] - logs[-1]


def _distance(report: mfcnn.diagnosis.Report) -> float:
    """log10 of the distance 1 - c of two inputs at the last layer over that at the first."""
    gaps = [1 - layer.correlation.value for layer in report.layers if layer.parameters]
    with np.errstate(all="ignore"):
        return float(np.log10(max(gaps[-1], 0.0) / gaps[0]))


def _unit_variance(model: keras.Model, seed: int) -> None:
    """AutoInit's rule, as published: every layer's pre-activations have the variance one.

    Bingham and Miikkulainen 2023, "AutoInit: analytic signal-preserving weight initialization":
    truncated normal weights of variance 1 / (fan_in E[phi(z)^2]), z ~ N(0, 1), biases of zero; of
    the inputs it takes mean zero and variance one for granted.
    """
    square = 1.0
    for index, layer in enumerate(one for one in model.layers if one.weights):
        draw = keras.initializers.VarianceScaling(1 / square, "fan_in", seed=seed + index)
        layer.kernel.assign(draw(layer.kernel.shape))
        layer.bias.assign(np.zeros(layer.bias.shape))
        if layer.activation is not keras.activations.softmax:
            square = float(activations.get(layer.activation).second_moment(1.0))


def starts(model: keras.Model, x: np.ndarray, seed: int) -> dict[str, keras.Model]:
    """The same network by several initializations: Keras's own, repaired, and of others.

    AnyInit, by its default call, is among them where the package is installed.
    """
    found = {"before": model, "after": mfcnn.repair(model, x, seed=seed)}
    others: dict[str, Any] = {"autoinit": _unit_variance}
    if importlib.util.find_spec("anyinit"):
        anyinit = importlib.import_module("anyinit")
        others["anyinit"] = lambda one, seed: anyinit.initialize(one, seed=seed)
    for name, initialize in others.items():
        found[name] = keras.models.clone_model(model)
        initialize(found[name], seed)
    return found


def plain(settings: dict, digits: tuple[np.ndarray, ...]) -> tuple[list[dict], list]:
    """A row for each plain net and start, and the reports of all."""
    rows, reports = [], []
    x = digits[0][:16]
    learn = settings["steps"], settings["learning_rates"], settings["seed"]
    for activation in settings["activations"]:
        keras.utils.set_random_seed(settings["seed"])
        model = zoo.plain(activation, settings["depth"], settings["width"])
        for start, one in starts(model, x, settings["seed"]).items():
            report = mfcnn.diagnose(one, x, draws=0, tangent_kernel=False)
            accuracy = trained(one, digits, *learn)
            row: dict[str, Any] = {
                "activation": activation,
                "depth": settings["depth"],
                "width": settings["width"],
                "start": start,
                "trainable": report.trainable,
                "log10_gradient_ratio": _ratio(report),
                "training_accuracy": accuracy[0],
                "test_accuracy": accuracy[1],
            }
            print(row, flush=True)
            rows.append(row)
            reports.append(report)
    return rows, reports


def verdicts(settings: dict, digits: tuple[np.ndarray, ...]) -> list[dict]:
    """A row for each model: its verdict, and whether it learns."""
    rows, x = [], digits[0][:16]
    learn = settings["steps"], settings["learning_rates"], settings["seed"]
    for name, make in list(judged.models().items())[: settings["models"]]:
        keras.utils.set_random_seed(settings["seed"])
        model = make()
        report = mfcnn.diagnose(model, x, draws=2, tangent_kernel=False)
        accuracy = trained(model, digits, *learn)[0]
        row = {
            "model": name,
            "trainable": report.trainable,
            "warnings": sum(finding.severity == "warning" for finding in report.findings),
            "log10_gradient_ratio": _ratio(report),
            "log10_distance_ratio": _distance(report),
            "training_accuracy": accuracy,
            "learned": accuracy >= _LEARNED,
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def draw(rows: list[dict], reports: list) -> Figure:
    """Squared gradients against depth, by start, a panel for each activation."""
    names = list(dict.fromkeys(row["activation"] for row in rows))
    figure, axes = common.subplots(1, len(names), figsize=(3.2 * len(names), 3.2), sharey=True)
    for axis, name in zip(np.atleast_1d(axes), names):
        for row, report in zip(rows, reports):
            if row["activation"] == name:
                logs = [layer.gradient.log10 for layer in report.layers if layer.parameters]
                label = f"{row['start']}: accuracy {row['test_accuracy']:.2f}"
                axis.plot(np.arange(1, len(logs) + 1), logs, label=label)
        axis.set(title=f"{name}, {rows[0]['depth']} layers", xlabel="layer", ylim=(-30, 10))
        axis.legend(fontsize=6)
    np.atleast_1d(axes)[0].set_ylabel("log10 squared gradient")
    return figure


def main(_: list[str]) -> None:
    """Measures both, writes the tables and the picture."""
    settings = common.settings(_QUICK, _PAPER)
    directory = common.prepare_output_dir(settings)
    digits = _digits()
    rows, reports = plain(settings, digits)
    common.write_csv(directory / "plain.csv", rows)
    common.save_figure(draw(rows, reports), directory / "repairs.png")
    found = verdicts(settings, digits)
    common.write_csv(directory / "verdicts.csv", found)
    for learned in (True, False):
        counts = [
            sum(row["learned"] == learned and row["trainable"] == said for row in found)
            for said in (True, False)
        ]
        words = "learned" if learned else "did not learn"
        print(f"{words}: {counts[0]} said to train, {counts[1]} said not to")


def define_flags() -> None:
    """Defines the flags of this binary."""
    common.define_flags("repairs")
    common.define_override(
        "activations", "Plain nets.", common.define_names, accepted=_QUICK["activations"]
    )
    for name, words in (
        ("depth", "Layers of the plain nets."),
        ("width", "Their units."),
        ("steps", "Training steps."),
        ("models", "At most so many models of verdicts.csv."),
    ):
        common.define_override(name, words, lower_bound=1)
    common.define_override("learning_rates", "Of Adam.", common.define_numbers, above=0)


if __name__ == "__main__":  # flags are defined here only: a test can import many binaries
    binary.start(define_flags, main)
