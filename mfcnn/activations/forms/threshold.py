"""x above the threshold, default_value up to it."""

import keras

from mfcnn.activations._activation import Activation
from mfcnn.activations._piecewise import piecewise
from mfcnn.activations._registry import form


@form("threshold", functions=(keras.activations.threshold,))
def build(threshold: float = 0.0, default_value: float = 0.0) -> Activation:
    """Continuous, and so with moments, where default_value is the threshold."""
    return piecewise([threshold], [[default_value], [0.0, 1.0]])
