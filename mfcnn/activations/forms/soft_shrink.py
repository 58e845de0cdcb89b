"""x moved towards zero by the threshold, and zero within it."""

import keras

from mfcnn.activations._activation import Activation
from mfcnn.activations._piecewise import piecewise
from mfcnn.activations._registry import form


@form("soft_shrink", functions=(keras.activations.soft_shrink,))
def build(threshold: float = 0.5) -> Activation:
    """Two kinks."""
    return piecewise([-threshold, threshold], [[threshold, 1.0], [0.0], [-threshold, 1.0]])
