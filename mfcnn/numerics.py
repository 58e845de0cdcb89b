"""Numerical tools that several rooms need; each is written once, here."""

import math
from collections.abc import Callable

import numpy as np
import scipy.fft
import scipy.linalg
import tensorflow as tf

__all__ = [
    "chebyshev_coefficients",
    "chebyshev_nodes",
    "equal_parts",
    "inverse",
    "largest_eigenvalue",
    "safe_sqrt",
]


def inverse(x: tf.Tensor) -> tf.Tensor:
    """1 / x, and zero at x = 0: for a factor of something that is zero there."""
    nonzero = tf.not_equal(x, 0)
    return tf.where(nonzero, 1 / tf.where(nonzero, x, tf.ones_like(x)), tf.zeros_like(x))


def safe_sqrt(x: tf.Tensor) -> tf.Tensor:
    """sqrt(x), and zero with slope zero instead of infinity for x <= 0."""
    positive = x > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, x, tf.ones_like(x))), tf.zeros_like(x))


def equal_parts(count: int, size: int) -> list[tuple[np.ndarray, int]]:
    """Index vectors of one length, at most `size`, that cover range(count).

    Equal lengths let one compiled program serve all parts. The last part repeats the last index.

    Returns:
        A list of (indices, number of them that are valid).
    """
    if not count:
        return []
    length = math.ceil(count / math.ceil(count / size))
    return [
        (np.minimum(np.arange(start, start + length), count - 1), min(length, count - start))
        for start in range(0, count, length)
    ]


def chebyshev_nodes(count: int) -> np.ndarray:
    """The zeros of the Chebyshev polynomial of degree `count`, ascending in (-1, 1)."""
    return np.polynomial.chebyshev.chebpts1(count)


def chebyshev_coefficients(values: np.ndarray) -> np.ndarray:
    """Coefficients along the last axis of the polynomial through values at `chebyshev_nodes`."""
    # By a cosine transform: the polynomials' recursion would lose count^2 roundings at the ends.
    coefficients = scipy.fft.dct(values[..., ::-1], axis=-1) / values.shape[-1]
    coefficients[..., 0] /= 2
    return coefficients


def largest_eigenvalue(
    product: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    iterations: int,
    tolerance: float,
) -> tuple[float, float]:
    """The largest eigenvalue of a symmetric positive operator by Lanczos steps.

    The vectors are kept and orthogonalized twice, so that rounding makes no copies of eigenvalues.
    The value comes from below.

    Args:
        product: the operator, from a vector [size] to a vector [size].
        start: a vector that is not orthogonal to the eigenvector; a random one never is.
        iterations: the largest number of products.
        tolerance: stops when the relative error bound is below it.

    Returns:
        (value, relative bound of its error); (inf, inf) where a product is not finite.
    """
    start = np.ravel(start).astype(np.float64)
    basis = [start / np.linalg.norm(start)]
    diagonal: list[float] = []
    off: list[float] = []
    value, bound = 0.0, math.inf
    for _ in range(min(iterations, start.size)):
        image = np.ravel(product(basis[-1])).astype(np.float64)
        if not np.all(np.isfinite(image)):
            return math.inf, math.inf
        diagonal.append(float(basis[-1] @ image))
        known = np.array(basis)
        for _ in range(2):
            image = image - known.T @ (known @ image)
        rest = float(np.linalg.norm(image))
        values, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off)
        value = float(values[-1])
        # |A v - value v|, which no eigenvalue of A is farther from than this.
        residual = rest * abs(float(vectors[-1, -1]))
        bound = residual / abs(value) if value else (math.inf if residual else 0.0)
        if bound <= tolerance:
            break
        off.append(rest)
        basis.append(image / rest)
    return value, bound
