"""What diagnosis says and repair does: models before and after, theory beside measurement.

    python -m experiments.repairs --output_dir=experiments/results/diagnose

    plain.csv       plain nets of --depth layers with Keras's own initialization: what the report
                    says, and the test accuracy after --steps steps of Adam, before and after repair
    deviations.csv  models of many kinds: how far measurement is from theory where theory speaks
    verdicts.csv    models that train and that do not: the verdict beside the training accuracy

Each model is trained at the best of --learning_rates. The picture shows the plain nets' squared
gradients, before and after.
"""

from typing import Any

import keras
import numpy as np
from absl import flags
from matplotlib.figure import Figure

import mfcnn
from experiments import binary, common, zoo
from mfcnn import data

FLAGS = flags.FLAGS
_QUICK = {
    "activations": ["tanh", "relu", "sigmoid", "gelu"],
    "depth": 100,
    "width": 32,
    "steps": 300,
    "draws": 10,
    "learning_rates": [1e-3, 1e-4],
    "models": 100,
}
_PAPER = {"draws": 30, "width": 64, "steps": 1000}
_QUANTITIES = ("variance", "correlation", "gradient", "weight_gradient")
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
    for rate in learning_rates:
        keras.utils.set_random_seed(seed)
        model.set_weights(weights)
        optimizer = keras.optimizers.Adam(float(rate))
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        rows = np.random.default_rng(seed).integers(len(images), size=steps * _BATCH)
        model.fit(images[rows], labels[rows], _BATCH, shuffle=False, verbose=0)
        found = [
            model.evaluate(x, y, 256, verbose=0)[1]
            for x, y in ((images[:512], labels[:512]), (test_images, test_labels))
        ]
        best = max(best, (found[0], found[1]))
    model.set_weights(weights)
    return best


def _ratio(report: mfcnn.diagnosis.Report) -> float:
    """log10 of the squared gradient of the first layer with weights over that of the last."""
    logs = [layer.gradient.log10 for layer in report.layers if layer.parameters]
    return logs[0] - logs[-1]


def plain(settings: dict, digits: tuple[np.ndarray, ...]) -> tuple[list[dict], list]:
    """Rows of the plain nets, and their reports before and after."""
    rows, reports = [], []
    x = digits[0][:16]
    for activation in settings["activations"]:
        keras.utils.set_random_seed(settings["seed"])
        model = zoo.plain(activation, settings["depth"], settings["width"])
        repaired = mfcnn.repair(model, x, seed=settings["seed"])
        pair = [mfcnn.diagnose(one, x, draws=0, tangent_kernel=False) for one in (model, repaired)]
        learn = settings["steps"], settings["learning_rates"], settings["seed"]
        row: dict[str, Any] = {"activation": activation, "depth": settings["depth"]}
        for name, one, report in zip(("before", "after"), (model, repaired), pair):
            row |= {
                f"trainable_{name}": report.trainable,
                f"log10_gradient_ratio_{name}": _ratio(report),
                f"test_accuracy_{name}": trained(one, digits, *learn)[1],
            }
        print(row, flush=True)
        rows.append(row)
        reports.append(pair)
    return rows, reports


def deviations(settings: dict, digits: tuple[np.ndarray, ...]) -> list[dict]:
    """A row for each model: the relative deviations of all quantities that theory knows."""
    rows, x = [], digits[0][:8]
    for name, model in list(zoo.wide().items())[: settings["models"]]:
        report = mfcnn.diagnose(
            model, x, settings["draws"], settings["seed"], training=False, tangent_kernel=False
        )
        known = [getattr(layer, q) for layer in report.layers for q in _QUANTITIES]
        measured = [q for q in known if np.isfinite(q.value)]
        known = [q for q in measured if np.isfinite(q.theory)]
        # Of a correlation the distance itself: it may be near zero.
        far = [
            abs(q.value - q.theory) if abs(q.theory) < 1 and q.theory < 0.3 else abs(q.deviation)
            for q in known
        ]
        errors = [abs(q.standard_errors) for q in known if np.isfinite(q.standard_errors)]
        row = {
            "model": name,
            "quantities": len(measured),
            "known": len(known),
            "median_deviation": float(np.median(far)) if far else float("nan"),
            "worst_deviation": max(far, default=float("nan")),
            "median_standard_errors": float(np.median(errors)) if errors else float("nan"),
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def verdicts(settings: dict, digits: tuple[np.ndarray, ...]) -> list[dict]:
    """A row for each model: its verdict, and whether it learns."""
    rows, x = [], digits[0][:16]
    learn = settings["steps"], settings["learning_rates"], settings["seed"]
    for name, make in list(zoo.judged().items())[: settings["models"]]:
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
    """Squared gradients against depth, before and after repair."""
    figure, axes = common.subplots(1, len(rows), figsize=(3 * len(rows), 3), sharey=True)
    for axis, row, pair in zip(np.atleast_1d(axes), rows, reports):
        for name, color, report in zip(("before", "after"), ("tab:red", "tab:blue"), pair):
            logs = [layer.gradient.log10 for layer in report.layers if layer.parameters]
            label = f"{name}: test accuracy {row[f'test_accuracy_{name}']:.2f}"
            axis.plot(np.arange(1, len(logs) + 1), logs, color=color, label=label)
        axis.set(title=f"{row['activation']}, {row['depth']} layers", xlabel="layer")
        axis.legend(fontsize=7)
    np.atleast_1d(axes)[0].set_ylabel("log10 squared gradient")
    return figure


def main(_: list[str]) -> None:
    """Measures all three, writes the tables and the picture."""
    settings = common.settings(_QUICK, _PAPER)
    directory = common.prepare_output_dir(settings)
    digits = _digits()
    rows, reports = plain(settings, digits)
    common.write_csv(directory / "plain.csv", rows)
    common.save_figure(draw(rows, reports), directory / "repairs.png")
    common.write_csv(directory / "deviations.csv", deviations(settings, digits))
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
        ("models", "At most so many models of each list."),
    ):
        common.define_override(name, words, lower_bound=1)
    common.define_override("draws", "Initializations beside the theory.", lower_bound=2)
    common.define_override("learning_rates", "Of Adam.", common.define_numbers, above=0)


if __name__ == "__main__":  # flags are defined here only: a test can import many binaries
    binary.start(define_flags, main)
