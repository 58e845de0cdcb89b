"""x sigmoid(x), also called silu."""

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._registry import form


def _swish(x: tf.Tensor) -> tf.Tensor:
    return x * tf.sigmoid(x)


def _derivative(x: tf.Tensor) -> tf.Tensor:
    return tf.sigmoid(x) * (1 + x * tf.sigmoid(-x))


@form("swish", functions=(tf.nn.silu, tf.nn.swish, keras.activations.silu, keras.ops.silu))
def build() -> Activation:
    """No closed form."""
    return Activation(_swish, _derivative)
