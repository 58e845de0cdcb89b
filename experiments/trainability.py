"""Mean field theory predicts which depth trains: Figure 2 of the CNN paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.trainability

Trains vanilla CNNs over depth and sigma_w^2 at one bias variance. A map of the training accuracy
for each number of steps, with 6 xi_c drawn over it; prints the rank correlation of
log(6 xi_c / depth) with the training accuracy.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from absl import flags
from matplotlib.figure import Figure
from scipy import stats

from experiments import binary, common, maps, ranges, sweep, vanilla_sweep
from experiments.curves import Rows, column, curves_of
from mfcnn import meanfield, models

FLAGS = flags.FLAGS

# The settings of the presets.
_QUICK = vanilla_sweep.network_settings(
    depths=["10", "17", "30", "50", "85", "150", "250"],
    weight_variances=[f"{v:.2f}" for v in np.linspace(0.25, 4, 16)],
    bias_variance=2e-5,
    initialization="delta_orthogonal",
    readout_scale=5.0,
    filters=8,
    resize=14,
    subset=2000,
    test_subset=250,
    steps=200,
    eval_every=100,
    padding="same",
    panels=None,
)
# Figure 2: MNIST, L = 10 to 600, sigma_w^2 to 4 (at 0 nothing passes), four panels.
_PAPER = {
    **vanilla_sweep.PAPER_NETWORK,
    "dataset": "mnist",
    "depths": [str(d) for d in range(10, 601, 10)],
    "weight_variances": [f"{v:.2f}" for v in np.linspace(0.05, 4, 80)],
    "bias_variance": 2e-5,
    "initialization": "gaussian",
    "steps": 100_000,
    "eval_every": 500,
    "checkpoint_every": 500,
    "panels": ["500", "2500", "10000", "100000"],
}


def depth_limits(
    activation: str, weight_variances: Sequence[float] | np.ndarray, bias_variance: float
) -> np.ndarray:
    """6 xi_c at each weight variance, the depth up to which theory expects training.

    Args:
        activation: a name.
        weight_variances: values of sigma_w^2.
        bias_variance: sigma_b^2.

    Returns:
        float64 array; infinite on the critical line.
    """
    return np.asarray(6 * meanfield.fixed_points(activation, weight_variances, bias_variance).xi_c)


def agreement(rows: Rows, limits: Mapping[float, float]) -> tuple[float, float, float]:
    """How far theory and training agree, over all points of one number of steps.

    Args:
        rows: dicts with depth, weight_variance and train_accuracy.
        limits: dict from weight_variance to 6 xi_c.

    Returns:
        (Spearman's correlation of log(6 xi_c / depth) with the accuracy; the same of 'depth <= 6
        xi_c' with 'accuracy over half of the largest'; the share of points where these two agree).
    """
    accuracy = column(rows, "train_accuracy")
    margin = np.array([limits[row["weight_variance"]] / row["depth"] for row in rows])
    says, trained = margin >= 1, accuracy > accuracy.max() / 2
    both = len(set(says)) > 1 and len(set(trained)) > 1
    return (
        stats.spearmanr(margin, accuracy).statistic,
        stats.spearmanr(says, trained).statistic if both else np.nan,
        np.mean(says == trained),
    )


def draw(rows: Rows, activation: str, bias_variance: float) -> Figure:
    """A map for each number of steps, with 6 xi_c."""
    steps, depths, variances = (
        sorted({row[name] for row in rows}) for name in ("step", "depth", "weight_variance")
    )
    figure, axes = common.subplots(
        1, len(steps), figsize=(1 + 3.6 * len(steps), 3.6), squeeze=False, sharey=True
    )
    fine = np.linspace(variances[0], variances[-1], 200)
    limits = depth_limits(activation, fine, bias_variance)
    for axis, step in zip(axes[0], steps):
        now = [row for row in rows if row["step"] == step]
        _, _, values = maps.table(now, "train_accuracy", xs=variances, ys=depths)
        axis.grid(False)
        image = axis.pcolormesh(variances, depths, values, vmin=0, vmax=1, cmap="inferno")
        axis.plot(fine, limits, "w--", label=r"$6\,\xi_c$")
        axis.set(
            xlabel=r"$\sigma_w^2$",
            title=f"{step:.0f} steps",
            yscale="log",
            ylim=(depths[0] * 0.85, depths[-1] * 1.15),
        )
    axes[0, 0].set_ylabel("depth")
    axes[0, 0].legend(loc="upper right", labelcolor="w", frameon=False)
    figure.colorbar(image, ax=axes, label="training accuracy")
    return figure


def report(rows: Rows, activation: str, bias_variance: float) -> None:
    """Prints how far theory and training agree, for each number of steps."""
    variances = sorted({row["weight_variance"] for row in rows})
    limits = dict(zip(variances, depth_limits(activation, variances, bias_variance)))
    for (step,), mine in sorted(curves_of(rows, "step").items()):
        rank, said, share = agreement(mine, limits)
        print(
            f"After {step:.0f} steps: rank correlation of 6 xi_c / depth with the training "
            f"accuracy {rank:.3f}; of 'depth <= 6 xi_c' with 'it trained' {said:.3f}, which "
            f"agree at {share:.1%} of the points."
        )


def define_flags() -> None:
    """Defines the flags of this binary."""
    vanilla_sweep.define_flags("trainability", "depths", "weight_variances")
    common.define_override(
        "panels",
        "Numbers of steps, a panel each; all rows if not given.",
        common.define_numbers,
        integers=True,
        lower_bound=1,
    )
    common.define_override("bias_variance", "sigma_b^2.", flags.DEFINE_float, **ranges.VARIANCE)
    common.define_override(
        "initialization",
        "Kernels of the deep block.",
        flags.DEFINE_enum,
        enum_values=models.INITIALIZATIONS,
    )


def main(_: list[str]) -> None:
    """Trains all networks, writes the table, draws the figure, prints the agreement."""
    settings = common.settings(_QUICK, _PAPER)
    directory = sweep.open_sweep(settings)
    networks = vanilla_sweep.Networks(settings)
    theory = settings["activation"], settings["bias_variance"]
    points = [
        {"depth": int(depth), "weight_variance": float(variance)}
        for depth in settings["depths"]
        for variance in settings["weight_variances"]
    ]
    measure = functools.partial(networks.curve, bias_variance=settings["bias_variance"])
    rows = sweep.run(points, measure, directory, cost=lambda point: point["depth"] + 10)
    if rows is not None:
        panels = {int(panel) for panel in settings["panels"] or ()}
        rows = [row for row in rows if not panels or int(row["step"]) in panels]
        report(rows, *theory)
        common.save_figure(draw(rows, *theory), directory / "trainability.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
