"""max(x, 0)^2."""

from mfcnn.activations._activation import Activation
from mfcnn.activations._piecewise import piecewise
from mfcnn.activations._registry import form


@form("relu_squared")
def build() -> Activation:
    """A parabola with one arm."""
    return piecewise([0.0], [[0.0], [0.0, 0.0, 1.0]])
