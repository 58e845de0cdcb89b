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
from typing import Any

import keras
import numpy as np
from absl import flags
from matplotlib.figure import Figure

import mfcnn
from experiments import binary, common, judged, zoo
from mfcnn import activations, data

FLAGS = flags.FLAGS
_QUICK = {
    "activations": ["tanh", "relu", "sigmoid", "gelu"],
    "depth": 100,
    "width": 32,
    "steps": 300,
    "learning_rates": [1e-3, 1e-4],
    "models": 100,
}
_PAPER = {"width": 64, "steps": 1000}
_LEARNED = 0.5  # training accuracy from which on a model trains; chance is 0.1
_BATCH = 32


def _digits() -> tuple[np.ndarray, ...]:
    """(training images, labels, test images, labels)."""
    return *data.load_arrays("digits", "train"), *data.load_arrays("digits", "test")


def trained(
    model: keras.Model,
    digits: tuple[np.ndarray, ...],
    steps: int,
    learning_rates: list[float],
    seed: int,
) -> tuple[float, float]:
    """(training accuracy, test accuracy) at the best of some learning rates."""
    images, labels, test_images, test_labels = digits
    weights, best = model.get_weights(), (-1.0, 0.0)
    optimizer = keras.optimizers.Adam()
    model.compile(  # one program for all rates
        optimizer,
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
        steps_per_execution=min(50, steps),
    )
    optimizer.build(model.trainable_variables)
    state = [variable.numpy() for variable in optimizer.variables]
    rows = np.random.default_rng(seed).integers(len(images), size=steps * _BATCH)
    for rate in learning_rates:
        keras.utils.set_random_seed(seed)
        model.set_weights(weights)
        for variable, value in zip(optimizer.variables, state):
            variable.assign(value)
        optimizer.learning_rate = float(rate)
        model.fit(images[rows], labels[rows], _BATCH, shuffle=False, verbose=0)
        found = [
            float(np.mean(np.argmax(model.predict(x, 512, verbose=0), -1) == y))
            for x, y in ((images[:512], labels[:512]), (test_images, test_labels))
        ]
        best = max(best, (found[0], found[1]))
    model.set_weights(weights)
    return best


def _ratio(report: mfcnn.diagnosis.Report) -> float:
    """log10 of the squared gradient of the first layer with weights over that of the last."""
    logs = [layer.gradient.log10 for layer in report.layers if layer.parameters]
    return logs[0] - logs[-1]


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

    AnyInit (analytic and empirical) is among them where the package is installed.
    """
    found = {"before": model, "after": mfcnn.repair(model, x, seed=seed)}
    others: dict[str, Any] = {"autoinit": _unit_variance}
    if importlib.util.find_spec("anyinit"):
        anyinit = importlib.import_module("anyinit")
        others["anyinit"] = lambda one, seed: anyinit.initialize(one, seed=seed)
        others["anyinit_data"] = lambda one, seed: anyinit.initialize(
            one, "empirical", x, seed=seed
        )
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
