"""sin(x) and cos(x): two forms in one file, since the derivative of one is the other."""

import math

import keras
import numpy as np
import tensorflow as tf
from scipy import special

from mfcnn.activations._activation import Activation
from mfcnn.activations._close import Close, gap_of_squares
from mfcnn.activations._dual import Dual, Side
from mfcnn.activations._moments import ClosedForm
from mfcnn.activations._registry import form
from mfcnn.numerics import inverse, safe_sqrt


def _minus_sin(x: tf.Tensor) -> tf.Tensor:
    return -tf.sin(x)


def _sine_moments() -> ClosedForm:
    """Moments of sin(x), with E[phi phi] = exp(-q) sinh(q c)."""

    def deficit(
        q: np.ndarray,
    ) -> np.ndarray:  # exp(-q) (q cosh(q) - sinh(q)); by its series when small
        k = np.arange(1, 12)
        factorials = np.array([math.factorial(2 * i + 1) for i in k], np.float64)
        series = np.sum(2 * k / factorials * np.minimum(q, 1.0)[..., None] ** (2 * k + 1), axis=-1)
        large = 0.5 * (q * (1 + np.exp(-2 * q)) + np.expm1(-2 * q))
        return np.where(q <= 1.0, np.exp(-q) * series, large)

    return ClosedForm(
        second=lambda q: -np.expm1(-2 * q) / 2,
        derivative=lambda q: (1 + np.exp(-2 * q)) / 2,
        slope=lambda q: np.exp(-2 * q),
        mean=np.zeros_like,
        deficit=deficit,
        pair_derivative=lambda q, gap: 0.5 * (np.exp(-q * gap) + np.exp(-q * (2 - gap))),
        pair_secant=lambda q, gap: 0.5 * (1 + np.exp(-q * (2 - gap))) * special.exprel(-q * gap),
    )


def _cosine_moments() -> ClosedForm:
    """Moments of cos(x), with E[phi phi] = exp(-q) cosh(q c)."""
    return ClosedForm(
        second=lambda q: (1 + np.exp(-2 * q)) / 2,
        derivative=lambda q: -np.expm1(-2 * q) / 2,
        slope=lambda q: -np.exp(-2 * q),
        mean=lambda q: np.exp(-q / 2),
        deficit=lambda q: -q * np.expm1(-2 * q) / 2 - (1 + np.exp(-2 * q)) / 2,
        pair_derivative=lambda q, gap: -0.5 * np.exp(-q * gap) * np.expm1(-2 * q * (1 - gap)),
        pair_secant=lambda q, gap: -0.5 * np.expm1(-q * (2 - gap)) * special.exprel(-q * gap),
    )


class _Sinusoid(Dual):
    """phi = sin or cos: E[sin sin] and E[cos cos] = (exp(-d / 2) -+ exp(-m / 2)) / 2.

    d and m are the variances of u - v and u + v; the derivative of one is the other.
    """

    def __init__(self, sine: bool) -> None:
        self._sine = sine

    def _products(self, q12: tf.Tensor, minus: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # exp(-(q1 + q2) / 2) sinh(q12) and cosh(q12); `minus` is exp(|q12| - (q1 + q2) / 2).
        magnitude = tf.abs(q12)
        decay = -tf.math.expm1(-2 * magnitude)
        return tf.sign(q12) * minus * decay / 2, minus * (2 - decay) / 2

    def moments(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        sine, cosine = self._products(q, tf.ones_like(q))
        return (sine, cosine) if self._sine else (cosine, sine)

    def side(self, q: tf.Tensor) -> Side:
        return tf.sqrt(q), inverse(safe_sqrt(self.moments(q)[0]))

    def pair(self, side1: Side, side2: Side, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        (root1, inverse1), (root2, inverse2) = side1, side2
        product = root1 * root2
        # |q12| - (q1 + q2) / 2 = -(r1 - r2)^2 / 2 - r1 r2 (1 - |c|), never positive.
        nearer = tf.minimum(gap, 2 - gap)
        minus = tf.exp(-((root1 - root2) ** 2) / 2 - product * nearer)
        sine, cosine = self._products(product * (1 - gap), minus)
        value, derivative = (sine, cosine) if self._sine else (cosine, sine)
        return 1 - value * (inverse1 * inverse2), derivative

    @property
    def close(self) -> Close:
        return _CloseSinusoid(self, self._sine)


class _CloseSinusoid(Close):
    """The distance without cancellation.

    With D = q1 - q2 and q the lesser variance, since d + m = 2 (q1 + q2),

        E[(sin u - sin v)^2] = (1 - exp(-d / 2)) (1 + exp(-m / 2)) - exp(-2 q) (1 - exp(-|D|))^2 / 2
        E[(cos u - cos v)^2] = (1 - exp(-d / 2)) (1 - exp(-m / 2)) + exp(-2 q) (1 - exp(-|D|))^2 / 2
    """

    def __init__(self, dual: Dual, sine: bool) -> None:
        super().__init__(dual)
        self._sign = 1 if sine else -1

    def side(self, q: tf.Tensor) -> Side:
        return q, tf.sqrt(q), safe_sqrt(self.dual.moments(q)[0])

    def pair(
        self, side1: Side, side2: Side, gap: tf.Tensor, difference: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        (q1, root1, size1), (q2, root2, size2) = side1, side2
        product = root1 * root2
        roots = difference * inverse(root1 + root2)
        # Half the variances of u - v and u + v: roots^2 + 2 product gap and its mirror image.
        minus = roots * roots / 2 + product * gap
        plus = (root1 + root2) ** 2 / 2 - product * gap
        apart, other = -tf.math.expm1(-minus), tf.exp(-plus)
        size = tf.abs(difference)
        decay = tf.exp(-2 * tf.minimum(q1, q2))
        rest = decay * tf.math.expm1(-size) ** 2 / 2
        distance = apart * (1 + other if self._sign > 0 else -tf.math.expm1(-plus))
        distance -= self._sign * rest
        change = -self._sign * tf.sign(difference) * decay * tf.math.expm1(-2 * size) / 2
        output_gap = gap_of_squares(distance, size1, size2, change)
        # E[cos cos] and E[sin sin]: of sin's derivative and of that of cos.
        covariance = product * (1 - gap)
        fall = tf.exp(-2 * tf.abs(covariance))
        slope = 1 + fall if self._sign > 0 else tf.sign(covariance) * (1 - fall)
        return output_gap, slope * tf.exp(-tf.minimum(minus, plus)) / 2, change


@form("sin", functions=(tf.sin, tf.math.sin, keras.ops.sin))
def build_sin() -> Activation:
    """The odd one."""
    return Activation(tf.sin, tf.cos, moments=_sine_moments(), dual=_Sinusoid(sine=True))


@form("cos", functions=(tf.cos, tf.math.cos, keras.ops.cos))
def build_cos() -> Activation:
    """The even one."""
    return Activation(tf.cos, _minus_sin, moments=_cosine_moments(), dual=_Sinusoid(sine=False))
