"""log(1 + exp(x))."""

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._registry import form


@form(
    "softplus",
    functions=(tf.math.softplus, tf.nn.softplus, keras.activations.softplus, keras.ops.softplus),
)
def build() -> Activation:
    """No closed form."""
    return Activation(tf.math.softplus, tf.sigmoid)
