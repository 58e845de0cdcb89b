"""Test accuracy of the infinite-width mean predictor over depth and sigma_w^2 (NTK paper, Fig. 3).

    python -m experiments.ntk_prediction --output_dir=runs/ntk_prediction

CNN-P, CNN-F and their difference, by the NTK predictor at infinite time (equation 5), with the
depth scales xi_1 (ordered phase) and xi_* (chaotic phase) drawn in. Below the accuracy: how much
the prediction varies over the test inputs, in units of the targets. That is the size of the part
that depends on data; in the chaotic phase it falls as exp(-depth / xi_*), whereas the largest of
ten outputs, whatever their size, is found as long as they have digits.

`--ridge` is what the diagonal is raised by, in units of its mean: the regularization of the paper's
section 3.2. In the ordered phase it ends the learning where the kernel's small eigenvalues, d times
smaller for CNN-P, fall below it.

The paper's 32 x 32 images mean 10^6 pairs of positions for each pair of images with pooling, hours
on accelerators; `--resize=8` costs 256 times less.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import flags, logging
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import binary, common, maps, ranges
from experiments.curves import Rows, column
from mfcnn import data, kernels

FLAGS = flags.FLAGS
READOUTS = ("pool", "flatten")

# The settings of the presets.
_QUICK = {
    "dataset": "digits",
    "train_size": 60,
    "test_size": 80,
    "grid": 12,
    "max_depth": 64,
    "resize": 4,
    "activation": "erf",
    "bias_variance": 0.18,
    "ridge": 1e-6,
}
_PAPER = {
    "dataset": "cifar10",
    "train_size": 1000,
    "test_size": 1000,
    "grid": 20,
    "max_depth": 100,
    "resize": None,
}


def predict(
    train_train: np.ndarray,
    test_train: np.ndarray,
    y_train: np.ndarray,
    y_test: np.ndarray,
    classes: int,
    ridge: float,
) -> tuple[float, float]:
    """(test accuracy, variation of the prediction over test inputs) of the mean predictor.

    NaN where the kernel has no digits left to invert, which takes ridge = 0.

    Args:
        train_train: NTK on the training inputs [m, m], up to a factor.
        test_train: [n, m], with the same factor.
        y_train: labels [m].
        y_test: labels [n].
        classes: their number.
        ridge: in units of the mean of the diagonal.
    """
    scale = np.mean(np.diag(train_train))
    targets = np.eye(classes)[y_train] - 1 / classes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few digits suffice for the largest of ten outputs
            prediction = kernels.predict(
                train_train / scale, test_train / scale, targets, ridge=ridge
            )
    except ValueError as error:
        if "no correct digit" not in str(error):
            raise
        return np.nan, np.nan
    accuracy = np.mean(np.argmax(prediction, axis=1) == y_test)
    return float(accuracy), float(np.std(prediction, axis=0).mean() / np.std(targets))


def load(settings: Mapping[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images and labels, for training and for test."""
    name, seed, side = (settings[k] for k in ("dataset", "seed", "resize"))
    return [
        data.load_arrays(name, split, settings[f"{split}_size"], seed, resize=side)
        for split in ("train", "test")
    ]


def measure(settings: Mapping[str, Any]) -> Iterator[Rows]:
    """The rows of each weight variance in turn."""
    arrays, grid = load(settings), settings["grid"]
    depths = np.unique(np.round(np.geomspace(1, settings["max_depth"], grid)).astype(int)).tolist()
    for weight_variance in np.linspace(0.6, 4.0, grid):
        yield measure_depths(weight_variance, depths, settings, arrays)
        logging.info("weight variance %.2f done", weight_variance)


def measure_depths(
    weight_variance: float,
    depths: list[int],
    settings: Mapping[str, Any],
    arrays: list[tuple[np.ndarray, np.ndarray]],
) -> Rows:
    """Rows of one weight variance: all depths, both readouts."""
    (x_train, y_train), (x_test, y_test) = arrays
    classes = int(max(y_train.max(), y_test.max())) + 1
    arguments = settings["activation"], weight_variance, settings["bias_variance"]
    limit = kernels.limits(*arguments)
    rows = [
        {
            "depth": depth,
            "weight_variance": float(weight_variance),
            "phase": limit.phase,
            "xi_1": limit.xi_1,
            "xi_star": limit.xi_star,
        }
        for depth in depths
    ]
    for readout in READOUTS:
        kernel = kernels.convolutional(depths, *arguments, readout=readout)
        train = kernel(x_train, get=("ntk",), log_scale=True)
        test = kernel(x_test, x_train, get=("ntk",), log_scale=True)
        # Each call has a scale of its own.
        factor = np.exp(np.asarray(test.log_scale) - np.asarray(train.log_scale))
        for row, train_train, test_train, f in zip(rows, train.ntk, test.ntk, factor):
            row[f"accuracy_{readout}"], row[f"variation_{readout}"] = predict(
                train_train.numpy(),
                f * test_train.numpy(),
                y_train,
                y_test,
                classes,
                settings["ridge"],
            )
    return rows


