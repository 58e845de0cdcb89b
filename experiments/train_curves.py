"""Loss and accuracy of finished trainings against steps, images and hours, side by side.

    python -m experiments.train --dataset=mnist --depth=10000 ... --output_dir=runs/depth_10000
    python -m experiments.train --dataset=mnist --depth=1250 ... --output_dir=runs/depth_1250
    python -m experiments.train_curves --runs=runs/depth_10000,runs/depth_1250

Reads the tables of runs of `experiments.train`. Hours are steps times the median time of a step
between two rows of one process, by the times of the run's TensorBoard events: what a run waited
while it was stopped counts as nothing. Writes metrics.csv and train_curves.png.
"""

import csv
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments import binary, common
from experiments.curves import Rows, column, curves_of

FLAGS = flags.FLAGS
_SETTINGS: dict[str, Any] = {"runs": None}
_AGAINST = ("steps", "images", "hours")


def seconds_a_step(run: pathlib.Path) -> float:
    """Median time of a step between two rows that one process wrote.

    Args:
        run: folder of a run.

    Raises:
        ValueError: where no process wrote two rows.
    """
    found: list[float] = []
    for path in sorted((run / "tensorboard").glob("events*")):
        records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        events = map(tf.compat.v1.Event.FromString, records)
        times = {event.step: event.wall_time for event in events}
        times.pop(0, None)  # the file's own first event
        steps = sorted(times)
        found += [(times[b] - times[a]) / (b - a) for a, b in zip(steps, steps[1:])]
    if not found:
        raise ValueError(
            f"runs must have two rows by one process in their tensorboard folder. Received: {run}"
        )
    return float(np.median(found))


def rows_of(run: pathlib.Path) -> Rows:
    """The table of a run, with its name, depth, and images and hours up to each row."""
    config = json.loads((run / "config.json").read_text())
    if config.get("binary") != "train":
        raise ValueError(f"runs must be folders of experiments.train. Received: {run}")
    seconds = seconds_a_step(run)
    rows = []
    with open(run / "metrics.csv") as file:
        for texts in csv.DictReader(file):
            step = int(texts.pop("step"))
            place = {"run": run.name, "depth": config["depth"], "steps": step}
            place |= {"images": step * config["batch_size"], "hours": step * seconds / 3600}
            rows.append(place | {name: float(text) for name, text in texts.items()})
    return rows


def measure(settings: Mapping[str, Any]) -> Rows:
    """The rows of all runs, which must differ in name.

    Args:
        settings: dict of runs, paths.
    """
    folders = [pathlib.Path(path) for path in settings["runs"]]
    if len({folder.name for folder in folders}) < len(folders):
        raise ValueError(f"runs must differ in name. Received: {', '.join(map(str, folders))}")
    return [row for folder in folders for row in rows_of(folder)]


def draw(rows: Rows) -> Figure:
    """Training loss above, test accuracy below; a curve for each run."""
    curves = curves_of(rows, "run", "depth")
    depths = sorted({depth for _, depth in curves})
    figure, axes = common.subplots(2, 3, figsize=(11, 6), sharey="row", sharex="col")
    for (name, depth), curve in curves.items():
        label = f"{depth:,} layers" if len(depths) == len(curves) else name
        color = colormaps["viridis"](0.8 * depths.index(depth) / max(len(depths) - 1, 1))
        for place, against in enumerate(_AGAINST):
            x = column(curve, against)
            axes[0, place].semilogy(x, column(curve, "train_loss"), color=color, label=label)
            axes[1, place].plot(x, column(curve, "test_accuracy"), color=color, label=label)
            axes[0, place].set_title(f"training loss against {against}")
            axes[1, place].set(title=f"test accuracy against {against}", xlabel=against)
    axes[0, 2].set_xscale("log")  # hours of a step are proportional to depth
    axes[0, 0].legend()
    return figure


def report(rows: Rows) -> None:
    """Prints each run's last row."""
    for (name,), curve in curves_of(rows, "run").items():
        row = curve[-1]
        print(
            f"{name}: test accuracy {row['test_accuracy']:.2%} after {row['steps']:,} steps, "
            f"{row['images']:,} images, {row['hours']:.2f} hours."
        )


def _are_runs(paths: list[str] | None) -> bool:
    files = ("config.json", "metrics.csv")
    return (
        paths is None
        or bool(paths)
        and all((pathlib.Path(path) / name).is_file() for path in paths for name in files)
    )


def define_flags() -> None:
    """Defines the flags of this binary."""
    common.define_flags("train_curves")
    flags.DEFINE_list("runs", None, "Folders of runs of experiments.train, by commas.")
    flags.register_validator(
        "runs", _are_runs, "runs must be folders with config.json and metrics.csv, by commas"
    )


def main(_: list[str]) -> None:
    """Joins the tables, draws the figure, prints where each run ended."""
    settings = common.settings(_SETTINGS)
    if not settings["runs"]:
        raise ValueError("runs must name folders of experiments.train: --runs=runs/a,runs/b")
    rows = measure(settings)
    directory = common.prepare_output_dir(settings)
    common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(draw(rows), directory / "train_curves.png")
    report(rows)


if __name__ == "__main__":
    binary.start(define_flags, main)
