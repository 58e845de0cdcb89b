"""Gaussian moments of truncated powers (z - x)_+^k / k!, which piecewise polynomials are made of.

A coefficient is a tensor, or None for zero.
"""

import math

import tensorflow as tf

__all__ = [
    "added",
    "density",
    "factorials",
    "gaussian_moment",
    "raised",
    "scaled",
    "tails",
    "times",
    "truncated",
]


def scaled(coefficient: float, root: tf.Tensor, m: int, k: int) -> tf.Tensor | None:
    power = m + k - (1 if m else 0)
    return None if coefficient == 0 else coefficient * root**power


def added(a: tf.Tensor | None, b: tf.Tensor | None) -> tf.Tensor | None:
    if a is None or b is None:
        return a if b is None else b
    return a + b


def raised(terms: list) -> list:
    """Coefficients of z f from those of f, in powers z^k / k!."""
    return [None, *(times(a, k + 1) for k, a in enumerate(terms))]


def times(value: tf.Tensor | None, factor: float) -> tf.Tensor | None:
    return None if value is None else factor * value


def factorials(k: int, n: int) -> float:
    return float(math.factorial(k) * math.factorial(n))


def gaussian_moment(order: int) -> float:
    return float(math.prod(range(1, order, 2)))


def density(x: tf.Tensor) -> tf.Tensor:
    return tf.exp(-x * x / 2) * (1 / math.sqrt(2 * math.pi))


def truncated(mean: tf.Tensor, count: int) -> list[tf.Tensor]:
    """E[(mean + z)_+^k] / k! for k < count."""
    values = [density(mean), tf.math.erfc(-mean * math.sqrt(0.5)) / 2]
    for k in range(1, count):
        values.append((mean * values[-1] + values[-2]) / k)
    return values[1 : count + 1]


def tails(first: list, x: tf.Tensor, second: list, y: tf.Tensor) -> tf.Tensor:
    """sum_kn a_k b_n E[(z - x)^k / k! (z - y)^n / n!; z > max(x, y)].

    With b the larger of x and y, z - x = (z - b) + (b - x), likewise for y: all terms have the
    signs of the coefficients.
    """
    total = tf.zeros_like(x + y)
    if all(a is None for a in first) or all(b is None for b in second):
        return total
    end = tf.maximum(x, y)
    tails = truncated(-end, len(first) + len(second) - 1)
    for k, a in enumerate(first):
        for n, b in enumerate(second):
            if a is None or b is None:
                continue
            value = tf.zeros_like(total)
            for r in range(k + 1):
                for s in range(n + 1):
                    shift = (end - x) ** (k - r) * (end - y) ** (n - s)
                    ways = math.comb(r + s, r) / factorials(k - r, n - s)
                    value += ways * shift * tails[r + s]
            total += a * b * value
    return total
