"""log(1 / (1 + exp(-x)))."""

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._registry import form


def _log_sigmoid(x: tf.Tensor) -> tf.Tensor:
    return -tf.math.softplus(-x)


def _derivative(x: tf.Tensor) -> tf.Tensor:
    return tf.sigmoid(-x)


@form(
    "log_sigmoid",
    functions=(
        tf.math.log_sigmoid,
        keras.activations.log_sigmoid,
    ),
)
def build() -> Activation:
    """Softplus mirrored at both axes."""
    return Activation(_log_sigmoid, _derivative)
