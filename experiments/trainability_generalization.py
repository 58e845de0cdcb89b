"""Training and generalization over depth and sigma_w^2: Figure 3 (top) of the NTK paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.trainability_generalization

Fully connected networks are trained by SGD at eta = 0.3 eta_theory. In the ordered phase training
becomes slow beyond a few xi_1, in the chaotic phase the test accuracy is lost beyond a few xi_*.
Draws training and test accuracy with both scales; prints how they rank with the accuracies. The
figure's lower half, CNNs by their analytic kernels, is `experiments.ntk_prediction`.
"""

import functools
import pathlib

import numpy as np
from absl import flags
from matplotlib.figure import Figure
from scipy import stats

from experiments import binary, common, dense_networks, maps, ranges, sweep
from experiments.curves import Rows
from mfcnn import data, kernels

FLAGS = flags.FLAGS

# The settings of the presets.
_QUICK = {
    "dataset": "mnist",
    "resize": 14,
    "activation": "erf",
    "bias_variance": 0.18,
    "weight_variances": ["0.5", "1", "1.5", "2", "2.5", "3", "4", "6"],
    "depths": ["1", "2", "4", "8", "16"],
    "rho": 0.3,
    "width": 256,
    "subset": 256,
    "test_subset": 512,
    "kernel_size": 256,
    "batch_size": 256,
    "steps": 800,
    "eval_every": 100,
    "checkpoint_every": 800,
}
_PAPER = {
    "dataset": "cifar10",
    "resize": None,
    "weight_variances": [f"{v:.2f}" for v in np.linspace(0.5, 6, 20)],
    "depths": [f"{d:.0f}" for d in np.linspace(1, 100, 20)],
    "width": 2048,
    "subset": 16384,
    "test_subset": None,
    "kernel_size": 1024,
    "batch_size": 1024,
    "steps": 20_000,
    "eval_every": 500,
    "checkpoint_every": 500,
}


def measure(
    networks: dense_networks.DenseNetworks, point: sweep.Point, folder: pathlib.Path
) -> Rows:
    """The row of one network: depth scales, and where its training ended."""
    depth, variance = point["depth"], point["weight_variance"]
    activation, bias_variance, rho = (
        networks.settings[name] for name in ("activation", "bias_variance", "rho")
    )
    limits = kernels.limits(activation, variance, bias_variance)
    last = networks.curve(depth, variance, rho, folder)[-1]
    return [
        {
            "phase": limits.phase,
            "xi_1": float(limits.xi_1),
            "xi_star": float(limits.xi_star),
            "eta_theory": float(networks.eta_theory(depth, variance)),
        }
        | last
    ]


def report(rows: Rows) -> None:
    """Prints, for each phase, how the accuracies fall with the depth in units of its scale."""
    for phase, scale, split in (
        ("ordered", "xi_1", "train_accuracy"),
        ("chaotic", "xi_star", "test_accuracy"),
    ):
        mine = [row | {"reach": row["depth"] / row[scale]} for row in rows if row["phase"] == phase]
        if len(mine) > 2:
            reach, values = ([row[name] for row in mine] for name in ("reach", split))
            rank = stats.spearmanr(reach, values).statistic
            print(f"{phase} phase: rank correlation of depth / {scale} with {split} {rank:.3f}")
        for words, low, high in (("up to", 0, 1), ("over 4", 4, np.inf)):
            some = [row for row in mine if low < row["reach"] <= high]
            if some:
                means = (
                    f"{name} {np.mean([row[name] for row in some]):.3f}"
                    for name in ("train_accuracy", "test_accuracy")
                )
                print(f"  depth {words} {scale}, mean of {len(some)}: {', '.join(means)}")


def draw(rows: Rows) -> Figure:
    """Maps of training and test accuracy with both depth scales."""
    figure, axes = common.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, split, title in zip(axes, ("train", "test"), ("training", "test")):
        variances, depths, values = maps.table(rows, f"{split}_accuracy")
        axis.grid(False)
        image = axis.pcolormesh(variances, depths, values, vmin=0, vmax=1, cmap="viridis")
        for scale, phase, style in (("xi_1", "ordered", "w--"), ("xi_star", "chaotic", "r--")):
            curve = {r["weight_variance"]: r[scale] for r in rows if r["phase"] == phase}
            label = r"$\xi_1$" if scale == "xi_1" else r"$\xi_*$"
            axis.plot(list(curve), list(curve.values()), style, label=label)
        axis.set(
            xlabel=r"$\sigma_w^2$",
            title=f"{title} accuracy",
            yscale="log",
            ylim=(depths[0] / 1.2, depths[-1] * 1.2),
        )
        figure.colorbar(image, ax=axis)
    axes[0].set_ylabel("depth")
    axes[0].legend(frameon=False, labelcolor="linecolor")
    return figure


def define_flags() -> None:
    """Defines the flags of this binary."""
    sweep.define_flags("trainability_generalization")
    common.define_override("dataset", "Data set.", flags.DEFINE_enum, enum_values=data.NAMES)
    common.define_override("resize", "Side of the images in pixels.", lower_bound=1)
    common.define_override(
        "activation", "Activation.", flags.DEFINE_enum, enum_values=["tanh", "erf", "relu"]
    )
    common.define_override("bias_variance", "sigma_b^2.", flags.DEFINE_float, **ranges.VARIANCE)
    common.define_override(
        "weight_variances",
        "Values of sigma_w^2.",
        common.define_numbers,
        **ranges.POSITIVE_VARIANCE,
    )
    common.define_override(
        "depths", "Numbers of hidden layers.", common.define_numbers, integers=True, lower_bound=1
    )
    common.define_override(
        "rho", "Learning rate / eta_theory.", flags.DEFINE_float, **ranges.RELATIVE_RATE
    )
    common.define_override("width", "Units of each hidden layer.", lower_bound=1)
    common.define_override("subset", "Training examples.", lower_bound=2)
    common.define_override("test_subset", "Test examples.", lower_bound=1)
    common.define_override("kernel_size", "Training examples of eta_theory.", lower_bound=2)
    common.define_override("batch_size", "Examples in a step.", lower_bound=1)
    common.define_override("steps", "Steps of each network.", lower_bound=1)
    common.define_override("eval_every", "Steps between two rows.", lower_bound=1)
    common.define_override("checkpoint_every", "Steps between two checkpoints.", lower_bound=1)


def main(_: list[str]) -> None:
    """Trains all networks, writes the table, draws the maps, prints the agreement."""
    settings = common.settings(_QUICK, _PAPER)
    directory = sweep.open_sweep(settings)
    networks = dense_networks.DenseNetworks(settings)
    points = [
        {"depth": int(depth), "weight_variance": float(variance)}
        for depth in settings["depths"]
        for variance in settings["weight_variances"]
    ]
    one = functools.partial(measure, networks)
    rows = sweep.run(points, one, directory, cost=lambda point: point["depth"] + 3)
    if rows is not None:
        report(rows)
        common.save_figure(draw(rows), directory / "trainability_generalization.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
