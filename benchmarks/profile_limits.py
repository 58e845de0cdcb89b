"""What the spatial modes are worth for a data set: kernel regression in the two limits of depth.

    TFDS_DATA_DIR=../shared/tfds python -m benchmarks.profile_limits

A deep critical network maps correlations c of its input to f(c), one layer's map iterated. With
one-hot kernels (GS0, delta-orthogonal) every pair of positions goes through f by itself. With
uniform kernels (GS4) the modes are gone before f has acted: what goes through f is the mean over
all pairs of one displacement. So the first network compares patches, the second whole images.
Prints the test accuracy of ridge regression with both kernels, for either readout:

                GS0                                GS4
    flattened   mean_a f(C[a, a])                  f(mean_a C[a, a])
    pooled      mean_(a, d) f(C[a, a + d])         mean_d f(mean_a C[a, a + d])

C[a, b] is the correlation of 3 x 3 patches (and a bias) of two images, on a torus.
"""

from collections.abc import Callable

import numpy as np
from absl import app, flags

from mfcnn import activations, data, meanfield

FLAGS = flags.FLAGS
_BIAS = 0.3  # beside pixels of variance one
_RIDGES = (1e-5, 1e-4, 1e-3, 1e-2)  # times the mean of the diagonal; the best one counts


def correlation_map(activation: str, q_star: float, depth: int) -> Callable:
    """f: correlations behind so many layers of the critical network of that variance.

    Args:
        activation: a name.
        q_star: variance of the pre-activations.
        depth: number of layers.

    Returns:
        A function of arrays with values in [-1, 1].
    """
    phi = activations.get(activation)
    weight_variance, bias_variance = meanfield.critical_point(activation, q_star)
    grid = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 401))  # dense where f is steep
    step = (weight_variance * phi.covariance(q_star, grid) + bias_variance) / q_star
    values = grid
    for _ in range(depth):
        values = np.interp(values, grid, step)
    return lambda c: np.interp(c, grid, values)


def patches(images: np.ndarray) -> np.ndarray:
    """Unit vectors of 3 x 3 patches and a bias, [m, n, n, 9 channels + 1]."""
    shifts = [np.roll(images, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    bias = np.full((*images.shape[:3], 1), _BIAS)
    x = np.concatenate([*shifts, bias], -1).astype(np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def kernel(x: np.ndarray, y: np.ndarray, f: Callable, pooled: bool, averaged: bool) -> np.ndarray:
    """One of the four kernels of the module's table between two sets of patches, [m, k]."""
    positions = x.shape[1] * x.shape[2]
    if pooled and averaged:  # the means over positions for all displacements, by FFT
        first, second = (np.fft.fft2(z, axes=(1, 2)) for z in (x, y))
        rows = []
        for one in first:
            product = (np.conj(one) * second).sum(-1)
            rows.append(f(np.fft.ifft2(product, axes=(1, 2)).real / positions).mean((1, 2)))
        return np.array(rows)
    a, b = (z.reshape(len(z), positions, -1) for z in (x, y))
    if averaged:
        return f(a.reshape(len(a), -1) @ b.reshape(len(b), -1).T / positions)
    if not pooled:
        return sum(f(a[:, p] @ b[:, p].T) for p in range(positions)) / positions
    flat = b.reshape(-1, b.shape[-1]).T
    return np.array([f(one @ flat).reshape(positions, len(b), positions).mean((0, 2)) for one in a])


def accuracy(
    train: np.ndarray, test: np.ndarray, labels: np.ndarray, test_labels: np.ndarray
) -> float:
    """Test accuracy of ridge regression with kernel matrices [m, m] and [m, k]."""
    targets = np.eye(labels.max() + 1)[labels]
    targets -= targets.mean(axis=0)
    found = []
    for ridge in _RIDGES:
        matrix = train + ridge * np.trace(train) / len(train) * np.eye(len(train))
        predictions = test.T @ np.linalg.solve(matrix, targets)
        found.append(np.mean(predictions.argmax(axis=1) == test_labels))
    return float(max(found))


def main(_: list[str]) -> None:
    """Prints a row for each readout and depth."""
    sizes = {"train": FLAGS.subset, "test": FLAGS.test_subset}
    (images, labels), (test_images, test_labels) = (
        data.load_arrays(FLAGS.dataset, split, size, resize=FLAGS.resize)
        for split, size in sizes.items()
    )
    x, y = patches(images), patches(test_images)
    for readout in FLAGS.readouts:
        for depth in map(int, FLAGS.depths):
            f = correlation_map("tanh", FLAGS.q_star, depth)
            one_hot, uniform = (
                accuracy(
                    kernel(x, x, f, readout == "pool", averaged),
                    kernel(x, y, f, readout == "pool", averaged),
                    labels,
                    test_labels,
                )
                for averaged in (False, True)
            )
            print(f"{readout}, {depth} layers: GS0 {one_hot:.4f}, GS4 {uniform:.4f}", flush=True)


if __name__ == "__main__":
    flags.DEFINE_enum("dataset", "mnist", data.NAMES, "Data set.")
    flags.DEFINE_integer("resize", 8, "Side of the images in pixels.", lower_bound=3)
    flags.DEFINE_integer("subset", 300, "Training images.", lower_bound=10)
    flags.DEFINE_integer("test_subset", 3000, "Test images.", lower_bound=1)
    flags.DEFINE_list("readouts", ["flatten"], "Some of flatten and pool.")
    flags.DEFINE_list("depths", ["64", "256", "1024"], "Depths.")
    flags.DEFINE_float("q_star", 0.1, "Variance of the pre-activations.", lower_bound=1e-6)
    app.run(main)
