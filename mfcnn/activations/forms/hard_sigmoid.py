"""min(max(x / 6 + 1/2, 0), 1)."""

import keras

from mfcnn.activations._activation import Activation
from mfcnn.activations._piecewise import piecewise
from mfcnn.activations._registry import form


@form("hard_sigmoid", functions=(keras.activations.hard_sigmoid,))
def build() -> Activation:
    """Two kinks."""
    return piecewise([-3.0, 3.0], [[0.0], [0.5, 1 / 6], [1.0]])
