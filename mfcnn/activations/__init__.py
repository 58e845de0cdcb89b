"""Activations: phi, phi' and their Gaussian moments, the one place that knows them.

`get("tanh")` gives an `Activation`; `Activation(phi, phi_prime)` makes one from any function.
"""

from mfcnn.activations import forms as _forms  # noqa: F401  each file registers itself
from mfcnn.activations._activation import Activation
from mfcnn.activations._dual import Dual
from mfcnn.activations._maps import dual_maps
from mfcnn.activations._registry import get, keras_identifier
from mfcnn.activations._registry import names as _names
from mfcnn.activations._tailored import tailored

NAMES = _names()

__all__ = ["NAMES", "Activation", "Dual", "dual_maps", "get", "keras_identifier", "tailored"]


def __dir__() -> list[str]:
    return __all__
