"""x above zero, alpha (exp(x / alpha) - 1) below."""

import keras

from mfcnn.activations._activation import Activation
from mfcnn.activations._elu import exponential_linear
from mfcnn.activations._registry import form


@form("celu", functions=(keras.activations.celu,))
def build(alpha: float = 1.0) -> Activation:
    """A continuous slope whatever alpha is."""
    return exponential_linear(1.0, alpha, 1 / alpha)
