"""x above zero, alpha (exp(x) - 1) below."""

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._elu import exponential_linear
from mfcnn.activations._registry import form


@form("elu", functions=(tf.nn.elu, keras.activations.elu), layers=(keras.layers.ELU,))
def build(alpha: float = 1.0) -> Activation:
    """The slope jumps at zero unless alpha = 1."""
    return exponential_linear(1.0, alpha, 1.0)
