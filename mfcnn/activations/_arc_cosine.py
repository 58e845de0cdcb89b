"""Dual maps of phi(x) = a x + b |x|: relu, leaky relu, abs, linear.

The cross terms vanish by symmetry: T = a^2 q12 + b^2 E|uv|, with Cho and Saul's
E|uv| = sqrt(q1 q2) (2/pi) (sin t + (pi/2 - t) cos t), c = cos t; it is homogeneous, so the
normalised map does not depend on the variances.
"""

import math

import tensorflow as tf

from mfcnn.activations._close import Close
from mfcnn.activations._dual import Dual, Side, angle_of_gap
from mfcnn.numerics import safe_sqrt

__all__ = ["ArcCosine", "CloseHomogeneous", "Linear"]


class Linear(Dual):
    """phi(x) = slope x."""

    def __init__(self, slope: float = 1.0) -> None:
        """Takes the slope, not zero."""
        self._square = slope**2

    def moments(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """slope^2 q and slope^2."""
        return self._square * q, self._square * tf.ones_like(q)

    def side(self, q: tf.Tensor) -> Side:
        """The variance."""
        return (q,)

    def pair(self, side1: Side, side2: Side, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The gap itself."""
        return gap, self._square * tf.ones_like(gap * side1[0] * side2[0])

    @property
    def close(self) -> Close:
        """The same, since the output gap does not depend on the variances."""
        return CloseHomogeneous(self)


class ArcCosine(Dual):
    """phi(x) = positive_slope max(x, 0) + negative_slope min(x, 0)."""

    def __init__(self, negative_slope: float, positive_slope: float = 1.0) -> None:
        """Takes the slopes on both sides, not both zero."""
        self._odd = ((positive_slope + negative_slope) / 2) ** 2
        self._even = ((positive_slope - negative_slope) / 2) ** 2

    def moments(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(a^2 + b^2) q and a^2 + b^2."""
        total = self._odd + self._even
        return total * q, total * tf.ones_like(q)

    def side(self, q: tf.Tensor) -> Side:
        """The variance."""
        return (q,)

    def pair(self, side1: Side, side2: Side, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """By the angle t of c = cos t."""
        gap = gap + tf.zeros_like(side1[0] * side2[0])
        angle = angle_of_gap(gap)
        sine = safe_sqrt(gap * (2 - gap))
        # sin(t) - t cos(t) has an error of t roundings, whose effect on T' is one rounding.
        bend = (2 / math.pi) * (sine - angle * (1 - gap))
        output_gap = gap - self._even / (self._odd + self._even) * bend
        return output_gap, self._odd + self._even * (1 - (2 / math.pi) * angle)

    @property
    def close(self) -> Close:
        """The same, since the output gap does not depend on the variances."""
        return CloseHomogeneous(self)


class CloseHomogeneous(Close):
    """The close dual where the output gap is a function of the gap alone, and A a multiple of q."""

    def side(self, q: tf.Tensor) -> Side:
        """A / q, and the dual's own."""
        return self.dual.moments(tf.ones_like(q))[0], *self.dual.side(q)

    def pair(
        self, side1: Side, side2: Side, gap: tf.Tensor, difference: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The maps of the dual, and A1 - A2 as a multiple of q1 - q2."""
        output_gap, slope = self.dual.pair(side1[1:], side2[1:], gap)
        return output_gap, slope, side1[0] * difference
