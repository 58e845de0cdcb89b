"""elu, selu and celu: a line above zero, an exponential below."""

import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._dual import constant

__all__ = ["exponential_linear"]


def exponential_linear(slope: float, size: float, rate: float) -> Activation:
    """phi(x) = slope x for x > 0, size (exp(rate x) - 1) for x <= 0."""

    def phi(x: tf.Tensor) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        below = tf.math.expm1(constant(rate, x) * tf.minimum(x, 0))
        return tf.where(x > 0, constant(slope, x) * x, constant(size, x) * below)

    def phi_prime(x: tf.Tensor) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        below = tf.exp(constant(rate, x) * tf.minimum(x, 0))
        above = constant(slope, x) * tf.ones_like(x)
        return tf.where(x > 0, above, constant(rate * size, x) * below)

    return Activation(phi, phi_prime, "exponential_linear")
