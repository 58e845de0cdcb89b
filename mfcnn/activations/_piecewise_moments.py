"""Gaussian moments of continuous piecewise linear functions.

Y. Cho and L. Saul, "Kernel methods for deep learning" (2009), here from Price's theorem.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

from mfcnn.activations._moments import Numerical, Pair

__all__ = ["PiecewiseLinear"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


class PiecewiseLinear(Numerical):
    """A continuous phi whose slope changes at the kinks: linear, relu, leaky_relu, abs, hard_tanh.

    With phi'' = sum_i w_i delta(x - k_i), Price's theorem and c = cos(a),

        E[phi'(u) phi'(v)] = E[phi'^2] - 1/(2 pi) sum_ij w_i w_j integral_0^a g_ij(t) dt,
        g_ij(t) = exp(-(k_i^2 - 2 k_i k_j cos(t) + k_j^2) / (2 q sin(t)^2)),

    and another integration over c gives the secant.
    """

    def __init__(
        self,
        phi: Callable,
        phi_prime: Callable,
        kinks: Sequence[float],
        slopes: Sequence[float],
    ) -> None:
        """Takes the kinks in ascending order and the slopes between them, one more."""
        super().__init__(phi, phi_prime)
        self._kinks = np.asarray(kinks, np.float64)
        self._slopes = np.asarray(slopes, np.float64)
        self._found = (self._kinks, self._kinks)

    def derivative(self, q: np.ndarray) -> np.ndarray:
        """E[phi'^2]."""
        ends = np.concatenate([[-np.inf], self._kinks, [np.inf]]) / np.sqrt(2 * q[:, None])
        return np.diff(special.erf(ends), axis=1) @ self._slopes**2 / 2

    def pair(self, q: np.ndarray) -> Pair:
        """The two-point moments at variances q."""
        total = self.derivative(q)

        def pair_secant(gap: np.ndarray) -> np.ndarray:
            # cos(t) - cos(a), as a product that keeps its digits as a -> 0.
            drop = self._drop(
                q, gap, lambda t, a: 2 * np.sin(0.5 * (a + t)) * np.sin(0.5 * (a - t))
            )
            return total - drop / np.where(gap == 0, 1.0, gap)

        return Pair(lambda gap: total - self._drop(q, gap, lambda t, a: 1.0), pair_secant)

    def _drop(self, q: np.ndarray, gap: np.ndarray, factor: Callable) -> np.ndarray:
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
