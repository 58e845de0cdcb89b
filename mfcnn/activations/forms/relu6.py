"""min(max(x, 0), 6)."""

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._piecewise import piecewise
from mfcnn.activations._registry import form


@form("relu6", functions=(tf.nn.relu6, keras.activations.relu6))
def build() -> Activation:
    """Two kinks."""
    return piecewise([0.0, 6.0], [[0.0], [0.0, 1.0], [6.0]])
