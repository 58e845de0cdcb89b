"""Dual maps of an activation: E[phi(u) phi(v)] and E[phi'(u) phi'(v)] for Gaussian (u, v).

(u, v) is centred with variances q1 and q2 and covariance q12 = c sqrt(q1 q2). A dual works with the
gap 1 - c rather than with c, because everything that happens at large depth happens at c -> 1,
where 1 - c keeps digits that c has lost. `Dual` says what it consists of; `Activation.dual` gives
that of an activation, in closed form (`forms/`, `_arc_cosine`, `_piecewise_dual`) or from a table
(`_hermite_table`, `_angle_table`).

All methods are element-wise, broadcast, differentiate, and run in tf.function with or without XLA
in float32 and float64.
"""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mfcnn.activations._close import Close
from mfcnn.numerics import inverse, safe_sqrt

__all__ = ["Dual", "FromMaps", "Side", "angle", "angle_of_gap", "correlation_gap"]

Side = tuple[tf.Tensor, ...]

# arcsin(sqrt(y)) / sqrt(y) on [0, 1/2], interpolated at Chebyshev nodes in exact arithmetic: error
# 2e-17 with 19 terms, 3e-9 with 9. XLA's own arcsin takes four times as long on a CPU.
_ARCSIN = {
    tf.float64: (
        1.0,
        0.16666666666664987,
        0.07500000000401816,
        0.044642856762615,
        0.030381963396751827,
        0.022371584779320355,
        0.017364281439103527,
        0.01380344589589198,
        0.013191002571753903,
        -0.002601537848299688,
        0.07871611357002127,
        -0.2968705430689824,
        1.0082016650534187,
        -2.4908808126226116,
        4.6420689099888435,
        -6.229299875397985,
        5.7579408313146985,
        -3.278933156739812,
        0.8892904367638688,
    ),
    tf.float32: (
        1.0000000016226234,
        0.16666614237824284,
        0.07502757316352404,
        0.04409161673371687,
        0.03581423928401177,
        -0.0070205791522944755,
        0.10740002130174647,
        -0.13591627123984387,
        0.12391349490512975,
    ),
}


