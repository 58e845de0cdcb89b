"""0 up to -1, (x + 1)^2 / 4 up to 1, then x."""

import keras

from mfcnn.activations._activation import Activation
from mfcnn.activations._piecewise import piecewise
from mfcnn.activations._registry import form


@form("sparse_plus", functions=(keras.activations.sparse_plus,))
def build() -> Activation:
    """A softplus of finite support."""
    return piecewise([-1.0, 1.0], [[0.0], [0.25, 0.5, 0.25], [0.0, 1.0]])
