"""Numerical tools that several rooms need; each is written once, here."""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

__all__ = ["chebyshev_coefficients", "chebyshev_nodes", "equal_parts", "inverse", "safe_sqrt"]


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
    count = values.shape[-1]
    vander = np.polynomial.chebyshev.chebvander(chebyshev_nodes(count), count - 1)
    transform = vander * (2 / count)
    transform[:, 0] /= 2
    return values @ transform


def power_iteration(
    product: Callable[[tf.Tensor], tf.Tensor], start: tf.Tensor, iterations: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The largest eigenvalue of a positive operator by power steps, and its vector.

    The norm of the product comes from below; its relative error after t steps is about
    (lambda_2 / lambda_1)^(2 t).
    """
    vector, size = start / tf.norm(start), tf.zeros([], start.dtype)
    for _ in range(iterations):
        vector = product(vector)
        size = tf.norm(vector)
        vector = tf.math.divide_no_nan(vector, size)
    return size, vector
