"""1 / (1 + exp(-x))."""

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._registry import form


def _derivative(x: tf.Tensor) -> tf.Tensor:
    return tf.sigmoid(x) * tf.sigmoid(-x)


@form(
    "sigmoid",
    functions=(tf.sigmoid, tf.nn.sigmoid, keras.activations.sigmoid, keras.ops.sigmoid),
)
def build() -> Activation:
    """No closed form."""
    return Activation(tf.sigmoid, _derivative)
