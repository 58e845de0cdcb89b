"""Which spatial modes arrive decides how well a deep CNN generalizes: Figure 4 of the CNN paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.variance_profiles

Trains critical Gaussian CNNs whose kernels have the variance profiles GS0 (one-hot) to GS4
(uniform), at several depths. Draws test accuracy against depth and the eigenvalues of the averaging
operator A_v of each profile; prints how much accuracy each profile loses with depth.
"""

import pathlib
from typing import Any

import numpy as np
from absl import flags
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments import binary, common, sweep, vanilla, vanilla_sweep
from experiments.curves import Rows, column, curves_of
from mfcnn import meanfield

FLAGS = flags.FLAGS
# From one-hot to uniform, by the weight of the uniform part.
PROFILES = {"gs0": 0.0, "gs1": 0.25, "gs2": 0.5, "gs3": 0.75, "gs4": 1.0}

# The settings of the presets. Quick: circular, 8 x 8 positions as in the paper, trained to a
# training accuracy near 1. With fewer filters the one-hot profile suffers too: its fan-in is the
# filters alone.
_QUICK = vanilla_sweep.network_settings(
    dataset="digits",
    depths=["2", "8", "32"],
    profiles=list(PROFILES),
    seeds=1,
    filters=32,
    strides=["1"],
    subset=1437,
    test_subset=360,
    steps=800,
    eval_every=100,
)
# Figure 4(a): CIFAR-10, 8 x 8 positions; 259 is the deepest that the paper names.
_PAPER = {
    **vanilla_sweep.PAPER_NETWORK,
    **vanilla_sweep.PAPER_VARIANCES,
    "dataset": "cifar10",
    "depths": ["5", "10", "20", "35", "50", "75", "100", "150", "200", "259"],
    "steps": 100_000,
    "eval_every": 1000,
    "checkpoint_every": 1000,
}


# Test accuracies of the networks of all seeds, by profile and depth.
Curves = dict[str, dict[int, np.ndarray]]


def accuracies(rows: Rows) -> Curves:
    """Final test accuracy of each network.

    Args:
        rows: dicts with profile, depth, seed, step, test_accuracy.

    Returns:
        dict from profile to a dict from depth to the accuracies of all seeds, [seeds].
    """
    last = max(row["step"] for row in rows)
    rows = [row for row in rows if row["step"] == last]
    return {
        profile: {
            int(depth): np.array(column(runs, "test_accuracy"))
            for (depth,), runs in sorted(curves_of(mine, "depth").items())
        }
        for (profile,), mine in curves_of(rows, "profile").items()
    }


def standard_error(values: np.ndarray) -> float:
    """Of the mean over seeds; NaN for one."""
    return float(np.std(values, ddof=1) / np.sqrt(values.size)) if values.size > 1 else np.nan


def report(curves: Curves) -> None:
    """Prints the accuracies, and how much of its best each profile loses at the largest depth."""
    for profile, curve in curves.items():
        means = {depth: float(values.mean()) for depth, values in curve.items()}
        words = ", ".join(
            f"{depth}: {means[depth]:.4f}"
            + (f" +- {standard_error(values):.4f}" if values.size > 1 else "")
            for depth, values in curve.items()
        )
        lost = max(means.values()) - means[max(means)]
        print(f"{profile.upper()}: test accuracy {words}; lost at the largest depth {lost:.3f}")


def draw(curves: Curves, size: tuple[int, ...]) -> Figure:
    """Test accuracy against depth, with standard errors of several seeds; eigenvalues of A_v."""
    figure, (left, right) = common.subplots(1, 2, figsize=(10, 3.8))
    for profile, curve in curves.items():
        color = colormaps["plasma"](0.85 * PROFILES[profile])
        eigenvalues = np.abs(meanfield.mode_eigenvalues(meanfield.variance_profile(profile), size))
        means = [values.mean() for values in curve.values()]
        left.plot(list(curve), means, "o-", color=color, label=profile.upper())
        if all(values.size > 1 for values in curve.values()):
            errors = [standard_error(values) for values in curve.values()]
            left.errorbar(list(curve), means, errors, fmt="none", ecolor=color, capsize=3)
        right.plot(np.sort(eigenvalues.ravel())[::-1], ".-", color=color)
    depths = sorted({depth for curve in curves.values() for depth in curve})
    left.set(xscale="log", xlabel="depth", ylabel="test accuracy")
    left.set_xticks(depths, labels=[str(depth) for depth in depths])
    left.minorticks_off()
    right.set(xlabel="mode, sorted", ylabel=r"$|\lambda|$ of $A_v$")
    left.legend()
    return figure


def define_flags() -> None:
    """Defines the flags of this binary."""
    vanilla_sweep.define_flags("variance_profiles", "depths")
    common.define_override(
        "profiles", f"Some of {', '.join(PROFILES)}.", common.define_names, accepted=tuple(PROFILES)
    )
    common.define_override("seeds", "Networks at each point.", lower_bound=1)


def main(_: list[str]) -> None:
    """Trains all networks, writes the table, draws the figure, prints the loss with depth."""
    settings = common.settings(_QUICK, _PAPER)
    directory = sweep.open_sweep(settings)
    networks = vanilla_sweep.Networks(settings)
    points = [
        {"depth": int(depth), "profile": profile, "seed": settings["seed"] + seed}
        for depth in settings["depths"]
        for profile in settings["profiles"]
        for seed in range(settings["seeds"])
    ]

    def measure(point: dict[str, Any], folder: pathlib.Path) -> Rows:
        profile = meanfield.variance_profile(point["profile"])
        return networks.curve(point, folder, initialization="gaussian", variance_profile=profile)

    rows = sweep.run(points, measure, directory, cost=lambda point: point["depth"] + 10)
    if rows is not None:
        curves = accuracies(rows)
        report(curves)
        size = tuple(vanilla.deep_block_sides(settings, networks.dataset.image_shape))
        common.save_figure(draw(curves, size), directory / "variance_profiles.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
