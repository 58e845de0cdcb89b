"""(x + sqrt(x^2 + b)) / 2."""

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._dual import constant
from mfcnn.activations._registry import form


@form("squareplus", functions=(keras.activations.squareplus,))
def build(b: float = 4) -> Activation:
    """A softplus of algebraic tails."""

    def phi(x: tf.Tensor) -> tf.Tensor:
        root = tf.sqrt(tf.square(x) + constant(b, x))
        # For x < 0 the sum cancels: b / (root - x) instead.
        return tf.where(x > 0, x + root, constant(b, x) / (root + tf.abs(x))) / 2

    def phi_prime(x: tf.Tensor) -> tf.Tensor:
        square = tf.square(x) + constant(b, x)
        half = constant(b, x) / (square + tf.abs(x) * tf.sqrt(square)) / 2
        return tf.where(x > 0, 1 - half, half)

    return Activation(phi, phi_prime)
