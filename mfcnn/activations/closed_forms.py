"""Gaussian moments known in closed form; the interface is that of `moments.Numerical`.

Sources: erf, C. Williams, "Computing with infinite networks" (1997); kinks, Y. Cho and L. Saul,
"Kernel methods for deep learning" (2009), here from Price's theorem; the rest are Gaussian
integrals.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
from scipy import special

from mfcnn.activations import moments

__all__ = ["ClosedForm", "PiecewiseLinear", "cosine", "erf", "exponential", "gaussian", "sine"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """The moments as functions of q, and the two-point moments as functions of (q, gap)."""

    second: Callable
    derivative: Callable
    slope: Callable
    mean: Callable
    deficit: Callable
    pair_derivative: Callable
    pair_secant: Callable

    def pair(self, q):
        """The two-point moments at variances q."""
        return _Pair(
            functools.partial(self.pair_derivative, q), functools.partial(self.pair_secant, q)
        )


@dataclasses.dataclass(frozen=True)
class _Pair:
    derivative: Callable
    secant: Callable


def _determinant(q, gap):
    """(1 + 2q)^2 - (2qc)^2."""
    return (1 + 2 * q * gap) * (1 + 2 * q * (2 - gap))


def erf():
    """Moments of the error function: E[phi phi] = (2 / pi) arcsin(2qc / (1 + 2q))."""

    def pair_secant(q, gap):
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


def _minus_arctan(y):
    """Computes y - arctan(y) for y >= 0; by its series when small."""
    small = np.minimum(y, 0.25)[..., None]
    k = np.arange(1, 14)
    series = np.sum(-((-1.0) ** k) * small ** (2 * k + 1) / (2 * k + 1), axis=-1)
    return np.where(y <= 0.25, series, y - np.arctan(y))


def sine():
    """Moments of sin(x), with E[phi phi] = exp(-q) sinh(q c)."""

    def deficit(q):  # exp(-q) (q cosh(q) - sinh(q)); by its series when small
        k = np.arange(1, 12)
        factorials = np.array([math.factorial(2 * i + 1) for i in k], np.float64)
        series = np.sum(2 * k / factorials * np.minimum(q, 1.0)[..., None] ** (2 * k + 1), axis=-1)
        large = 0.5 * (q * (1 + np.exp(-2 * q)) + np.expm1(-2 * q))
        return np.where(q <= 1.0, np.exp(-q) * series, large)

    return ClosedForm(
        second=lambda q: -np.expm1(-2 * q) / 2,
        derivative=lambda q: (1 + np.exp(-2 * q)) / 2,
        slope=lambda q: np.exp(-2 * q),
        mean=np.zeros_like,
        deficit=deficit,
        pair_derivative=lambda q, gap: 0.5 * (np.exp(-q * gap) + np.exp(-q * (2 - gap))),
        pair_secant=lambda q, gap: 0.5 * (1 + np.exp(-q * (2 - gap))) * special.exprel(-q * gap),
    )


def cosine():
    """Moments of cos(x), with E[phi phi] = exp(-q) cosh(q c)."""
    return ClosedForm(
        second=lambda q: (1 + np.exp(-2 * q)) / 2,
        derivative=lambda q: -np.expm1(-2 * q) / 2,
        slope=lambda q: -np.exp(-2 * q),
        mean=lambda q: np.exp(-q / 2),
        deficit=lambda q: -q * np.expm1(-2 * q) / 2 - (1 + np.exp(-2 * q)) / 2,
        pair_derivative=lambda q, gap: -0.5 * np.exp(-q * gap) * np.expm1(-2 * q * (1 - gap)),
        pair_secant=lambda q, gap: -0.5 * np.expm1(-q * (2 - gap)) * special.exprel(-q * gap),
    )


def exponential():
    """Moments of exp(x), with E[phi phi] = exp(q (1 + c))."""

    def square(q):
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


def gaussian():
    """Moments of exp(-x^2), with E[phi phi] = ((1 + 2q)^2 - (2qc)^2)^(-1/2)."""

    def pair_secant(q, gap):
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


class PiecewiseLinear(moments.Numerical):
    """A continuous phi whose slope changes at the kinks: linear, relu, leaky_relu, abs, hard_tanh.

    With phi'' = sum_i w_i delta(x - k_i), Price's theorem and c = cos(a),

        E[phi'(u) phi'(v)] = E[phi'^2] - 1/(2 pi) sum_ij w_i w_j integral_0^a g_ij(t) dt,
        g_ij(t) = exp(-(k_i^2 - 2 k_i k_j cos(t) + k_j^2) / (2 q sin(t)^2)),

    and another integration over c gives the secant.
    """

    def __init__(self, phi, phi_prime, kinks, slopes):
        """Takes the kinks in ascending order and the slopes between them, one more."""
        super().__init__(phi, phi_prime)
        self._kinks = np.asarray(kinks, np.float64)
        self._slopes = np.asarray(slopes, np.float64)
        self._found = (self._kinks, self._kinks)

    def derivative(self, q):
        """E[phi'^2]."""
        ends = np.concatenate([[-np.inf], self._kinks, [np.inf]]) / np.sqrt(2 * q[:, None])
        return np.diff(special.erf(ends), axis=1) @ self._slopes**2 / 2

    def pair(self, q):
        """The two-point moments at variances q."""
        total = self.derivative(q)

        def pair_secant(gap):
            # cos(t) - cos(a), as a product that keeps its digits as a -> 0.
            drop = self._drop(
                q, gap, lambda t, a: 2 * np.sin(0.5 * (a + t)) * np.sin(0.5 * (a - t))
            )
            return total - drop / np.where(gap == 0, 1.0, gap)

        return _Pair(lambda gap: total - self._drop(q, gap, lambda t, a: 1.0), pair_secant)

    def _drop(self, q, gap, factor):
        """1/(2 pi) sum_ij w_i w_j integral_0^a g_ij(t) factor(t, a) dt."""
        # Panels that halve towards 0, where g_ij turns on at t = |k_i - k_j| / sqrt(q).
        angle = 2 * np.arcsin(np.sqrt(0.5 * gap))
        graded = np.concatenate([[0.0], 2.0 ** np.arange(-24.0, 1.0)])
        half = 0.5 * np.diff(graded)[:, None]
        nodes = (0.5 * (graded[1:] + graded[:-1])[:, None] + half * _NODES).ravel()
        weights = (half * _WEIGHTS).ravel()
        t = angle[:, None] * nodes
        total = np.zeros_like(q)
        jumps = np.diff(self._slopes)
        t = np.maximum(t, 1e-150)
        for k, w in zip(self._kinks, jumps):
            for m, v in zip(self._kinks, jumps):
                # k^2 - 2 k m cos(t) + m^2 over sin(t)^2; the first term is 0 / 0 for k = m, t = 0.
                apart = 0.0 if k == m else (k - m) ** 2 / np.sin(t) ** 2
                exponent = apart + k * m / np.cos(t / 2) ** 2
                density = np.exp(-exponent / (2 * q[:, None]))
                total += w * v * angle * ((density * factor(t, angle[:, None])) @ weights)
        return total / (2 * np.pi)
