"""Effective rank of the feature matrix of linearized networks: Figure 5 of their paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.effective_rank

The matrix of the features grad_w f_l(w0, x_i) has a row for each example and output, 6,000 at 600
examples. It is never formed: its singular values come from the tangent kernel, in float64, which is
computed in blocks of half a gigabyte; peak_mb in the table is the largest memory of the process.
"""

import functools
import pathlib
import resource
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from experiments import binary, common, pairs, ranges, samarin, sweep
from experiments.curves import Rows, column
from mfcnn import data, empirical, models

FLAGS = flags.FLAGS
_CLASSES = 10

# The settings of the presets.
_QUICK = {"dataset": "mnist", "width_factors": ["1", "2", "5"], "examples": 600}


def rank_of_features(
    architecture: str, images: np.ndarray, classes: int, width_factor: float, seed: int
) -> tuple[float, int]:
    """The effective rank of the feature matrix at a random start.

    Args:
        architecture: "lenet" or "alexnet".
        images: [n, h, w, c].
        classes: number of outputs.
        width_factor: factor on all widths.
        seed: of the start.

    Returns:
        (a float between 1 and n * classes, the number of parameters).
    """
    model = getattr(models, architecture)(
        images.shape[1:], classes, width_factor, seed=seed, dtype="float64"
    )
    return empirical.feature_effective_rank(model, images.astype("float64")), model.count_params()


def measure(images: np.ndarray, seed: int, point: Mapping[str, Any], folder: pathlib.Path) -> Rows:
    """The row of one network."""
    del folder  # it is done in one go
    start = time.process_time()
    rank, parameters = rank_of_features(**point, images=images, classes=_CLASSES, seed=seed)
    return [
        {
            "parameters": parameters,
            "rows": _CLASSES * len(images),
            "effective_rank": rank,
            "cpu_seconds": time.process_time() - start,
            # Of the process: weights in float64, the kernel of all rows, and what is at work.
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    ]


def draw(rows: Rows, dataset: str) -> Figure:
    """The effective rank over the width factor: Figure 5."""
    figure, axis = common.subplots(figsize=(5, 3.6))
    factors = column(rows, "width_factor")
    axis.plot(factors, column(rows, "effective_rank"), "o-")
    axis.set(
        xscale="log",
        xlabel="width factor",
        ylabel=f"effective rank of {rows[0]['rows']:.0f} rows",
        title=f"{rows[0]['architecture']} on {dataset}",
    )
    axis.set_xticks(factors, [f"{factor:g}" for factor in factors])
    axis.minorticks_off()
    return figure


def define_flags() -> None:
    """Defines the flags of this binary."""
    sweep.define_flags("effective_rank")
    common.define_override(
        "dataset", "Data set; digits are enlarged.", flags.DEFINE_enum, enum_values=data.NAMES
    )
    flags.DEFINE_enum("architecture", "lenet", ["lenet", "alexnet"], "The network.")
    common.define_override(
        "width_factors", "Factors of the widths.", common.define_numbers, **ranges.WIDTH_FACTOR
    )
    common.define_override("examples", "Number of training examples.", lower_bound=1)


def main(_: list[str]) -> None:
    """Computes the ranks, writes the table and draws the figure."""
    printed = samarin.set_up(FLAGS.architecture, FLAGS.dataset)
    paper = {name: printed[name] for name in ("dataset", "width_factors")}
    settings = common.settings(_QUICK, paper, ("architecture",))
    directory = sweep.open_sweep(settings)
    architecture, dataset, seed = (settings[k] for k in ("architecture", "dataset", "seed"))
    side = pairs.side(architecture, dataset)
    images = data.load_arrays(dataset, "train", settings["examples"], seed, resize=side)[0]
    points = [
        {"architecture": architecture, "width_factor": float(factor)}
        for factor in settings["width_factors"]
    ]
    rows = sweep.run(
        points,
        functools.partial(measure, images, seed),
        directory,
        cost=lambda point: 1 + point["width_factor"] ** 2,
    )
    if rows is not None:
        common.save_figure(draw(rows, dataset), directory / "effective_rank.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
