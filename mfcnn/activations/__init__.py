"""Activations: phi, phi' and their Gaussian moments, the one place that knows them.

`get("tanh")` gives an `Activation`; `Activation(phi, phi_prime)` makes one from any function.
"""

from mfcnn.activations.activation import Activation
from mfcnn.activations.library import NAMES, get, keras_identifier

__all__ = ["NAMES", "Activation", "get", "keras_identifier"]
