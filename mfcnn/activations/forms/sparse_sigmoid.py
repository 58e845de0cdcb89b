"""min(max((x + 1) / 2, 0), 1)."""

import keras

from mfcnn.activations._activation import Activation
from mfcnn.activations._piecewise import piecewise
from mfcnn.activations._registry import form


@form("sparse_sigmoid", functions=(keras.activations.sparse_sigmoid,))
def build() -> Activation:
    """Two kinks."""
    return piecewise([-1.0, 1.0], [[0.0], [0.5, 0.5], [1.0]])
