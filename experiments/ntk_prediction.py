"""Test accuracy of the infinite-width mean predictor over depth and sigma_w^2 (NTK paper, Fig. 3).

    TFDS_DATA_DIR=../shared/tfds python -m experiments.ntk_prediction

CNN-P, CNN-F and their difference, by the NTK predictor at infinite time (equation 5). Each image is
scaled so that the mean variance of its first pre-activations is q*, as section 3 of the paper
assumes; `--normalization=none` leaves the pixels as they are. The training images are drawn at
random, not balanced over the classes: see `samples.draw`.

Curves mark 1, 6 and 12 times xi_1 (ordered phase) and xi_* (chaotic phase). Below the accuracy: how
much the prediction varies over the test inputs, in units of the targets, over depth / xi. That is
the size of the part that depends on data; in the chaotic phase it falls as exp(-depth / xi_*).

`--ridge` is what the diagonal is raised by, in units of its mean: the regularization of the paper's
section 3.2. In the ordered phase it ends the learning where the kernel's small eigenvalues, d times
smaller for CNN-P, fall below it.

The paper's 32 x 32 images mean 10^6 pairs of positions for each pair of images with pooling, hours
on accelerators; `--resize=8` costs 256 times less.
"""

import functools
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import binary, common, maps, ranges, samples, sweep
from experiments.curves import Rows, column, curves_of
from mfcnn import data, kernels

FLAGS = flags.FLAGS
READOUTS = ("pool", "flatten")
_NAMES = {"pool": "CNN-P", "flatten": "CNN-F"}
_MULTIPLES = {1: "-", 6: "--", 12: ":"}
_WEIGHT_VARIANCES = (0.6, 4.0)

# The settings of the presets.
_QUICK = {
    "dataset": "mnist",
    "train_size": 100,
    "test_size": 1000,
    "grid": 11,
    "max_depth": 64,
    "resize": 4,
    "activation": "erf",
    "bias_variance": 0.18,
    "ridge": 1e-6,
    "normalization": "fixed_point",
}
_PAPER = {
    "dataset": "cifar10",
    "train_size": 1000,
    "grid": 20,
    "max_depth": 100,
    "resize": None,
}


def depths_of(count: int, largest: int) -> list[int]:
    """Depths from 1 to the largest, about geometric, as many as asked for as far as there are."""
    found = [1]
    while found[-1] < largest:
        left = max(count - len(found), 1)
        step = found[-1] * (largest / found[-1]) ** (1 / left)
        found.append(max(found[-1] + 1, min(round(step), largest)))
    return found


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
    targets = samples.targets(y_train, classes)
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
        samples.draw(name, split, settings[f"{split}_size"], seed, side)
        for split in ("train", "test")
    ]


def measure(
    settings: Mapping[str, Any],
    arrays: list[tuple[np.ndarray, np.ndarray]],
    depths: list[int],
    point: sweep.Point,
    _: pathlib.Path,
) -> Rows:
    """Rows of one weight variance: all depths, both readouts."""
    (x_train, y_train), (x_test, y_test) = arrays
    variances = point["weight_variance"], settings["bias_variance"]
    limit = kernels.limits(settings["activation"], *variances)
    if settings["normalization"] == "fixed_point":
        x_train, x_test = (samples.at_fixed_point(x, limit, *variances) for x in (x_train, x_test))
    rows: Rows = [
        {"depth": d, "phase": limit.phase, "xi_1": limit.xi_1, "xi_star": limit.xi_star}
        for d in depths
    ]
    labels = y_train, y_test
    for readout in READOUTS:
        kernel = kernels.convolutional(depths, settings["activation"], *variances, readout=readout)
        found = measure_readout(kernel, (x_train, x_test), labels, settings["ridge"])
        for row, (accuracy, variation) in zip(rows, found):
            row[f"accuracy_{readout}"], row[f"variation_{readout}"] = accuracy, variation
            row[f"error_{readout}"] = float(np.sqrt(accuracy * (1 - accuracy) / len(y_test)))
    return rows