class Dual:
    """The dual maps of one activation; a subclass gives the three methods.

    Attributes:
        keeps_float64: whether sides stay in float64 where pairs are in float32.

    Example:
        >>> one = tf.ones([], tf.float64)
        >>> dual = mfcnn.activations.get("relu").closed_form
        >>> output_gap, slope = dual.pair(dual.side(one), dual.side(one), gap=1.0 * one)
        >>> print(f"{output_gap:.6f} {slope:.6f}")  # 1 - 1/pi and 1/4
        0.681690 0.250000
    """

    keeps_float64 = False

    def moments(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """A = E[phi(u)^2] and E[phi'(u)^2] for u ~ N(0, q)."""
        raise NotImplementedError

    def side(self, q: tf.Tensor) -> Side:
        """What `pair` needs of one variance: computed once for a row, not for each pair."""
        raise NotImplementedError

    def pair(self, side1: Side, side2: Side, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The output gap 1 - E[phi(u) phi(v)] / sqrt(A1 A2), and E[phi'(u) phi'(v)]."""
        raise NotImplementedError

    @property
    def close(self) -> Close:
        """The maps of inputs that nearly coincide, where the output gap needs all its digits."""
        return Close(self)

    def maps(
        self,
        q1: tf.Tensor,
        q2: tf.Tensor,
        q12: tf.Tensor,
        equal: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """E[phi(u) phi(v)] and E[phi'(u) phi'(v)] from variances and covariances.

        Args:
            q1: variances of u, not negative.
            q2: variances of v, of the same dtype; the three arguments broadcast.
            q12: covariances.
            equal: booleans that broadcast, where u and v are one signal whatever q12's rounding.

        Returns:
            Two tensors of the broadcast shape.
        """
        gap = correlation_gap(q1, q2, q12, equal)
        output_gap, derivative = self.pair(self.side(q1), self.side(q2), gap)
        scale = safe_sqrt(self.moments(q1)[0]) * safe_sqrt(self.moments(q2)[0])
        return scale * (1 - output_gap), derivative


def correlation_gap(
    q1: tf.Tensor, q2: tf.Tensor, q12: tf.Tensor, equal: tf.Tensor | None = None
) -> tf.Tensor:
    """1 - q12 / sqrt(q1 q2) in [0, 2]; see `Dual.maps` for the arguments.

    A gap of a few roundings of q12 is zero: a kink's E[phi' phi'] falls like sqrt(gap), which would
    make 1e-8 of a rounding of 1e-16.
    """
    # Roots apart: their product neither overflows nor underflows, and it is q1 for q1 == q2.
    root = tf.where(tf.equal(q1, q2), q1, safe_sqrt(q1) * safe_sqrt(q2))
    gap = tf.clip_by_value((root - q12) * inverse(root), 0, 2)
    zero = gap < 4 * gap.dtype.as_numpy_dtype(_EPSILON[gap.dtype])
    if equal is not None:
        zero = tf.logical_or(zero, equal)
    # The slope by q12 stays, so that Price's theorem holds at coincident signals too.
    return gap - tf.where(zero, tf.stop_gradient(gap), tf.zeros_like(gap))


_EPSILON = {tf.float64: 2.0**-52, tf.float32: 2.0**-23}


def arcsin_ratio(y: tf.Tensor) -> tf.Tensor:
    """arcsin(sqrt(y)) / sqrt(y) for 0 <= y <= 1/2."""
    coefficients = _ARCSIN[y.dtype]
    value = tf.constant(coefficients[-1], y.dtype)
    for coefficient in coefficients[-2::-1]:
        value = value * y + tf.constant(coefficient, y.dtype)
    return value


def angle(sine: tf.Tensor, cosine: tf.Tensor) -> tf.Tensor:
    """The angle in [-pi/2, pi/2] of a given sine and non-negative cosine, both accurate."""
    magnitude = tf.abs(sine)
    near_zero = magnitude <= cosine
    smaller = tf.where(near_zero, magnitude, cosine)
    value = smaller * arcsin_ratio(smaller * smaller)
    value = tf.where(near_zero, value, math.pi / 2 - value)
    return tf.where(sine < 0, -value, value)


def angle_of_gap(gap: tf.Tensor) -> tf.Tensor:
    """arccos(1 - gap), with full relative accuracy at both ends where arccos loses half of it."""
    # From sin(t/2)^2 = gap / 2 or cos(t/2)^2 = 1 - gap / 2, whichever is smaller.
    acute = gap <= 1
    half = tf.where(acute, gap, 2 - gap) / 2
    value = 2 * safe_sqrt(half) * arcsin_ratio(half)
    return tf.where(acute, value, math.pi - value)


class FromMaps(Dual):
    """The dual of a user's function (q1, q2, q12) -> (E[phi phi], E[phi' phi'])."""

    def __init__(self, maps: Callable) -> None:
        """Takes the function."""
        self._maps = maps

    def moments(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The maps of one signal with itself."""
        return self._maps(q, q, q)

    def side(self, q: tf.Tensor) -> Side:
        """The variance, its root, and E[phi^2]^(-1/2)."""
        return q, safe_sqrt(q), inverse(safe_sqrt(self.moments(q)[0]))

    def pair(self, side1: Side, side2: Side, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The output gap, with as many digits as the user's function leaves it: 1e-16 of one."""
        (q1, root1, inverse1), (q2, root2, inverse2) = side1, side2
        value, derivative = self._maps(q1, q2, root1 * root2 * (1 - gap))
        return 1 - value * (inverse1 * inverse2), derivative


def constant(value: float, x: Any) -> tf.Tensor:
    """The number in x's dtype without the detour over float32 that a cast would take."""
    return tf.constant(value, tf.convert_to_tensor(x).dtype)
