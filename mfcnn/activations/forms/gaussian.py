"""exp(-x^2)."""

import numpy as np
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._close import Close
from mfcnn.activations._dual import Dual, Side
from mfcnn.activations._moments import ClosedForm
from mfcnn.activations._registry import form


def _gaussian(x: tf.Tensor) -> tf.Tensor:
    return tf.exp(-tf.square(x))


def _derivative(x: tf.Tensor) -> tf.Tensor:
    return -2 * x * _gaussian(x)


def _determinant(q: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """(1 + 2q)^2 - (2qc)^2."""
    return (1 + 2 * q * gap) * (1 + 2 * q * (2 - gap))


def _moments() -> ClosedForm:
    """Moments of exp(-x^2), with E[phi phi] = ((1 + 2q)^2 - (2qc)^2)^(-1/2)."""

    def pair_secant(q: np.ndarray, gap: np.ndarray) -> np.ndarray:
        one, other = np.sqrt(1 + 4 * q), np.sqrt(_determinant(q, gap))
        # (1 / one - 1 / other) / (q gap), with other^2 - one^2 = 4 q^2 gap (2 - gap).
        return 4 * q * (2 - gap) / (one * other * (one + other))

    return ClosedForm(
        second=lambda q: (1 + 4 * q) ** -0.5,
        derivative=lambda q: 4 * q * (1 + 4 * q) ** -1.5,
        slope=lambda q: -2 * (1 + 4 * q) ** -1.5,
        mean=lambda q: (1 + 2 * q) ** -0.5,
        deficit=lambda q: (4 * q * q - 4 * q - 1) * (1 + 4 * q) ** -1.5,
        pair_derivative=lambda q, gap: 4 * q * (1 - gap) * _determinant(q, gap) ** -1.5,
        pair_secant=pair_secant,
    )


class _Gaussian(Dual):
    """phi(x) = exp(-a x^2): T = D^(-1/2), D = (1 + 2 a q1) (1 + 2 a q2) - (2 a q12)^2.

    Completing the square leaves a Gaussian with covariance q12 / D between u and v, so
    E[phi' phi'] = 4 a^2 q12 D^(-3/2).
    """

    def __init__(self, a: float) -> None:
        self._a = a

    def moments(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        second = 1 / tf.sqrt(1 + 4 * self._a * q)
        return second, 4 * self._a**2 * q * second**3

    def side(self, q: tf.Tensor) -> Side:
        free = 1 / (1 + 2 * self._a * q)
        return free, tf.sqrt(q), tf.pow((2 - free) / free, 0.25)

    def pair(self, side1: Side, side2: Side, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        (free1, root1, inverse1), (free2, root2, inverse2) = side1, side2
        product = root1 * root2
        free = free1 * free2
        # D divided by (1 + 2 a q1) (1 + 2 a q2), as a sum of positive terms.
        k = 2 * self._a * product
        relative = free1 + free2 - free + k * k * free * gap * (2 - gap)
        value = tf.sqrt(free / relative)
        derivative = 4 * self._a**2 * product * (1 - gap) * value**3
        return 1 - value * (inverse1 * inverse2), derivative

    @property
    def close(self) -> Close:
        return _CloseGaussian(self, self._a)


class _CloseGaussian(Close):
    """All digits, with D - sqrt(D1 D2) = (sqrt(D1) - sqrt(D2))^2 / 2 + (2 a)^2 q1 q2 gap (2 - gap).

    D1 = 1 + 4 a q1 and D2 are D at v = u and u = v.
    """

    def __init__(self, dual: Dual, a: float) -> None:
        super().__init__(dual)
        self._a = a

    def side(self, q: tf.Tensor) -> Side:
        return q, tf.sqrt(q), tf.sqrt(1 + 4 * self._a * q)

    def pair(
        self, side1: Side, side2: Side, gap: tf.Tensor, difference: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        (q1, root1, size1), (q2, root2, size2) = side1, side2
        product = root1 * root2
        apart = 4 * self._a * difference / (size1 + size2)
        own, bend = size1 * size2, (2 * self._a * product) ** 2 * gap * (2 - gap)
        whole = 1 + 2 * self._a * (q1 + q2) + bend  # D
        excess = (apart * apart / 2 + bend) / whole  # 1 - sqrt(D1 D2) / D
        output_gap = excess / (1 + tf.sqrt(own / whole))
        derivative = 4 * self._a**2 * product * (1 - gap) / (whole * tf.sqrt(whole))
        return output_gap, derivative, -apart / own


@form("gaussian")
def build() -> Activation:
    """A bump at zero."""
    return Activation(_gaussian, _derivative, moments=_moments(), dual=_Gaussian(1.0))
