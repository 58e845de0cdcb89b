"""a min(x, 0) + b max(x, 0)."""

from mfcnn.activations._activation import Activation
from mfcnn.activations._piecewise import piecewise
from mfcnn.activations._registry import form


@form("abrelu")
def build(a: float = -0.5, b: float = 1.0) -> Activation:
    """Any function with phi(t x) = t phi(x) for t > 0; a = 0.2 is leaky_relu, -1 is abs."""
    return piecewise([0.0], [[0.0, a], [0.0, b]])
