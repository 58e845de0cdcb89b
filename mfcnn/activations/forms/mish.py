"""x tanh(log(1 + exp(x)))."""

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._registry import form


def _mish(x: tf.Tensor) -> tf.Tensor:
    return x * tf.tanh(tf.math.softplus(x))


def _derivative(x: tf.Tensor) -> tf.Tensor:
    t = tf.tanh(tf.math.softplus(x))
    return t + x * (1 - t) * (1 + t) * tf.sigmoid(x)


@form("mish", functions=(keras.activations.mish,))
def build() -> Activation:
    """No closed form."""
    return Activation(_mish, _derivative)
