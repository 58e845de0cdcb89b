"""What all tables of dual maps have in common: polynomials in the variance.

What depends on one variance alone is a polynomial in y = sqrt(q) / (1 + sqrt(q)), by its Chebyshev
coefficients on the range of the variances. With w(q) the unit vector of phi(sqrt(q) z) under the
normal density and r = sqrt(q / A),

    1 - E[phi(u) phi(v)] / sqrt(A1 A2) = |w1 - w2|^2 / 2 + r1 r2 gap secant,

where the secant, the mean of E[phi' phi'] over correlations from c to 1, is the table's own.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn.activations._dual import Dual
from mfcnn.numerics import chebyshev_nodes, safe_sqrt

__all__ = ["RANKS", "RESOLVED", "TableDual", "domain", "relative", "rotated", "rounded"]

RANKS = (6, 12, 24, 48, 96)
RESOLVED = 1e-13  # last coefficients of the polynomials in y over the largest


def domain(q_low: float, q_high: float, rank: int) -> tuple[tuple[float, float], np.ndarray]:
    """The centre and inverse half width of y, and the variances at its Chebyshev nodes."""
    low, high = (np.sqrt(q) / (1 + np.sqrt(q)) for q in (q_low, q_high))
    # Not a point: derivatives by the variance need a neighbourhood.
    centre, half = (low + high) / 2, max((high - low) / 2, 5e-4 * high * (1 - high), 1e-150)
    y = centre + half * chebyshev_nodes(rank)
    return (centre, 1 / half), np.maximum(y / (1 - y), 1e-100) ** 2


def relative(coefficients: np.ndarray) -> np.ndarray:
    """The size of each row of Chebyshev coefficients relative to the largest."""
    size = np.abs(coefficients)
    return np.max(size, axis=1) / np.max(size)


def rounded(count: int, largest: int) -> int:
    return min(-(-int(count) // 4) * 4, largest)


def rotated(unit: np.ndarray) -> np.ndarray:
    """The unit vector [k, r] in the basis where few components give its squared distances."""
    _, singular, right = np.linalg.svd(unit.T, full_matrices=False)
    components = singular[:, None] * right
    values = np.polynomial.chebyshev.chebval(np.linspace(-1, 1, 33), components.T)
    one, two = np.triu_indices(33, 1)
    squares = (values[:, one] - values[:, two]) ** 2
    left_out = np.cumsum(squares[::-1], axis=0)[::-1] / np.sum(squares, axis=0)
    needed = np.count_nonzero(np.max(left_out, axis=1) > RESOLVED)
    return components[: rounded(int(needed), len(components))]


class TableDual(Dual):
    """A dual that evaluates a table; a subclass gives `side` and `pair`."""

    def __init__(self, shared: Any, dtype: tf.DType, variance: tf.Tensor | None) -> None:
        """Takes what all tables have.

        Args:
            shared: (domain [3], moments [2, r], unit [k, r]): centre and inverse half width of y
                and whether phi(0) = 0; sqrt(E[phi^2]), divided by sqrt(q) if phi(0) = 0, and
                E[phi'^2]; w in a basis in which few components differ from zero.
            dtype: of the results.
            variance: a scalar: then the dual is that of signals which all have this variance.
        """
        self._domain, self._moments, self._unit = (tf.cast(a, dtype) for a in shared)
        self._fixed: Any = None
        if variance is not None:
            q = tf.cast(variance, dtype)
            self._fixed = self.moments(q), self.side(q)

    def _basis(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """sqrt(q), and the Chebyshev polynomials of y(q) [r, ...]."""
        rank = self._moments.shape[-1]
        root = safe_sqrt(q)
        t = (root / (1 + root) - self._domain[0]) * self._domain[1]
        basis = tf.stack([tf.ones_like(t), t, 2 * t * t - 1])
        while basis.shape[0] < rank:
            # T_(m + j) = 2 T_m T_j - T_(m - j), for j = 1 ... m at once.
            basis = tf.concat([basis, 2 * basis[-1] * basis[1:] - basis[-2::-1]], 0)
        return root, basis[:rank]

    def moments(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """E[phi(u)^2] and E[phi'(u)^2]."""
        if self._fixed:
            return tuple(value + tf.zeros_like(q) for value in self._fixed[0])
        _, basis = self._basis(q)
        root, derivative = tf.unstack(tf.tensordot(self._moments, basis, 1))
        return root * root * tf.where(self._domain[2] > 0, q, tf.ones_like(q)), derivative

    def _shared_side(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """sqrt(q / A), w, and the polynomials for what else a side has."""
        root, basis = self._basis(q)
        size = tf.tensordot(self._moments[:1], basis, 1)[0]
        ratio = tf.where(self._domain[2] > 0, tf.ones_like(q), root) / size
        return ratio, tf.tensordot(self._unit, basis, 1), basis

    def _sides(self, side1: Any, side2: Any, dtype: tf.DType) -> tuple[Any, Any]:
        if not self._fixed:
            return side1, side2
        side = tuple(tf.cast(a, dtype) for a in self._fixed[1])
        return side, side

    def _offset(self, unit1: tf.Tensor, unit2: tf.Tensor) -> Any:
        """|w1 - w2|^2 / 2."""
        offset = 0.0
        for k in range(0 if self._fixed else self._unit.shape[0]):
            difference = unit1[k] - unit2[k]
            offset = offset + difference * difference
        return offset / 2
