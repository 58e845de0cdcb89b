"""Singular values of the averaging operator A_v for five variance profiles: figure 4(b).

    python -m experiments.kernel_modes

GS0 is the one-hot profile, GS4 the uniform one. Theory: the Fourier transform of the profile.
Measured: from the mean squares of random kernels drawn by `initializers.ConvolutionGaussian`.
"""

import numpy as np
from absl import flags, logging
from matplotlib.figure import Figure

from experiments import binary, common
from experiments.curves import Rows, column, curves_of
from mfcnn import initializers, meanfield

FLAGS = flags.FLAGS
_COLORS = {"gs0": "#c0392b", "gs1": "#e67e22", "gs2": "#8e44ad", "gs3": "#2874a6", "gs4": "black"}

# The settings of the presets.
_QUICK = {"channels": 128, "size": 8}
_PAPER = {"channels": 256}


def kernel_modes(
    channels: int, size: int, seed: int, kernel_size: int = 3
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Singular values of A_v, by theory and from one random kernel for each profile.

    Returns:
        dict of profile name to (theory, measured), float64 [size * size], descending.
    """
    result = {}
    for name in _COLORS:
        profile = meanfield.variance_profile(name, kernel_size, rank=2)
        draw = initializers.ConvolutionGaussian(variance_profile=profile, seed=seed)
        kernel = np.asarray(draw((kernel_size, kernel_size, channels, channels)), np.float64)
        found = channels * np.mean(kernel**2, axis=(2, 3))
        theory, measured = (
            np.sort(np.abs(meanfield.mode_eigenvalues(v, size)).ravel())[::-1]
            for v in (profile, found / found.sum())
        )
        result[name] = theory, measured
    return result


def rows_of(modes: dict[str, tuple[np.ndarray, np.ndarray]]) -> Rows:
    """The rows of the table, by profile and index of the singular value."""
    return [
        {"profile": name, "index": i, "theory": expected, "measured": found, "copies": theory.size}
        for name, (theory, measured) in modes.items()
        for i, (expected, found) in enumerate(zip(theory, measured))
    ]


def draw(rows: Rows, channels: int) -> Figure:
    """Figure 4(b): lines for theory, circles for random kernels."""
    figure, axis = common.subplots(figsize=(6, 4))
    for (name,), mine in curves_of(rows, "profile").items():
        index, theory, measured = (column(mine, k) for k in ("index", "theory", "measured"))
        axis.plot(index, theory, color=_COLORS[name], label=name.upper())
        axis.plot(index[::2], measured[::2], "o", color=_COLORS[name], ms=3.5, mfc="none")
    axis.set(xlabel="index of the singular value", ylabel="singular value of $A_v$")
    title = f"Theory (lines), random kernels of {channels} channels (circles)"
    axis.set(title=title, ylim=(-0.03, 1.05))
    axis.legend()
    return figure


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("kernel_modes")
    common.define_override("channels", "Channels of the random kernels.", lower_bound=1)
    common.define_override("size", "Spatial size of the image.", lower_bound=3)


def main(_: list[str]) -> None:
    """Computes, writes and draws figure 4(b)."""
    settings = common.settings(_QUICK, _PAPER)
    directory = common.prepare_output_dir(settings)
    rows = rows_of(kernel_modes(settings["channels"], settings["size"], settings["seed"]))
    common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(draw(rows, settings["channels"]), directory / "kernel_modes.png")
    worst = np.max(np.abs(column(rows, "theory") - column(rows, "measured")))
    logging.info("Largest deviation %.2g. Written to %s", worst, directory)


if __name__ == "__main__":
    binary.start(define_flags, main)
