"""A report for each of many models: its time, its memory, and how far theory is from measurement.

    python -m experiments.reports --output_dir=experiments/results/reports

metrics.csv has a row for each model: thirteen of keras.applications with weights=None at their
least size, and small ones of many kinds. Batch normalization takes its moving statistics, so that
theory reads it. A deviation is measurement over theory minus one; of a correlation below 0.3 the
difference. It is explained where it is within four standard errors of the mean over the draws;
median and worst are of all. deviations.png shows them beside the standard errors.
"""

import resource
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from absl import flags
from matplotlib.figure import Figure

import mfcnn
from experiments import applications, binary, common, zoo

FLAGS = flags.FLAGS
_QUICK = {"inputs": 8, "draws": 4, "models": 100}
_PAPER = {"draws": 10}
_QUANTITIES = ("variance", "correlation", "gradient", "weight_gradient")
_Made = tuple[keras.Model, Any]


def cases(count: int, seed: int) -> dict[str, Callable[[], _Made]]:
    """Name: a function that makes the model and a batch for it."""
    rng = np.random.default_rng(seed)
    digits = mfcnn.data.load_arrays("digits", "train", subset=count)[0]
    small = {name: lambda one=one: (one, digits) for name, one in zoo.wide().items()}
    odd = {name: lambda make=make: make(rng, count) for name, make in zoo.odd().items()}
    large = {
        name: lambda name=name: applications.make(name, count, seed) for name in applications.SIZES
    }
    return {**large, **small, **odd}


def _deviation(quantity: mfcnn.diagnosis.Quantity, name: str) -> float:
    if name == "correlation" and abs(quantity.theory) < 0.3:
        return abs(quantity.value - quantity.theory)
    return abs(quantity.deviation)


def _known(report: mfcnn.diagnosis.Report) -> list[tuple[str, float, float]]:
    """(layer and quantity, deviation, standard errors) of what theory knows."""
    found = []
    for layer in report.layers:
        for name in _QUANTITIES:
            quantity = getattr(layer, name)
            if np.isfinite(quantity.value) and np.isfinite(quantity.theory):
                errors = abs(quantity.standard_errors)
                found.append((f"{layer.name} {name}", _deviation(quantity, name), errors))
    return found


def row(name: str, make: Callable[[], _Made], draws: int, seed: int) -> tuple[dict, list]:
    """The row of one model, and what theory knows of it."""
    keras.utils.set_random_seed(seed)
    model, x = make()
    wall, used = time.perf_counter(), time.process_time()
    report = mfcnn.diagnose(model, x, draws, seed, training=False)
    wall, used = time.perf_counter() - wall, time.process_time() - used
    known = _known(report)
    measured = sum(
        np.isfinite(getattr(layer, name).value) for layer in report.layers for name in _QUANTITIES
    )
    worst = max(known, key=lambda one: one[1], default=("", np.nan, np.nan))
    result = {
        "model": name,
        "parameters": model.count_params(),
        "calls": len(report.layers),
        "seconds": round(wall, 1),
        "cpu_seconds": round(used, 1),
        "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "quantities": int(measured),
        "known": len(known),
        "median_deviation": float(np.median([one[1] for one in known])) if known else np.nan,
        "worst_deviation": worst[1],
        "worst_at": worst[0],
        "worst_standard_errors": worst[2],
        "unexplained": sum(one[1] > 0.1 and not one[2] < 4 for one in known),
        "trainable": report.trainable,
    }
    return result, known


def draw(known: list[list]) -> Figure:
    """Deviations beside their standard errors, one color for all."""
    figure, axis = common.subplots(1, 1, figsize=(5, 4))
    points = np.array([one[1:] for several in known for one in several], float).reshape(-1, 2)
    axis.loglog(points[:, 0], points[:, 1], ".", ms=3, alpha=0.5)
    axis.axhline(4, color="tab:red", lw=1, label="four standard errors")
    axis.axvline(0.1, color="tab:gray", lw=1, label="10 %")
    axis.set(xlabel="deviation from theory", ylabel="in standard errors")
    axis.legend(fontsize=8)
    return figure


def main(_: list[str]) -> None:
    """Reports on all of them, writes the table and the picture."""
    settings = common.settings(_QUICK, _PAPER)
    directory = common.prepare_output_dir(settings)
    rows, known = [], []
    makers = list(cases(settings["inputs"], settings["seed"]).items())[: settings["models"]]
    for name, make in makers:
        one, found = row(name, make, settings["draws"], settings["seed"])
        print(one, flush=True)
        rows.append(one)
        known.append(found)
        keras.backend.clear_session()
        common.write_csv(directory / "metrics.csv", rows)  # what there is, if it is stopped
    common.save_figure(draw(known), directory / "deviations.png")


def define_flags() -> None:
    """Defines the flags of this binary."""
    common.define_flags("reports")
    common.define_override("inputs", "The number of inputs.", lower_bound=2)
    common.define_override("draws", "Initializations beside the theory.", lower_bound=2)
    common.define_override("models", "At most so many models.", lower_bound=1)


if __name__ == "__main__":
    binary.start(define_flags, main)
