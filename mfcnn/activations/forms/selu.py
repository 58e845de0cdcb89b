"""elu, scaled so that it keeps mean zero and variance one (Klambauer et al., 2017)."""

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._elu import exponential_linear
from mfcnn.activations._registry import form

_SCALE, _ALPHA = 1.0507009873554805, 1.6732632423543772


@form("selu", functions=(tf.nn.selu, keras.activations.selu))
def build() -> Activation:
    """The slope jumps at zero."""
    return exponential_linear(_SCALE, _SCALE * _ALPHA, 1.0)
