"""The error function: C. Williams, "Computing with infinite networks" (1997)."""

import math

import keras
import numpy as np
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._close import Close, turn
from mfcnn.activations._dual import Dual, Side, angle, constant
from mfcnn.activations._moments import ClosedForm
from mfcnn.activations._registry import form
from mfcnn.numerics import inverse, safe_sqrt


def _derivative(x: tf.Tensor) -> tf.Tensor:
    return tf.exp(-tf.square(x)) * constant(2 / math.sqrt(math.pi), x)


def _determinant(q: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """(1 + 2q)^2 - (2qc)^2."""
    return (1 + 2 * q * gap) * (1 + 2 * q * (2 - gap))


def _minus_arctan(y: np.ndarray) -> np.ndarray:
    """Computes y - arctan(y) for y >= 0; by its series when small."""
    small = np.minimum(y, 0.25)[..., None]
    k = np.arange(1, 14)
    series = np.sum(-((-1.0) ** k) * small ** (2 * k + 1) / (2 * k + 1), axis=-1)
    return np.where(y <= 0.25, series, y - np.arctan(y))


def _moments() -> ClosedForm:
    """Moments of the error function: E[phi phi] = (2 / pi) arcsin(2qc / (1 + 2q))."""

    def pair_secant(q: np.ndarray, gap: np.ndarray) -> np.ndarray:
        # arcsin(a) - arcsin(b) as one angle, whose sine and cosine don't cancel.
        a, b = 2 * q / (1 + 2 * q), 2 * q * (1 - gap) / (1 + 2 * q)
        cos_a = np.sqrt(1 + 4 * q) / (1 + 2 * q)
        cos_b = np.sqrt(_determinant(q, gap)) / (1 + 2 * q)
        same_sign = b > 0
        sine_of_angle = np.where(
            same_sign,
            2 * q * gap / (1 + 2 * q) * (a + b) / np.where(same_sign, a * cos_b + b * cos_a, 1),
            a * cos_b - b * cos_a,
        )
        angle = np.arctan2(sine_of_angle, cos_a * cos_b + a * b)
        limit = (4 / np.pi) / np.sqrt(1 + 4 * q)
        return np.where(gap == 0, limit, (2 / np.pi) * angle / np.where(gap == 0, 1, q * gap))

    return ClosedForm(
        second=lambda q: (2 / np.pi) * np.arctan(2 * q / np.sqrt(1 + 4 * q)),
        derivative=lambda q: (4 / np.pi) / np.sqrt(1 + 4 * q),
        slope=lambda q: (4 / np.pi) / ((1 + 2 * q) * np.sqrt(1 + 4 * q)),
        mean=np.zeros_like,
        deficit=lambda q: (2 / np.pi) * _minus_arctan(2 * q / np.sqrt(1 + 4 * q)),
        pair_derivative=lambda q, gap: (4 / np.pi) / np.sqrt(_determinant(q, gap)),
        pair_secant=pair_secant,
    )


class _Erf(Dual):
    """phi(x) = erf(x): T = (2/pi) arcsin(2 q12 / sqrt((1 + 2 q1) (1 + 2 q2)))."""

    def moments(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        free = 1 / (1 + 2 * q)
        # cos of the angle of sin = 2 q / (1 + 2 q): exact for q -> 0 and q -> infinity.
        cosine = tf.sqrt(free * (2 - free))
        return (2 / math.pi) * angle(2 * q * free, cosine), (4 / math.pi) * free / cosine

    def side(self, q: tf.Tensor) -> Side:
        free = 1 / (1 + 2 * q)
        return (
            free,
            tf.sqrt(free),
            safe_sqrt(2 * q * free),
            inverse(safe_sqrt(self.moments(q)[0])),
        )

    def pair(self, side1: Side, side2: Side, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        (free1, root1, k1, inverse1), (free2, root2, k2, inverse2) = side1, side2
        k = k1 * k2
        # 1 - rho^2 as a sum of positive terms; its root serves the arcsine and the derivative.
        cosine = tf.sqrt(free1 + free2 - free1 * free2 + k * k * gap * (2 - gap))
        turned = angle(k * (1 - gap), cosine)
        output_gap = 1 - (2 / math.pi) * turned * (inverse1 * inverse2)
        return output_gap, (4 / math.pi) * (root1 * root2) / cosine

    @property
    def close(self) -> Close:
        return _CloseErf(self)


class _CloseErf(Close):
    """All digits of the output gap and of A1 - A2, in half as much time again."""

    def side(self, q: tf.Tensor) -> Side:
        free = 1 / (1 + 2 * q)
        cosine, sine = tf.sqrt(free * (2 - free)), 2 * q * free
        own, rest = angle(sine, cosine) / 2, angle(cosine, sine) / 2  # half of t and of pi/2 - t
        halves = tf.sin(own), tf.cos(own), tf.sin(rest), tf.cos(rest)
        root = safe_sqrt(2 * own)
        return free, tf.sqrt(free), safe_sqrt(sine), cosine, root, inverse(root), *halves

    def pair(
        self, side1: Side, side2: Side, gap: tf.Tensor, difference: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The output gap as a sum of small terms: 1 - T / sqrt(A1 A2) would have no digits left.

        With t the angle of a pair, sin t = rho, and s the mean of t1 = t(u, u) and t2 = t(v, v),

            sin(s - t) sin(s + t) = sin^2((t1 - t2) / 2) + sin t1 sin t2 gap (2 - gap)
            1 - t / sqrt(t1 t2) = (s - t - (sqrt(t1) - sqrt(t2))^2 / 2) / sqrt(t1 t2).

        For c < 0 it is the mirror image: T is odd in c.
        """
        free1, root1, k1, own1, angle1, inverse1, sine1, cosine1, rest1, above1 = side1
        free2, root2, k2, own2, angle2, inverse2, sine2, cosine2, rest2, above2 = side2
        k = k1 * k2
        bend = k * k * gap * (2 - gap)
        # 1 - rho^2 as a sum of positive terms; its root serves the angle and the derivative.
        cosine = tf.sqrt(free1 + free2 - free1 * free2 + bend)
        rho = k * tf.abs(1 - gap)
        # sin and cos of s, each as a sum of products of positive numbers.
        sine, rest = sine1 * cosine2 + cosine1 * sine2, rest1 * above2 + above1 * rest2
        turned = turn(k1 * k1, own1, k2 * k2, own2, 2 * difference * (free1 * free2))
        apart = turned[0] * tf.math.rsqrt(2 * (1 + turned[1]))  # sin((t1 - t2) / 2)
        total = sine * cosine + rest * rho
        # One division for both ratios.
        shared = inverse(total * cosine)
        between = angle((apart * apart + bend) * (cosine * shared), rest * cosine + sine * rho)
        angles = angle(*turned)
        roots = angles * inverse(angle1 + angle2)
        nearer = (between - roots * roots / 2) * (inverse1 * inverse2)
        output_gap = tf.where(gap <= 1, nearer, 2 - nearer)
        slope = (4 / math.pi) * (root1 * root2) * (total * shared)
        return output_gap, slope, (2 / math.pi) * angles


@form("erf", functions=(tf.math.erf, keras.ops.erf))
def build() -> Activation:
    """Williams's arcsine kernel."""
    return Activation(tf.math.erf, _derivative, moments=_moments(), dual=_Erf())
