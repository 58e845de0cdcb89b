"""hard_tanh, phi(x) = min(max(x, -1), 1), with dual maps quicker than `_piecewise_dual`.

phi'' is a pair of delta functions at -1 and 1. With x = 1 / sqrt(q1), y = 1 / sqrt(q2) and the
correlation cos(a) >= 0, Price's theorem gives

    E[phi'(u) phi'(v)] = erf(min(x, y) / sqrt(2)) - integral_0^a g(t) dt,
    E[phi(u) phi(v)]   = E at a = 0 - sqrt(q1 q2) ((1 - cos(a)) erf(...)
                                                   - integral_0^a g(t) (cos(t) - cos(a)) dt),
    pi g(t) = exp(-(x - y)^2 / (2 sin(t)^2))
              (exp(-x y / (2 cos(t/2)^2)) - exp(-x y / (2 sin(t/2)^2))),

and a negative correlation changes the sign of the second, since phi is odd. g turns on at
t = |x - y|, however small: so the 128 nodes are the fourth powers of Gauss-Legendre nodes. Right to
1e-9, but far from the speed of erf.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._close import Close
from mfcnn.activations._dual import Dual, Side
from mfcnn.activations._piecewise import piecewise
from mfcnn.activations._piecewise_dual import PiecewisePolynomial
from mfcnn.activations._registry import form
from mfcnn.numerics import safe_sqrt

_TINY = 1e-18  # its square is a float32


def _rule(count: int = 128, power: int = 4) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    nodes = (nodes + 1) / 2
    return nodes**power, weights / 2 * power * nodes ** (power - 1)


class _HardTanh(Dual):
    """A dual (see `dual`) of hard_tanh."""

    # E[phi' phi'] falls like the root of the gap: no rounding of variances may enter that.
    keeps_float64 = True

    def moments(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """E[phi(u)^2] and E[phi'(u)^2]."""
        _, root, inside, outside, density, _ = self.side(q)
        return self._equal(root, root, inside, outside, density), inside

    def side(self, q: tf.Tensor) -> Side:
        """x, sqrt(q), P(|u| < 1), P(|u| > 1), the normal density at x, and E[phi^2]^(-1/2)."""
        root = safe_sqrt(q)
        x = 1 / tf.maximum(root, _TINY)
        inside, outside = tf.math.erf(x * math.sqrt(0.5)), tf.math.erfc(x * math.sqrt(0.5))
        density = tf.exp(-x * x / 2) * (1 / math.sqrt(2 * math.pi))
        second = self._equal(root, root, inside, outside, density)
        return x, root, inside, outside, density, tf.math.rsqrt(tf.maximum(second, _TINY * _TINY))

    @staticmethod
    def _equal(
        smaller: tf.Tensor,
        larger: tf.Tensor,
        inside: tf.Tensor,
        outside: tf.Tensor,
        density: tf.Tensor,
    ) -> tf.Tensor:
        """E[phi(u) phi(v)] at correlation one; `inside` is of the larger root, the others not."""
        return smaller * larger * inside - 2 * smaller * density + outside

    def pair(self, side1: Side, side2: Side, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The output gap and E[phi'(u) phi'(v)], in the dtype of the gap."""
        (x, root1, inside1, outside1, density1, inverse1) = side1
        (y, root2, inside2, outside2, density2, inverse2) = side2
        below = root1 < root2
        inside = tf.where(below, inside2, inside1)
        outside = tf.where(below, outside1, outside2)
        density = tf.where(below, density1, density2)
        smaller, larger = tf.minimum(root1, root2), tf.maximum(root1, root2)
        inverse = inverse1 * inverse2
        equal = self._equal(smaller, larger, inside, outside, density) * inverse
        offset = tf.where(tf.equal(root1, root2), tf.zeros_like(equal), 1 - equal)
        dtype, gap = gap.dtype, tf.cast(gap, equal.dtype) + tf.zeros_like(equal)
        nearer = tf.minimum(gap, 2 - gap)
        slope_drop, value_drop = self._drops(x - y, x * y, nearer)
        output_gap = offset + root1 * root2 * inverse * (nearer * inside - value_drop)
        output_gap = tf.where(gap <= 1, output_gap, 2 - output_gap)
        return tf.cast(output_gap, dtype), tf.cast(inside - slope_drop, dtype)

    @property
    def close(self) -> Close:
        """That of any piecewise polynomial, in twice the time."""
        return PiecewisePolynomial([-1.0, 1.0], [[-1.0], [0.0, 1.0], [1.0]]).close

    @staticmethod
    def _drops(
        difference: tf.Tensor, product: tf.Tensor, gap: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The integrals of g(t) and of g(t) (cos(t) - cos(a))."""
        dtype = gap.dtype
        nodes, weights = (tf.constant(a, dtype) for a in _rule())
        # Never zero, so that slopes at coincident inputs are finite.
        half_angle = tf.asin(tf.sqrt(tf.maximum(gap, 1e-30) / 2))
        squared = difference * difference

        def add(k: tf.Tensor, slope: tf.Tensor, value: tf.Tensor) -> tuple:
            half = half_angle * nodes[k]
            sine, cosine = tf.maximum(tf.sin(half) ** 2, 1e-30), tf.cos(half) ** 2
            apart = squared / (8 * sine * cosine)
            g = tf.exp(-apart - product / (2 * cosine)) - tf.exp(-apart - product / (2 * sine))
            g = g * half_angle * weights[k] * (2 / math.pi)
            drop = 2 * tf.sin(half_angle + half) * tf.sin(half_angle - half)
            return k + 1, slope + g, value + g * drop

        count = nodes.shape[0]
        zero = tf.zeros_like(gap)
        _, slope, value = tf.while_loop(
            lambda k, *_: k < count, add, (tf.constant(0), zero, zero), maximum_iterations=count
        )
        return slope, value


def _clip(x: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(x, -1.0, 1.0)


@form("hard_tanh", functions=(keras.activations.hard_tanh,))
def build() -> Activation:
    """An odd function with two kinks."""
    return piecewise([-1.0, 1.0], [[-1.0], [0.0, 1.0], [1.0]], _clip, dual=_HardTanh())
