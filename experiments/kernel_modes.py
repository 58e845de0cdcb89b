"""Singular values of the averaging operator A_v for five variance profiles: figure 4(b).

    python -m experiments.kernel_modes

GS0 is the one-hot profile, GS4 the uniform one. Theory: the Fourier transform of the profile.
Measured: from the mean squares of random kernels drawn by `initializers.ConvolutionGaussian`.
"""

import numpy as np
from absl import flags, logging

from experiments import binary, common
from mfcnn import initializers, meanfield

FLAGS = flags.FLAGS


def kernel_modes(
    channels: int, size: int, seed: int, kernel_size: int = 3
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Singular values of A_v, by theory and from one random kernel for each profile.

    Returns:
      dict of profile name to (theory, measured), float64 [size * size], descending.
    """
    result = {}
    for name in ("gs0", "gs1", "gs2", "gs3", "gs4"):
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


def main(_: list[str]) -> None:
    """Computes, writes and draws figure 4(b)."""
    settings = common.settings(
        quick={"channels": 128, "size": 8}, paper={"channels": 256, "size": 8}
    )
    directory = common.prepare_output_dir(settings)
    modes = kernel_modes(settings["channels"], settings["size"], settings["seed"])
    figure, axis = common.subplots(figsize=(6, 4))
    colors = ["#c0392b", "#e67e22", "#8e44ad", "#2874a6", "black"]
    rows, worst = [], 0.0
    for (name, (theory, measured)), color in zip(modes.items(), colors):
        index = np.arange(theory.size)
        axis.plot(index, theory, color=color, label=name.upper())
        axis.plot(index[::2], measured[::2], "o", color=color, ms=3.5, mfc="none")
        worst = max(worst, np.max(np.abs(theory - measured)))
        for i in index:
            row = {"profile": name, "index": int(i), "theory": theory[i], "measured": measured[i]}
            rows.append(row | {"copies": theory.size})
    axis.set(xlabel="index of the singular value", ylabel="singular value of $A_v$")
    title = f"Theory (lines), random kernels of {settings['channels']} channels (circles)"
    axis.set(title=title, ylim=(-0.03, 1.05))
    axis.legend()
    common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(figure, directory / "kernel_modes.png")
    logging.info("Largest deviation %.2g. Written to %s", worst, directory)


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("kernel_modes")
    common.define_override("channels", "Channels of the random kernels.", lower_bound=1)
    common.define_override("size", "Spatial size of the image.", lower_bound=3)


if __name__ == "__main__":
    binary.start(define_flags, main)
