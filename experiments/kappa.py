"""kappa_2 and kappa_1 / kappa_2 over depth (finite-width paper, Figures 5 and 6).

    python -m experiments.kappa --output_dir=runs/kappa

kappa_1(x) and kappa_2(x, x') are the NTK's diagonal and off-diagonal entries per unit of width:
kappa = sum over layers of (1/L) q^(l-1) p^l, with q the covariance of the activations below layer l
and p the covariance of the gradients arriving at it
(`mfcnn.meanfield.mean_field_ntk`). The figure shows inputs of unit norm and
covariance x . x' in [0, 1], in the ordered phase, on the border and in the chaotic phase.
"""

import numpy as np
from absl import flags

from experiments import binary, common
from mfcnn import meanfield

FLAGS = flags.FLAGS


def kappas(
    activation: str,
    variances: tuple[float, float],
    depths: np.ndarray | list[int] | range,
    correlations: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """kappa_1 and kappa_2 of networks of equal widths, for inputs of unit norm.

    Args:
        activation: a name.
        variances: (sigma_w^2, sigma_b^2).
        depths: numbers of hidden layers, [n].
        correlations: x . x' of the inputs, [m].

    Returns:
        (kappa_1 [n], kappa_2 [n, m]).
    """
    forms = [
        meanfield.mean_field_ntk(activation, depth, *variances, correlations) for depth in depths
    ]
    return np.array([f.kappa_1 for f in forms]), np.array([f.kappa_2 for f in forms])


def main(_: list[str]) -> None:
    """Computes all curves, writes metrics.csv and kappa.png."""
    settings = common.settings(quick={"max_depth": 30}, paper={"max_depth": 100})
    directory = common.prepare_output_dir(settings)
    correlations = np.linspace(0.0, 0.95, 8)
    depths = np.unique(np.round(np.geomspace(1, settings["max_depth"], 16)).astype(int))
    critical, bias = meanfield.critical_point("erf", 0.5)
    phases = {
        "erf": {
            "ordered": (0.7 * critical, bias),
            "border": (critical, bias),
            "chaotic": (1.6 * critical, bias),
        },
        "relu": {"ordered": (1.5, 0.05), "border": (2.0, 0.0), "chaotic": (2.5, 0.05)},
    }
    rows = []
    figure, axes = common.subplots(4, 3, figsize=(10, 11))
    colors = common.plt.get_cmap("viridis")(correlations)
    for column_block, (activation, settings_of) in enumerate(phases.items()):
        for column, (phase, variances) in enumerate(settings_of.items()):
            kappa_1, kappa_2 = kappas(activation, variances, depths, correlations)
            for k, c in enumerate(correlations):
                top, bottom = axes[column_block, column], axes[2 + column_block, column]
                top.semilogy(depths, kappa_2[:, k], color=colors[k])
                bottom.semilogy(depths, kappa_1 / kappa_2[:, k], color=colors[k], label=f"{c:.2f}")
                rows += [
                    {
                        "activation": activation,
                        "phase": phase,
                        "correlation": c,
                        "depth": int(d),
                        "kappa_1": kappa_1[i],
                        "kappa_2": kappa_2[i, k],
                    }
                    for i, d in enumerate(depths)
                ]
            axes[column_block, column].set(title=rf"{activation}, {phase}: $\kappa_2$")
            axes[2 + column_block, column].set(
                title=rf"{activation}, {phase}: $\kappa_1/\kappa_2$", xlabel="depth"
            )
    axes[2, 0].legend(title=r"$x\cdot x'$", fontsize=6)
    common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(figure, directory / "kappa.png")


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("kappa")
    common.define_override("max_depth", "Largest number of hidden layers.", lower_bound=2)


if __name__ == "__main__":
    binary.start(define_flags, main)