def measure_readout(
    kernel: kernels.Kernel,
    images: tuple[np.ndarray, np.ndarray],
    labels: tuple[np.ndarray, np.ndarray],
    ridge: float,
) -> list[tuple[float, float]]:
    """(accuracy, variation) at each depth of a kernel, of (training, test) images and labels."""
    (x_train, x_test), (y_train, y_test) = images, labels
    classes = int(max(y_train.max(), y_test.max())) + 1
    train = kernel(x_train, get=("ntk",), log_scale=True)
    test = kernel(x_test, x_train, get=("ntk",), log_scale=True)
    # Each call has a scale of its own.
    factor = np.exp(np.asarray(test.log_scale) - np.asarray(train.log_scale))
    return [
        predict(train_train.numpy(), f * test_train.numpy(), y_train, y_test, classes, ridge)
        for train_train, test_train, f in zip(train.ntk, test.ntk, factor)
    ]


def draw(rows: Rows) -> Figure:
    """Accuracy of CNN-P, CNN-F and their difference; under it the variation over depth / xi."""
    figure, axes = common.subplots(2, 3, figsize=(12, 7.5))
    pool, flatten = (maps.table(rows, f"accuracy_{readout}")[2] for readout in READOUTS)
    weights, depths, _ = maps.table(rows, "depth")
    bound = max(float(np.nanmax(np.abs(pool - flatten))), 1e-3)
    error = max(max(row[f"error_{readout}"] for row in rows) for readout in READOUTS)
    for axis, values, title, colors, limits in (
        (axes[0, 0], pool, "CNN-P", "viridis", (0, 1)),
        (axes[0, 1], flatten, "CNN-F", "viridis", (0, 1)),
        (axes[0, 2], pool - flatten, "CNN-P minus CNN-F", "coolwarm", (-bound, bound)),
    ):
        image = axis.pcolormesh(weights, depths, values, cmap=colors, clim=limits)
        figure.colorbar(image, ax=axis)
        _draw_scales(axis, rows, "w" if colors == "viridis" else "k")
        axis.set(title=f"test accuracy, {title}", yscale="log", ylim=(depths[0], depths[-1]))
        axis.set(xlabel=r"$\sigma_w^2$", ylabel="depth")
    axes[0, 2].legend(fontsize=7, loc="lower center")
    for axis, phase in zip(axes[1], ("ordered", "chaotic")):
        _draw_variation(axis, rows, phase)
    _draw_accuracy(axes[1, 2], rows)
    figure.suptitle(f"standard errors of the accuracies: at most {error:.3f}", fontsize=10)
    return figure


def _draw_scales(axis: Axes, rows: Rows, ordered: str) -> None:
    """Multiples of xi_1 in the ordered phase, in the given colour, and of xi_* in red."""
    for name, label, phase, color in (
        ("xi_1", r"\xi_1", "ordered", ordered),
        ("xi_star", r"\xi_*", "chaotic", "r"),
    ):
        curve = sorted({(r["weight_variance"], r[name]) for r in rows if r["phase"] == phase})
        for multiple, style in _MULTIPLES.items() if curve else ():
            weights, scales = np.array(curve).T
            text = f"${label}$" if multiple == 1 else f"{multiple} ${label}$"
            axis.plot(weights, multiple * scales, style, color=color, label=text)


def _reach(curve: Rows) -> np.ndarray:
    """Depth in units of its phase's scale."""
    scale = "xi_star" if curve[0]["phase"] == "chaotic" else "xi_1"
    return column(curve, "depth") / column(curve, scale)


