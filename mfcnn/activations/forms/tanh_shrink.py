"""x - tanh(x)."""

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._registry import form


def _tanh_shrink(x: tf.Tensor) -> tf.Tensor:
    return x - tf.tanh(x)


def _derivative(x: tf.Tensor) -> tf.Tensor:
    return tf.square(tf.tanh(x))


@form("tanh_shrink", functions=(keras.activations.tanh_shrink,))
def build() -> Activation:
    """A cube near zero."""
    return Activation(_tanh_shrink, _derivative)
