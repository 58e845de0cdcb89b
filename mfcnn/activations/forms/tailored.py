"""gamma (phi(alpha x + beta) + delta) for a form phi: what `activations.tailored` solves for."""

from typing import Any

import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._dual import constant
from mfcnn.activations._registry import form, get


@form("tailored")
def build(
    base: str = "tanh",
    alpha: float = 1.0,
    beta: float = 0.0,
    gamma: float = 1.0,
    delta: float = 0.0,
) -> Activation:
    """The base is a form's name; scale and shift of its input and of its output."""
    inner = get(base)

    def place(x: Any) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        return constant(alpha, x) * x + constant(beta, x)

    def phi(x: Any) -> tf.Tensor:
        x = place(x)
        return constant(gamma, x) * (inner.phi(x) + constant(delta, x))

    def phi_prime(x: Any) -> tf.Tensor:
        x = place(x)
        return constant(alpha * gamma, x) * inner.phi_prime(x)

    return Activation(phi, phi_prime)