def draw(rows: Rows) -> Figure:
    """Accuracy of CNN-P, CNN-F, their difference; under it the variation, with both scales."""
    weights, depths, _ = maps.table(rows, "depth")
    figure, axes = common.subplots(2, 3, figsize=(12, 7), sharey=True, sharex=True)
    for line, quantity, name in zip(
        axes, ("accuracy", "variation"), ("test accuracy", "log10 variation")
    ):
        pool, flatten = (maps.table(rows, f"{quantity}_{readout}")[2] for readout in READOUTS)
        limits = (0.0, 1.0)
        if quantity == "variation":
            pool, flatten = (np.log10(np.maximum(values, 1e-12)) for values in (pool, flatten))
            limits = min(map(np.nanmin, (pool, flatten))), max(map(np.nanmax, (pool, flatten)))
        bound = max(float(np.nanmax(np.abs(pool - flatten))), 1e-3)
        for axis, values, title, colors, (low, high) in (
            (line[0], pool, "CNN-P", "viridis", limits),
            (line[1], flatten, "CNN-F", "viridis", limits),
            (line[2], pool - flatten, "CNN-P minus CNN-F", "coolwarm", (-bound, bound)),
        ):
            image = axis.pcolormesh(weights, depths, values, cmap=colors, vmin=low, vmax=high)
            figure.colorbar(image, ax=axis)
            _draw_scales(axis, rows, "w" if colors == "viridis" else "k")
            axis.set(title=f"{name}, {title}", yscale="log", ylim=(depths[0], depths[-1]))
        line[0].set_ylabel("depth")
    for axis in axes[-1]:
        axis.set_xlabel(r"$\sigma_w^2$")
    axes[0, 2].legend(loc="lower center")
    return figure


def _draw_scales(axis: Axes, rows: Rows, ordered: str) -> None:
    """xi_1 in the ordered phase, in the given colour, and xi_* in the chaotic phase in red."""
    for name, label, phase, color in (
        ("xi_1", r"$\xi_1$", "ordered", ordered),
        ("xi_star", r"$\xi_*$", "chaotic", "r"),
    ):
        curve = sorted({(r["weight_variance"], r[name]) for r in rows if r["phase"] == phase})
        if curve:
            axis.plot(*np.array(curve).T, "--", color=color, label=label)


def report(rows: Rows) -> None:
    """Prints where each readout is at its best."""
    for readout in READOUTS:
        name = f"accuracy_{readout}"
        row = rows[int(np.argmax(np.nan_to_num(column(rows, name))))]
        print(
            f"{readout}: best accuracy {row[name]:.3f} at depth {row['depth']}, "
            f"weight variance {row['weight_variance']:.2f} ({row['phase']})"
        )


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("ntk_prediction")
    common.define_override(
        "dataset", "Name of the data set.", flags.DEFINE_enum, enum_values=data.NAMES
    )
    common.define_override("train_size", "Number of training examples.", lower_bound=10)
    common.define_override("test_size", "Number of test examples.", lower_bound=10)
    common.define_override("grid", "Depths and variances on each axis.", lower_bound=2)
    common.define_override("max_depth", "Largest depth.", lower_bound=2)
    common.define_override("resize", "Height and width of the images.", lower_bound=3)
    common.define_override(
        "ridge",
        "What the diagonal is raised by, in units of its mean.",
        flags.DEFINE_float,
        **ranges.FRACTION,
    )


def main(_: list[str]) -> None:
    """Evaluates the grid, writes metrics.csv (variance by variance) and ntk_prediction.png."""
    settings = common.settings(_QUICK, _PAPER)
    directory = common.prepare_output_dir(settings)
    rows: Rows = []
    for found in measure(settings):
        rows += found
        common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(draw(rows), directory / "ntk_prediction.png")
    report(rows)


if __name__ == "__main__":
    binary.start(define_flags, main)
