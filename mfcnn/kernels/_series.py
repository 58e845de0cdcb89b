"""Chebyshev series of an angle on all pairs of inputs: the inner loop of kernels on large data.

Two things make a plain evaluation ten times too slow, and are avoided here. XLA's arc cosine is an
arc tangent of roots; here it is sqrt(1 - |c|) times a polynomial (the quotient is analytic up to
c = -1). And Clenshaw's recursion waits for each step's result: a series of n terms is written as
four of n / 4 that a processor works on at the same time,

    sum_n a_n T_n(x) = sum_j T_j(x) Q_j(T_4(x)),  j < 4,

by T_(4k + j) = 2 T_j T_4k - T_|4k - j|.
"""

import functools
import math

import numpy as np
import tensorflow as tf

from mfcnn import numerics

__all__ = ["arc_cosine", "chains", "evaluate"]

_CHAINS = 4
_COINCIDENT = 32  # roundings of an inner product of some thousand coordinates
_ROOT_TERMS = {"float32": 10, "float64": 23}  # 5.8^-terms is below rounding


def chains(coefficients: np.ndarray) -> np.ndarray:
    """The coefficients [..., n] of T_n(x) as those [..., 4, k] of T_j(x) T_k(T_4(x))."""
    length = -(-coefficients.shape[-1] // _CHAINS)
    left = np.zeros([*coefficients.shape[:-1], _CHAINS * length])
    left[..., : coefficients.shape[-1]] = coefficients
    parts = np.zeros([*coefficients.shape[:-1], _CHAINS, length])
    for n in range(left.shape[-1] - 1, -1, -1):
        k, j = divmod(n, _CHAINS)
        if j and k:
            parts[..., j, k] += 2 * left[..., n]
            left[..., _CHAINS * k - j] -= left[..., n]
        else:
            parts[..., j, k] += left[..., n]
    return parts.astype(coefficients.dtype)


def evaluate(correlation: tf.Tensor, parts: tf.Tensor) -> tf.Tensor:
    """The series in 2 angle / pi - 1 at correlations of any shape.

    Args:
        correlation: any shape; what is one to the rounding of an inner product counts as one. An
            angle is the root of a gap: without this an input beside itself would have the angle
            1e-8, or in float32 3e-4, and a diagonal that is too small by as much.
        parts: from `chains`, [4, k].
    """
    same = correlation > 1 - _COINCIDENT * np.finfo(correlation.dtype.as_numpy_dtype).eps
    x = arc_cosine(tf.where(same, tf.ones_like(correlation), correlation)) * (2 / math.pi) - 1
    powers = [tf.ones_like(x), x]
    for _ in range(_CHAINS - 1):
        powers.append(2 * x * powers[-1] - powers[-2])
    sums = [_clenshaw(powers[_CHAINS], tf.unstack(part)) for part in tf.unstack(parts)]
    return sums[0] + tf.add_n([power * total for power, total in zip(powers[1:], sums[1:])])


def arc_cosine(correlation: tf.Tensor) -> tf.Tensor:
    """The angle in [0, pi], to rounding; correlations beyond one count as one."""
    size = tf.minimum(tf.abs(correlation), 1)
    z = 2 * size - 1
    even, odd = (
        _horner(z * z, part) for part in _root_polynomial(_ROOT_TERMS[correlation.dtype.name])
    )
    angle = numerics.safe_sqrt(1 - size) * (even + z * odd)
    return tf.where(correlation < 0, math.pi - angle, angle)


@functools.cache
def _root_polynomial(terms: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Even and odd coefficients of arccos(c) / sqrt(1 - c), c in [0, 1], in powers of 2 c - 1."""
    gap = (1 - numerics.chebyshev_nodes(terms)) / 2
    series = numerics.chebyshev_coefficients(2 * np.arcsin(np.sqrt(gap / 2)) / np.sqrt(gap))
    powers = np.polynomial.chebyshev.cheb2poly(series)
    return tuple(powers[::2].tolist()), tuple(powers[1::2].tolist())


def _horner(x: tf.Tensor, coefficients: tuple[float, ...]) -> tf.Tensor:
    value = tf.fill(tf.shape(x), tf.constant(coefficients[-1], x.dtype))
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def _clenshaw(x: tf.Tensor, coefficients: list[tf.Tensor]) -> tf.Tensor:
    first = second = tf.zeros_like(x)
    for coefficient in coefficients[:0:-1]:
        first, second = coefficient + 2 * x * first - second, first
    return coefficients[0] + x * first - second
