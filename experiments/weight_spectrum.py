"""Singular values of a random convolution against a dense Gaussian matrix: figure S3.

    python -m experiments.weight_spectrum

The matrix of a periodic 1D convolution, block-circulant, is block-diagonal in Fourier space: its
singular values are those of c x c blocks, one for each frequency. With growing c they approach the
Marchenko-Pastur law of a dense Gaussian matrix of the same shape.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags, logging
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import binary, common
from experiments.curves import Rows

FLAGS = flags.FLAGS

# The settings of the presets.
_QUICK = {
    "size": 26,
    "kernel_size": 5,
    "channels": [4, 16, 64, 256],
    "dense_limit": 2000,
}
_PAPER = {"channels": [4, 16, 64, 256, 1024], "dense_limit": 7000}


# Of the quantiles in the table.
_FRACTIONS = (np.arange(200) + 0.5) / 200


def convolution_singular_values(kernel: np.ndarray, size: int) -> np.ndarray:
    """Singular values of a periodic 1D convolution.

    Args:
        kernel: [k, c_in, c_out].
        size: number of positions, >= k.

    Returns:
        float64 [size * min(c_in, c_out)], ascending.

    Raises:
        ValueError: if the kernel does not fit.
    """
    if size < len(kernel):
        raise ValueError(f"size must be at least the kernel's {len(kernel)}. Received: {size}")
    # The kernel is real: frequency -k has the singular values of k.
    blocks = np.fft.rfft(kernel, n=size, axis=0)
    values = np.linalg.svd(blocks, compute_uv=False)
    copies = np.full(len(blocks), 2)
    copies[0] = 1
    if size % 2 == 0:
        copies[-1] = 1
    return np.sort(np.repeat(values, copies, axis=0).ravel())


def quarter_circle(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(density, distribution) of singular values of a square Gaussian matrix of variance 1 / n."""
    x = np.clip(x, 0, 2)
    root = np.sqrt(4 - x * x)
    return root / np.pi, (x * root / 2 + 2 * np.arcsin(x / 2)) / np.pi


class Spectrum(NamedTuple):
    """Singular values at one number of channels, ascending.

    Attributes:
        channels: c.
        convolution: those of the block-circulant matrix.
        dense: those of a dense Gaussian matrix of the same shape, or None.
    """

    channels: int
    convolution: np.ndarray
    dense: np.ndarray | None


def weight_spectrum(
    channels: Sequence[int], size: int, kernel_size: int, dense_limit: int, seed: int
) -> list[Spectrum]:
    """Singular values for each c: of the convolution, and of a dense matrix where it fits.

    The largest c is drawn once, smaller ones as often as gives equally many values.
    """
    result = []
    for c in channels:
        draw = np.random.default_rng([seed, c])
        convolution, dense = [], []
        for _ in range(max(channels) // c):
            kernel = draw.standard_normal((kernel_size, c, c)) / np.sqrt(c * kernel_size)
            convolution.append(convolution_singular_values(kernel, size))
            if size * c <= dense_limit:
                matrix = draw.standard_normal((size * c, size * c)) / np.sqrt(size * c)
                dense.append(np.linalg.svd(matrix, compute_uv=False))
        pooled = np.sort(np.ravel(convolution))
        result.append(Spectrum(c, pooled, np.sort(np.ravel(dense)) if dense else None))
    return result


def quantiles(spectra: Sequence[Spectrum]) -> Rows:
    """The table: quantiles of each spectrum, NaN where there is no dense matrix."""
    rows = []
    for c, values, dense in spectra:
        convolution = np.quantile(values, _FRACTIONS)
        reference = np.full(200, np.nan) if dense is None else np.quantile(dense, _FRACTIONS)
        rows += [
            {"channels": c, "fraction": fraction, "convolution": v, "dense": d}
            for fraction, v, d in zip(_FRACTIONS, convolution, reference)
        ]
    return rows


def draw(spectra: Sequence[Spectrum], settings: Mapping[str, Any]) -> Figure:
    """Histograms, and the distribution functions less that of the quarter circle."""
    figure, (left, right) = common.subplots(1, 2, figsize=(10, 4))
    for shade, (c, values, dense) in zip(np.linspace(0, 1, len(spectra)), spectra):
        look = {"color": (shade, 0.25, 1 - shade), "label": f"c = {c}"}
        left.hist(values, np.linspace(0, 2.4, 49), density=True, histtype="step", **look)
        _draw_excess(right, values, **look)
        if dense is not None:
            _draw_excess(right, dense, color="green", ls="--", lw=1)
    grid = np.linspace(0, 2, 400)
    left.plot(grid, quarter_circle(grid)[0], "g--", label="dense, infinite size")
    right.plot([], [], "g--", lw=1, label="dense, same sizes")
    left.set(xlabel="singular value", ylabel="density")
    right.set(xlabel="singular value", ylabel="fraction below, less that of the quarter circle")
    for axis in (left, right):
        axis.legend(fontsize=8)
    figure.suptitle(
        f"Block-circulant W, n = {settings['size']}, width {settings['kernel_size']}; "
        f"{max(settings['channels'])} / c draws"
    )
    return figure


def _draw_excess(axis: Axes, values: np.ndarray, **look: Any) -> None:
    x = np.quantile(values, _FRACTIONS)
    axis.plot(x, _FRACTIONS - quarter_circle(x)[1], **look)


def report(spectra: Sequence[Spectrum]) -> None:
    """Logs how far each convolution's spectrum is from the quarter circle."""
    for c, values, _ in spectra:
        levels = (np.arange(values.size) + 0.5) / values.size
        logging.info(
            "c = %4d: distance to the quarter circle %.4f, largest value %.4f",
            c,
            np.max(np.abs(quarter_circle(values)[1] - levels)),
            values[-1],
        )


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("weight_spectrum")
    common.define_override("size", "Spatial size n.", lower_bound=1)
    common.define_override("kernel_size", "Length of the filter.", lower_bound=1)
    common.define_override(
        "channels", "Channel numbers c.", common.define_numbers, integers=True, lower_bound=1
    )
    common.define_override(
        "dense_limit", "Largest n c for which the dense matrix is drawn too.", lower_bound=0
    )


def main(_: list[str]) -> None:
    """Computes, writes and draws figure S3."""
    settings = common.settings(_QUICK, _PAPER)
    settings["channels"] = [int(c) for c in settings["channels"]]
    directory = common.prepare_output_dir(settings)
    spectra = weight_spectrum(
        *(settings[k] for k in ("channels", "size", "kernel_size", "dense_limit", "seed"))
    )
    common.write_csv(directory / "metrics.csv", quantiles(spectra))
    common.save_figure(draw(spectra, settings), directory / "weight_spectrum.png")
    report(spectra)


if __name__ == "__main__":
    binary.start(define_flags, main)
