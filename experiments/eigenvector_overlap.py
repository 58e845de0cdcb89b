"""Overlap of the NTK's eigenvectors with the directions that test inputs read, over depth.

    python -m experiments.eigenvector_overlap --output_dir=runs/eigenvector_overlap

The NTK paper's second contribution, the "eigenvector correlation": with eigenvectors v_i of the NTK
on the training images and right singular vectors w_j of the test-train NTK, what is learnt along
v_i reaches the test images by w_j . v_i alone. Fully connected networks, images scaled to the fixed
point's variance. First row, a column for each phase: the share of w_1 ... w_k in the span of
v_1 ... v_k over k / m at four depths; k / m is what directions without relation have. Second row,
over depth: the share at three values of k, and the test accuracy of the mean predictor.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import binary, common, phases, samples
from experiments.curves import Rows, column, curves_of
from mfcnn import data, kernels

# The settings of the presets; the paper draws no such figure: all but the activation are choices.
_QUICK = {
    "activation": "erf",
    "q_star": 0.5,
    "dataset": "digits",
    "train_size": 100,
    "test_size": 300,
    "max_depth": 256,
    "ranks": [1, 10, 30],
    "ridge": 1e-9,
}
_PAPER = {"dataset": "cifar10", "train_size": 1000, "test_size": 1000}
_SHOWN = 4  # depths in the first row


def measure(settings: Mapping[str, Any]) -> tuple[Rows, Rows]:
    """(rows of phase, depth and k; rows of phase and depth)."""
    size = settings["dataset"], settings["seed"]
    x_train, y_train = samples.draw(size[0], "train", settings["train_size"], size[1])
    x_test, y_test = samples.draw(size[0], "test", settings["test_size"], size[1])
    depths = np.unique(np.round(np.geomspace(1, settings["max_depth"], 15)).astype(int)).tolist()
    curves: Rows = []
    rows: Rows = []
    for phase in phases.FACTORS:
        variances = phases.variances(phase, settings["activation"], settings["q_star"])
        limit = kernels.limits(settings["activation"], *variances)
        train, test = (
            samples.at_fixed_point(x.reshape(len(x), -1), limit, *variances)
            for x in (x_train, x_test)
        )
        # What depends on data falls as e^(-l / xi_*) beside the diagonal: beyond, it is rounding.
        mine = [depth for depth in depths if depth < 28 * limit.xi_star]
        kernel = kernels.fully_connected(mine, settings["activation"], *variances)
        pairs = (train, None), (test, train)
        matrices = [np.asarray(kernel(x1, x2, get="ntk")) for x1, x2 in pairs]
        for depth, train_train, test_train in zip(mine, *matrices):
            place = {"phase": phase, "depth": depth}
            captured = kernels.eigenvector_overlap(train_train, test_train).captured
            curves += [place | {"k": k + 1, "captured": share} for k, share in enumerate(captured)]
            scales = {"xi_1": limit.xi_1, "xi_star": limit.xi_star}
            found = accuracy(train_train, test_train, y_train, y_test, settings["ridge"])
            shares = {f"captured_{k}": captured[k - 1] for k in settings["ranks"]}
            rows.append(place | scales | found | shares)
    return curves, rows


def accuracy(
    train_train: np.ndarray,
    test_train: np.ndarray,
    y_train: np.ndarray,
    y_test: np.ndarray,
    ridge: float,
) -> dict[str, float]:
    """Test accuracy of the mean predictor, with a ridge in units of the diagonal, and its error."""
    targets = samples.targets(y_train, int(max(y_train.max(), y_test.max())) + 1)
    ridge = kernels.relative_ridge(train_train, ridge)
    prediction = kernels.predict(train_train, test_train, targets, ridge=ridge)
    hit = float(np.mean(np.argmax(prediction, axis=1) == y_test))
    return {"accuracy": hit, "error": float(np.sqrt(hit * (1 - hit) / len(y_test)))}


def draw(curves: Rows, rows: Rows) -> Figure:
    """A column for each phase: shares over k / m, and over depth."""
    figure, axes = common.subplots(2, 3, figsize=(12, 7), sharey=True)
    for (top, bottom), phase in zip(axes.T, phases.FACTORS):
        _draw_shares(top, [row for row in curves if row["phase"] == phase])
        mine = [row for row in rows if row["phase"] == phase]
        _draw_depths(bottom, mine, max(column(curves, "k")))
        top.set(title=phases.TITLES[phase], xlabel="k / m")
        bottom.set(title=f"{phases.TITLES[phase]}, over depth", xlabel="depth", xscale="log")
        for axis in (top, bottom):
            axis.legend(fontsize=7, loc="lower right" if axis is top else "lower left")
    axes[0, 0].set(ylabel="share of $w_1 ... w_k$ in the span of $v_1 ... v_k$", ylim=(0, 1.02))
    axes[1, 0].set_ylabel("share; accuracy")
    return figure


def _draw_shares(axis: Axes, curves: Rows) -> None:
    by_depth = curves_of(curves, "depth")
    shown = list(by_depth)[:: max((len(by_depth) - 1) // (_SHOWN - 1), 1)]
    for i, (depth,) in enumerate(shown):
        curve = by_depth[(depth,)]
        k = column(curve, "k")
        axis.plot(k / k[-1], column(curve, "captured"), color=f"C{i}", label=f"depth {depth:.0f}")
    axis.plot([0, 1], [0, 1], "k--", lw=0.8, label="no relation")


def _draw_depths(axis: Axes, rows: Rows, m: int) -> None:
    depth = column(rows, "depth")
    for i, name in enumerate(n for n in rows[0] if n.startswith("captured_")):
        k = int(name.partition("_")[2])
        axis.plot(depth, column(rows, name), "o-", ms=3, color=f"C{i}", label=f"k = {k}")
        axis.axhline(k / m, color=f"C{i}", lw=0.7, ls="--")
    values, errors = column(rows, "accuracy"), column(rows, "error")
    axis.errorbar(depth, values, errors, fmt="ks-", ms=3, lw=1, label="test accuracy")
    for scale, words in (("xi_1", r"$\xi_1$"), ("xi_star", r"$\xi_*$")):
        if np.isfinite(rows[0][scale]) and (scale == "xi_1") != (rows[0]["phase"] == "chaotic"):
            for multiple in (1, 6):
                axis.axvline(multiple * rows[0][scale], color="grey", lw=0.8, ls=":")
            axis.plot([], [], ":", color="grey", label=f"{words}, 6 {words}")


def report(rows: Rows) -> None:
    """Prints the shares and the accuracy at the shallowest and the deepest networks."""
    for (phase,), mine in curves_of(rows, "phase").items():
        for row in (mine[0], mine[len(mine) // 2], mine[-1]):
            shares = [f"{n[9:]}: {row[n]:.3f}" for n in row if n.startswith("captured_")]
            print(
                f"{phase}, depth {row['depth']}: captured share for k = {', '.join(shares)}; "
                f"test accuracy {row['accuracy']:.3f} +- {row['error']:.3f}"
            )


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("eigenvector_overlap")
    common.define_override("dataset", "Data set.", flags.DEFINE_enum, enum_values=data.NAMES)
    common.define_override("train_size", "Training images m.", lower_bound=30)
    common.define_override("test_size", "Test images.", lower_bound=30)
    common.define_override("max_depth", "Largest number of hidden layers.", lower_bound=2)


def main(_: list[str]) -> None:
    """Measures the phases, writes overlaps.csv, metrics.csv and eigenvector_overlap.png."""
    settings = common.settings(_QUICK, _PAPER)
    directory = common.prepare_output_dir(settings)
    curves, rows = measure(settings)
    common.write_csv(directory / "overlaps.csv", curves)
    common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(draw(curves, rows), directory / "eigenvector_overlap.png")
    report(rows)


if __name__ == "__main__":
    binary.start(define_flags, main)
