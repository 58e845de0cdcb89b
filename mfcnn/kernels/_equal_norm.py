"""Inputs of equal norm: the deep kernel is a function of one correlation.

With all variances equal in the first layer they stay equal, and the kernels after L layers are two
functions of the first layer's gap g = 1 - c. They are computed at Chebyshev nodes of
log(g / (2 - g)), which stretches both ends, where a deep chaotic network puts its boundary layers
(width chi_1^-L at c = 1), and evaluated at all pairs by one polynomial: the depth is paid for at
some dozens of nodes, not at n^2 pairs.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn.borrowed import could_possibly_record
from mfcnn.numerics import chebyshev_coefficients, chebyshev_nodes

__all__ = ["Interpolation", "applies"]

_DEGREES = (32, 64, 128)
_TOLERANCE = 1e-13  # last coefficients over the largest
# Norms that differ by rounding tell closer inputs apart: their pairs are computed one by one.
_CLOSEST = 1e-16


def applies(q1: tf.Tensor, q2: tf.Tensor) -> bool:
    """Whether all variances are equal to rounding; False while a gradient tape may record.

    The derivative by one input's norm is not a derivative along the common norm.
    """
    if not tf.executing_eagerly() or could_possibly_record():
        return False
    low = min(float(tf.reduce_min(q1)), float(tf.reduce_min(q2)))
    high = max(float(tf.reduce_max(q1)), float(tf.reduce_max(q2)))
    return high - low <= 4e-14 * high


class Interpolation:
    """The kernels as polynomials of log(g / (2 - g)), if they are resolved; see `find`."""

    def __init__(self, coefficients: np.ndarray, low: float, high: float, ends: np.ndarray) -> None:
        """Chebyshev coefficients [fields, N] on [low, high]; kernels [fields] at gap zero."""
        self._coefficients, self._low, self._high, self._ends = coefficients, low, high, ends

    @classmethod
    def find(
        cls,
        gaps: Iterable[tuple[tf.Tensor, tf.Tensor]],
        evaluate: Callable[[np.ndarray], Any],
    ) -> "Interpolation | None":
        """Fits the kernels for gaps in the range of the given ones, or returns None.

        Args:
            gaps: an iterable of pairs of tensors: first-layer gaps, and marks of pairs of an input
                with itself.
            evaluate: function of gaps [N] to kernels [fields, N] after all layers.
        """
        extents = [tf.stack(_extent(*both)).numpy() for both in gaps]
        low, high = min(e[0] for e in extents), max(e[1] for e in extents)
        if not _CLOSEST < low <= high < 2:
            return None
        low, high = np.log(low / (2 - low)), np.log(high / (2 - high))
        if high - low < 1e-9:
            return None
        for degree in _DEGREES:
            t = (low + high) / 2 + (high - low) / 2 * chebyshev_nodes(degree)
            nodes = 2 / (1 + np.exp(-t))
            # The last node is gap zero: the pair of an input with itself.
            kernels = np.asarray(evaluate(np.append(nodes, 0.0)), np.float64)
            if not np.all(np.isfinite(kernels[:, :-1])):
                return None
            coefficients = chebyshev_coefficients(kernels[:, :-1])
            size = np.max(np.abs(coefficients), axis=1)
            if np.all(np.max(np.abs(coefficients[:, -4:]), axis=1) < _TOLERANCE * size):
                return cls(coefficients, low, high, kernels[:, -1])
        return None

    def __call__(self, gap: tf.Tensor, same: tf.Tensor) -> tf.Tensor:
        """Kernels [fields, ...] at gaps; `same` marks pairs of an input with itself."""
        constants = tf.constant([self._low, self._high, *self._ends], gap.dtype)
        return _evaluate(gap, same, tf.constant(self._coefficients, gap.dtype), constants)


@tf.function(jit_compile=True, autograph=False)
def _extent(gap: tf.Tensor, same: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The smallest and the largest gap of inputs that differ."""
    apart = tf.logical_not(tf.logical_or(same, tf.equal(gap, 0)))
    zero = tf.zeros_like(gap)
    return tf.reduce_min(tf.where(apart, gap, zero + 3)), tf.reduce_max(tf.where(apart, gap, zero))


@tf.function(jit_compile=True, autograph=False)
def _evaluate(
    gap: tf.Tensor, same: tf.Tensor, coefficients: tf.Tensor, constants: tf.Tensor
) -> tf.Tensor:
    low, high = constants[0], constants[1]
    same = tf.logical_or(same, tf.equal(gap, 0))
    inside = tf.where(same, tf.ones_like(gap), gap)
    x = (2 * tf.math.log(inside / (2 - inside)) - (low + high)) / (high - low)
    x = tf.clip_by_value(x, -1, 1)
    results = []
    for k in range(coefficients.shape[0]):
        first = second = tf.zeros_like(x)
        for n in range(coefficients.shape[1] - 1, 0, -1):
            first, second = coefficients[k, n] + 2 * x * first - second, first
        value = coefficients[k, 0] + x * first - second
        results.append(tf.where(same, constants[2 + k], value))
    return tf.stack(results)
