"""Effective rank of the feature matrix of linearized networks: Figure 5 of their paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.effective_rank

The matrix of the features grad_w f_l(w0, x_i) has a row for each example and output, 6,000 at 600
examples. It is never formed: its singular values come from the tangent kernel, in float64.
"""

import pathlib
import time
from typing import Any

import numpy as np
from absl import flags

from experiments import binary, common, sweep
from mfcnn import data, empirical, models

FLAGS = flags.FLAGS
_DIGITS_SIDE = {"lenet": 28, "alexnet": 64}


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
      A float between 1 and n * classes.
    """
    model = getattr(models, architecture)(
        images.shape[1:], classes, width_factor, seed=seed, dtype="float64"
    )
    return empirical.feature_effective_rank(model, images.astype("float64")), model.count_params()


def define_flags() -> None:
    """Defines the flags of this binary."""
    sweep.define_flags("effective_rank")
    common.define_override(
        "dataset", "Data set; digits are enlarged.", flags.DEFINE_enum, enum_values=data.NAMES
    )
    flags.DEFINE_enum("architecture", "lenet", ["lenet", "alexnet"], "The network.")
    common.define_override(
        "width_factors", "Factors of the widths.", common.define_numbers, above=0
    )
    common.define_override("examples", "Number of training examples.", lower_bound=1)


def main(_: list[str]) -> None:
    """Computes the ranks, writes the table and draws the figure."""
    settings = common.settings(
        quick={"dataset": "mnist", "width_factors": ["1", "2", "5"], "examples": 600},
        paper={"width_factors": ["1", "2", "5", "10", "25", "60"]},
    )
    settings |= {"architecture": FLAGS.architecture}
    directory = sweep.open_sweep(settings)
    dataset = settings["dataset"]
    images, _ = data.load_arrays(
        dataset,
        "train",
        settings["examples"],
        FLAGS.seed,
        resize=_DIGITS_SIDE[FLAGS.architecture] if dataset == "digits" else None,
    )

    def measure(point: Any, folder: pathlib.Path) -> list[dict[str, Any]]:
        del folder
        start = time.process_time()
        rank, parameters = rank_of_features(**point, images=images, classes=10, seed=FLAGS.seed)
        return [
            {
                "parameters": parameters,
                "rows": 10 * len(images),
                "effective_rank": rank,
                "cpu_seconds": time.process_time() - start,
            }
        ]

    points = [
        {"architecture": FLAGS.architecture, "width_factor": float(factor)}
        for factor in settings["width_factors"]
    ]
    rows = sweep.run(points, measure, directory, cost=lambda point: 1 + point["width_factor"] ** 2)
    if rows is None:
        return
    figure, axis = common.subplots(figsize=(5, 3.6))
    factors = [r["width_factor"] for r in rows]
    axis.plot(factors, [r["effective_rank"] for r in rows], "o-")
    axis.set(
        xscale="log",
        xlabel="width factor",
        ylabel=f"effective rank of {rows[0]['rows']:.0f} rows",
        title=f"{FLAGS.architecture} on {dataset}",
    )
    axis.set_xticks(factors, [f"{factor:g}" for factor in factors])
    axis.minorticks_off()
    common.save_figure(figure, directory / "effective_rank.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
