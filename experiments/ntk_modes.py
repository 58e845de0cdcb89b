"""Fourier modes of a CNN's NNGP and NTK (NTK paper, equations 32 to 34).

    python -m experiments.ntk_modes --output_dir=runs/ntk_modes

A ring of positions, periodic convolutions, two inputs whose pre-activations have variance q* at
every position. Along one diagonal of the kernels over pairs of positions, what NNGP and NTK still
lack to q_ab* and p_ab* is a field over positions; its Fourier modes are drawn over layers. Circles:
the recursion of equations 27 and 31, with all its terms. Lines: `kernels.mode_corrections`, each
mode of its own rate rho_k chi_c, the NTK's with a factor that grows with the layer. The paper
treats the chaotic phase and calls the others similar; here is the ordered one too.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from experiments import binary, common, phases
from experiments.curves import Rows, column, curves_of
from mfcnn import activations, kernels, profiles

_PHASES = ("ordered", "chaotic")

# The settings of the presets; all but the activation are choices, the paper draws no such figure.
_QUICK = {
    "activation": "erf",
    "q_star": 0.5,
    "positions": 10,
    "amplitude": 1e-4,
    "max_depth": 40,
}


def recursion(
    activation: str,
    variances: tuple[float, float],
    limit: kernels.Limits,
    start: tuple[np.ndarray, np.ndarray],
    layers: int,
    profile: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """NNGP and NTK of two inputs along one diagonal, by equations 27 and 31.

    Args:
        activation: a name.
        variances: (sigma_w^2, sigma_b^2).
        limit: their `kernels.limits`; all diagonal entries of the NNGP are q*.
        start: NNGP and NTK before the first layer, each [positions].
        layers: their number.
        profile: share of the weight variance of each tap, an odd number of them.

    Returns:
        Both [layers + 1, positions].
    """

    def average(field: np.ndarray) -> np.ndarray:
        taps = range(-(len(profile) // 2), len(profile) // 2 + 1)
        return sum(share * np.roll(field, -tap) for share, tap in zip(profile, taps))

    dual = activations.get(activation).dual(limit.q_star, limit.q_star)
    q = tf.fill(start[0].shape, tf.constant(limit.q_star, tf.float64))
    nngp, ntk = [start[0]], [start[1]]
    for _ in range(layers):
        value, slope = (part.numpy() for part in dual.maps(q, q, tf.constant(nngp[-1])))
        nngp.append(variances[0] * average(value) + variances[1])
        ntk.append(nngp[-1] + variances[0] * average(slope * ntk[-1]))
    return np.stack(nngp), np.stack(ntk)


def modes_of(fields: np.ndarray) -> np.ndarray:
    """Absolute values of the Fourier modes 0 to positions / 2 of fields [..., positions]."""
    return np.abs(np.fft.rfft(fields, axis=-1)) / fields.shape[-1]


def measure(settings: Mapping[str, Any]) -> Rows:
    """Rows of phase, kernel, mode and layer: by the recursion, and by the law."""
    profile = profiles.parse(None, rank=1)
    rows = []
    for phase in _PHASES:
        variances = phases.variances(phase, settings["activation"], settings["q_star"])
        limit = kernels.limits(settings["activation"], *variances)
        # All modes start alike: a single pixel, below the limit since c <= 1.
        epsilon = np.zeros(settings["positions"])
        epsilon[0] = -settings["amplitude"] * limit.q_star
        delta = epsilon.copy()
        layers = np.arange(settings["max_depth"] + 1)
        start = limit.q_ab + epsilon, limit.p_ab + delta
        found = recursion(settings["activation"], variances, limit, start, layers[-1], profile)
        laws = kernels.mode_corrections(limit, layers, epsilon, delta, profile)
        for kernel, measured, law, limit_value in zip(
            ("nngp", "ntk"), found, laws, (limit.q_ab, limit.p_ab)
        ):
            pair = modes_of(measured - limit_value), modes_of(law)
            rows += [
                {
                    "phase": phase,
                    "kernel": kernel,
                    "mode": mode,
                    "layer": int(layer),
                    "recursion": float(pair[0][layer, mode]),
                    "law": float(pair[1][layer, mode]),
                }
                for mode in range(pair[0].shape[1])
                for layer in layers
            ]
    return rows


def draw(rows: Rows) -> Figure:
    """Phases down, NNGP and NTK across; a colour for each mode."""
    figure, axes = common.subplots(2, 2, figsize=(10, 7.5))
    places = [(phase, kernel) for phase in _PHASES for kernel in ("nngp", "ntk")]
    curves = curves_of(rows, "phase", "kernel")
    for axis, (phase, kernel) in zip(axes.flat, places):
        mine = curves[phase, kernel]
        # The recursion's own rounding is 1e-16 of the limit: 1e-12 of the amplitude.
        floor = 1e-9 * max(column(mine, "recursion"))
        for (mode,), curve in curves_of(mine, "mode").items():
            layers, found, law = (column(curve, k) for k in ("layer", "recursion", "law"))
            seen = np.where(found > floor, found, np.nan)
            axis.plot(layers, seen, "o", ms=3, mfc="none", color=f"C{mode}", label=f"{mode}")
            axis.plot(layers, np.where(law > floor, law, np.nan), "-", lw=1, color=f"C{mode}")
        symbol = r"$|\epsilon_k|$ (NNGP)" if kernel == "nngp" else r"$|\delta_k|$ (NTK)"
        axis.set(
            title=f"{phases.TITLES[phase]}: {symbol}",
            xlabel="layer",
            ylabel="amplitude of the mode",
            yscale="log",
        )
    axes[0, 0].legend(title="mode k", fontsize=7, title_fontsize=7)
    figure.suptitle("circles recursion, lines equation 34", fontsize=10)
    return figure


def report(rows: Rows) -> None:
    """Prints how far law and recursion are apart, where the recursion has digits."""
    for (phase, kernel), mine in curves_of(rows, "phase", "kernel").items():
        largest = max(column(mine, "recursion"))
        off = [
            abs(row["law"] / row["recursion"] - 1)
            for row in mine
            if row["recursion"] > 1e-7 * largest
        ]
        print(f"{phase}, {kernel}: law within {max(off):.1e} of the recursion at {len(off)} points")


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("ntk_modes")
    common.define_override("positions", "Positions on the ring.", lower_bound=3)
    common.define_override("max_depth", "Layers.", lower_bound=2)


def main(_: list[str]) -> None:
    """Measures both phases, writes metrics.csv and ntk_modes.png."""
    settings = common.settings(_QUICK)
    directory = common.prepare_output_dir(settings)
    rows = measure(settings)
    common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(draw(rows), directory / "ntk_modes.png")
    report(rows)


if __name__ == "__main__":
    binary.start(define_flags, main)
