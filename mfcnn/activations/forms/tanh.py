"""tanh(x)."""

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._registry import form


def _derivative(x: tf.Tensor) -> tf.Tensor:
    t = tf.tanh(x)
    return (1 - t) * (1 + t)


@form("tanh", functions=(tf.tanh, keras.activations.tanh, keras.ops.tanh))
def build() -> Activation:
    """No closed form."""
    return Activation(tf.tanh, _derivative)
