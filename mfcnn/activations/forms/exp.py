"""exp(x)."""

import keras
import numpy as np
import tensorflow as tf
from scipy import special

from mfcnn.activations._activation import Activation
from mfcnn.activations._close import Close
from mfcnn.activations._dual import Dual, Side
from mfcnn.activations._moments import ClosedForm
from mfcnn.activations._registry import form
from mfcnn.numerics import inverse


def _moments() -> ClosedForm:
    """Moments of exp(x), with E[phi phi] = exp(q (1 + c))."""

    def square(q: np.ndarray) -> np.ndarray:
        return np.exp(2 * q)

    return ClosedForm(
        second=square,
        derivative=square,
        slope=lambda q: 2 * square(q),
        mean=lambda q: np.exp(q / 2),
        deficit=lambda q: (q - 1) * square(q),
        pair_derivative=lambda q, gap: np.exp(q * (2 - gap)),
        pair_secant=lambda q, gap: square(q) * special.exprel(-q * gap),
    )


class _Exponential(Dual):
    """phi(x) = exp(x): T = exp((q1 + q2) / 2 + q12)."""

    def moments(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        second = tf.exp(2 * q)
        return second, second

    def side(self, q: tf.Tensor) -> Side:
        return tf.sqrt(q), tf.exp(q)

    def pair(self, side1: Side, side2: Side, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        (root1, a1), (root2, a2) = side1, side2
        half_distance = (root1 - root2) ** 2 / 2 + root1 * root2 * gap
        return -tf.math.expm1(-half_distance), a1 * a2 * tf.exp(-half_distance)

    @property
    def close(self) -> Close:
        return _CloseExponential(self)


class _CloseExponential(Close):
    """All digits: the output gap is of the distance of u and v."""

    def side(self, q: tf.Tensor) -> Side:
        return self.dual.side(q)

    def pair(
        self, side1: Side, side2: Side, gap: tf.Tensor, difference: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        (root1, a1), (root2, a2) = side1, side2
        apart = difference * inverse(root1 + root2)
        half_distance = apart * apart / 2 + root1 * root2 * gap
        slope = a1 * a2 * tf.exp(-half_distance)
        return -tf.math.expm1(-half_distance), slope, 2 * a1 * a2 * tf.sinh(difference)


@form(
    "exp",
    functions=(tf.exp, tf.math.exp, keras.activations.exponential, keras.ops.exp),
)
def build() -> Activation:
    """The exponential kernel."""
    return Activation(tf.exp, tf.exp, moments=_moments(), dual=_Exponential())
