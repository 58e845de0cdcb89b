"""Figure S3: the spectrum of a block-circulant matrix."""

import numpy as np
import pytest

from experiments import weight_spectrum
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table
from tests.tolerances import float64


@pytest.mark.parametrize("size", [5, 6, 9])
def test_fourier_blocks_have_the_singular_values_of_the_full_matrix(size):
    kernel = np.random.default_rng(0).standard_normal((5, 3, 4))
    matrix = np.zeros((size, 3, size, 4))
    for position in range(size):
        for offset in range(5):
            matrix[(position + offset) % size, :, position, :] += kernel[offset]
    expected = np.linalg.svd(matrix.reshape(size * 3, size * 4), compute_uv=False)
    values = weight_spectrum.convolution_singular_values(kernel, size)
    np.testing.assert_allclose(values, np.sort(expected), rtol=float64.deep)


def test_wide_convolutions_approach_the_quarter_circle():
    distances = []
    for _, values, _ in weight_spectrum.weight_spectrum([4, 32, 128], 26, 5, 0, seed=0):
        levels = (np.arange(values.size) + 0.5) / values.size
        distances.append(np.max(np.abs(weight_spectrum.quarter_circle(values)[1] - levels)))
        assert values.size == 26 * 128  # 128 / c draws
    assert distances[0] > distances[1] > distances[2] and distances[2] < 0.02


def test_the_binary_writes_its_files(tmp_path, pictures):
    run(weight_spectrum, tmp_path, "--channels=2,4", "--dense_limit=60", "--size=8")
    pictures["weight_spectrum.png"].assert_readable()
    left, right = pictures["weight_spectrum.png"].panels
    x, density = left.line("dense, infinite size")
    np.testing.assert_allclose(
        density, np.sqrt(np.maximum(4 - x**2, 0)) / np.pi, atol=float64.summed
    )
    for channels in (2, 4):
        rows = table(tmp_path / "metrics.csv", channels=channels)
        fraction, values = ([row[k] for row in rows] for k in ("fraction", "convolution"))
        excess = np.array(fraction) - weight_spectrum.quarter_circle(np.array(values))[1]
        assert_drawn(right.line(f"c = {channels}"), values, excess)
    with pytest.raises(ValueError, match="size must be at least the kernel's 5"):
        run(weight_spectrum, tmp_path / "small", "--size=4")
