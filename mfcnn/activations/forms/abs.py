"""|x|."""

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._piecewise import piecewise
from mfcnn.activations._registry import form


@form("abs", functions=(abs, tf.abs, keras.ops.abs, keras.ops.absolute))
def build() -> Activation:
    """An even function with a kink."""
    return piecewise([0.0], [[0.0, -1.0], [0.0, 1.0]], tf.abs)
