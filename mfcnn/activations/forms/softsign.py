"""x / (1 + |x|)."""

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._registry import form


def _softsign(x: tf.Tensor) -> tf.Tensor:
    return x / (1 + tf.abs(x))


def _derivative(x: tf.Tensor) -> tf.Tensor:
    return 1 / tf.square(1 + tf.abs(x))


@form(
    "softsign",
    functions=(
        tf.nn.softsign,
        keras.activations.softsign,
    ),
)
def build() -> Activation:
    """All derivatives from the second on jump at zero."""
    return Activation(_softsign, _derivative)
