"""x Phi(x), Phi the normal distribution function, or its approximation by tanh."""

import math

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._dual import Dual, Side, angle, constant
from mfcnn.activations._registry import form
from mfcnn.numerics import inverse, safe_sqrt


def _density(x: tf.Tensor) -> tf.Tensor:
    return tf.exp(-tf.square(x) / 2) * constant(1 / math.sqrt(2 * math.pi), x)


def _distribution(x: tf.Tensor) -> tf.Tensor:
    return tf.math.erfc(x * constant(-math.sqrt(0.5), x)) / 2


def _gelu(x: tf.Tensor) -> tf.Tensor:
    return x * _distribution(x)


def _derivative(x: tf.Tensor) -> tf.Tensor:
    return _distribution(x) + x * _density(x)


def _inner(x: tf.Tensor) -> tf.Tensor:
    return constant(math.sqrt(2 / math.pi), x) * (x + constant(0.044715, x) * x * x * x)


def _approximate(x: tf.Tensor) -> tf.Tensor:
    return x * (1 + tf.tanh(_inner(x))) / 2


def _approximate_derivative(x: tf.Tensor) -> tf.Tensor:
    t = tf.tanh(_inner(x))
    slope = constant(math.sqrt(2 / math.pi), x) * (1 + constant(3 * 0.044715, x) * x * x)
    return (1 + t) / 2 + x * (1 - t) * (1 + t) * slope / 2


class _Gelu(Dual):
    """phi(x) = x Phi(x), Phi the normal distribution function.

    Stein's lemma on E[u v Phi(u) Phi(v)], with D = (1 + q1) (1 + q2) - q12^2, gives
    T = q12 (1/4 + arcsin(rho) / 2 pi) + (q1 q2 + k q12^2) / (2 pi sqrt(D)),
    k = (1 - q1 q2) / ((1 + q1) (1 + q2)), rho = q12 / sqrt((1 + q1) (1 + q2));
    T' is its derivative by q12 (Price).
    """

    def moments(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        value, derivative = self._maps(q, q, q, tf.zeros_like(q))
        return value, derivative

    def side(self, q: tf.Tensor) -> Side:
        return q, tf.sqrt(q), inverse(safe_sqrt(self.moments(q)[0]))

    def pair(self, side1: Side, side2: Side, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        (q1, root1, inverse1), (q2, root2, inverse2) = side1, side2
        value, derivative = self._maps(q1, q2, root1 * root2, gap)
        return 1 - value * (inverse1 * inverse2), derivative

    def _maps(
        self, q1: tf.Tensor, q2: tf.Tensor, product: tf.Tensor, gap: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        free1, free2 = 1 / (1 + q1), 1 / (1 + q2)
        q12 = product * (1 - gap)
        # D divided by (1 + q1) (1 + q2), as a sum of positive terms.
        root = tf.sqrt(free1 * free2)
        k = product * root
        cosine = tf.sqrt(free1 + free2 - free1 * free2 + k * k * gap * (2 - gap))
        orthant = 0.25 + angle(k * (1 - gap), cosine) / (2 * math.pi)
        density = root / (2 * math.pi * cosine)
        # q1 q2 / ((1 + q1)(1 + q2)) written without overflow.
        curvature = free1 * free2 - (q1 * free1) * (q2 * free2)
        form = product * product + curvature * q12 * q12
        value = q12 * orthant + density * form
        slope = 1 + 2 * curvature + form * (root / cosine) ** 2
        return value, orthant + density * q12 * slope


@form("gelu", functions=(tf.nn.gelu, keras.activations.gelu))
def build(approximate: bool = False) -> Activation:
    """The exact function has a closed form, the approximation has none."""
    if approximate:
        return Activation(_approximate, _approximate_derivative)
    return Activation(_gelu, _derivative, dual=_Gelu())