def _draw_variation(axis: Axes, rows: Rows, phase: str) -> None:
    """The variation of one phase over depth / xi, CNN-P solid and CNN-F dashed."""
    curves = curves_of([row for row in rows if row["phase"] == phase], "weight_variance")
    for index, ((weight_variance,), curve) in enumerate(sorted(curves.items())):
        for readout, style in zip(READOUTS, ("-", "--")):
            label = rf"$\sigma_w^2$ = {weight_variance:.2f}" if style == "-" else None
            variation = column(curve, f"variation_{readout}")
            axis.plot(_reach(curve), variation, style, color=f"C{index}", label=label)
    scale = r"\xi_*" if phase == "chaotic" else r"\xi_1"
    if phase == "chaotic" and curves:
        x = np.linspace(0, 30, 61)
        axis.plot(x, np.exp(-x), "k", lw=0.8, label=rf"$e^{{-l/{scale}}}$")
    axis.set(
        title=f"{phase}: variation of the prediction\n(CNN-P solid, CNN-F dashed)",
        xlabel=rf"depth / ${scale}$",
        ylabel="standard deviation / that of the targets",
        yscale="log",
        ylim=(1e-8, 10),
        xlim=(0, 30),
    )
    axis.legend(fontsize=6)


def _draw_accuracy(axis: Axes, rows: Rows) -> None:
    """Accuracy over depth / xi with standard errors, at both ends of the grid."""
    curves = curves_of([row for row in rows if row["phase"] != "critical"], "weight_variance")
    for color, weight_variance in (("C0", min(curves)), ("C3", max(curves))):
        curve = curves[weight_variance]
        for readout, style in zip(READOUTS, ("-", "--")):
            label = rf"{_NAMES[readout]}, $\sigma_w^2$ = {weight_variance[0]:.2f}"
            values, errors = (column(curve, f"{k}_{readout}") for k in ("accuracy", "error"))
            axis.errorbar(
                _reach(curve), values, errors, fmt=f"o{style}", ms=3, color=color, label=label
            )
    axis.set(title="test accuracy, ordered and chaotic end", ylabel="test accuracy", ylim=(0, 1))
    axis.set(xlabel=r"depth / $\xi_1$ (ordered), depth / $\xi_*$ (chaotic)", xscale="log")
    axis.legend(fontsize=6)


def report(rows: Rows) -> None:
    """Prints where each readout is at its best, where it is lost, and how far apart they are."""
    for readout in READOUTS:
        name = f"accuracy_{readout}"
        row = rows[int(np.argmax(np.nan_to_num(column(rows, name))))]
        print(
            f"{_NAMES[readout]}: best accuracy {row[name]:.3f} +- {row[f'error_{readout}']:.3f} at "
            f"depth {row['depth']:.0f}, weight variance {row['weight_variance']:.2f} "
            f"({row['phase']})"
        )
    for phase in ("ordered", "chaotic"):
        mine = [row for row in rows if row["phase"] == phase]
        for low, high in ((0, 1), (1, 6), (6, 12), (12, np.inf)):
            some = [r for r in mine if low < _reach([r])[0] <= high]
            if some:
                means = (
                    f"{_NAMES[k]} {np.nanmean(column(some, f'accuracy_{k}')):.3f}" for k in READOUTS
                )
                print(f"{phase}, {low} to {high} xi, mean of {len(some)}: {', '.join(means)}")


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    sweep.define_flags("ntk_prediction")
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
    common.define_override(
        "normalization",
        "Scale of the images: each at the fixed point's variance, or as they are.",
        flags.DEFINE_enum,
        enum_values=["fixed_point", "none"],
    )


def main(_: list[str]) -> None:
    """Evaluates the grid, variance by variance; writes metrics.csv and ntk_prediction.png."""
    settings = common.settings(_QUICK, _PAPER)
    directory = sweep.open_sweep(settings)
    depths = depths_of(settings["grid"], settings["max_depth"])
    points = [
        {"weight_variance": float(v)} for v in np.linspace(*_WEIGHT_VARIANCES, settings["grid"])
    ]
    one = functools.partial(measure, settings, load(settings), depths)
    rows = sweep.run(points, one, directory)
    if rows is not None:
        report(rows)
        common.save_figure(draw(rows), directory / "ntk_prediction.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
