"""x hard_sigmoid(x), also called hard_silu."""

import keras

from mfcnn.activations._activation import Activation
from mfcnn.activations._piecewise import piecewise
from mfcnn.activations._registry import form


@form("hard_swish", functions=(keras.activations.hard_silu, keras.activations.hard_swish))
def build() -> Activation:
    """A parabola between two kinks."""
    return piecewise([-3.0, 3.0], [[0.0], [0.0, 0.5, 1 / 6], [0.0, 1.0]])
