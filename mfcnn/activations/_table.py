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

from mfcnn.activations._close import Close
from mfcnn.activations._dual import Dual, Side
from mfcnn.numerics import chebyshev_nodes, inverse, safe_sqrt

__all__ = ["RANKS", "RESOLVED", "TableDual", "domain", "relative", "rotated", "rounded"]

RANKS = (6, 12, 24, 48, 96)
RESOLVED = 1e-13  # last coefficients of the polynomials in y over the largest
_SMALL = 1e-5  # relative differences of roots: both ways to a difference are right to 1e-11


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
    """A dual that evaluates a table; a subclass gives `side` and `rise`."""

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

    def pair(self, side1: Side, side2: Side, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The output gap and E[phi' phi']."""
        side1, side2 = self._sides(side1, side2, gap.dtype)
        rise, slope = self.rise(side1, side2, gap)
        return self._offset(side1[1], side2[1]) + rise, slope

    def rise(self, side1: Any, side2: Any, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """r1 r2 gap secant and E[phi' phi'], of two sides [r, w, ...]."""
        raise NotImplementedError

    @property
    def close(self) -> Close:
        """With all digits of |w1 - w2|^2: to 1e-10 of it, as a table is."""
        return Close(self) if self._fixed else _CloseTable(self)

    def _offset(self, unit1: tf.Tensor, unit2: tf.Tensor) -> Any:
        """|w1 - w2|^2 / 2."""
        offset = 0.0
        for k in range(0 if self._fixed else self._unit.shape[0]):
            difference = unit1[k] - unit2[k]
            offset = offset + difference * difference
        return offset / 2

    def gradients(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Of sqrt(A), or sqrt(A / q) where phi(0) = 0, and of w: the slopes by y, and the values.

        Returns:
            (slopes [1 + k, ...], values [1 + k, ...]).
        """
        both = tf.concat([self._moments[:1], self._unit], 0)
        _, basis = self._basis(q)
        slopes = tf.tensordot(both, tf.constant(_derivative(both.shape[1]), both.dtype), 1)
        return tf.tensordot(slopes, basis, 1) * self._domain[1], tf.tensordot(both, basis, 1)

    @property
    def vanishes(self) -> tf.Tensor:
        """Whether phi(0) = 0."""
        return self._domain[2] > 0


def _derivative(count: int) -> np.ndarray:
    """The matrix from the Chebyshev coefficients of a polynomial to those of its derivative."""
    matrix = np.zeros([count, count])
    matrix[:, : count - 1] = np.polynomial.chebyshev.chebder(np.eye(count))[: count - 1].T
    return matrix


class _CloseTable(Close):
    """w1 - w2 and sqrt(A1) - sqrt(A2) by the mean slope times y1 - y2 where that is small.

    The mean of the slopes at both ends is off by (y1 - y2)^2 of it, the difference of two values by
    a rounding over y1 - y2.
    """

    dual: TableDual

    def side(self, q: tf.Tensor) -> Side:
        """sqrt(q), the slopes by y and the values of sqrt(A) and w, and the dual's own."""
        return safe_sqrt(q), *self.dual.gradients(q), *self.dual.side(q)

    def pair(
        self, side1: Side, side2: Side, gap: tf.Tensor, difference: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The maps of pairs."""
        (root1, slopes1, values1, *own1), (root2, slopes2, values2, *own2) = side1, side2
        rise, slope = self.dual.rise(own1, own2, gap)
        roots = difference * inverse(root1 + root2)
        step = roots / ((1 + root1) * (1 + root2))  # y1 - y2
        small = tf.abs(roots) < _SMALL * (root1 + root2)
        apart = tf.where(small, step * (slopes1 + slopes2) / 2, values1 - values2)
        # sqrt(A) is values[0], times sqrt(q) where phi(0) = 0.
        one, two, change = values1[0], values2[0], apart[0]
        scaled = (root1 + root2) / 2 * change + roots * (one + two) / 2
        vanishes = self.dual.vanishes
        change = tf.where(vanishes, scaled, change)
        total = tf.where(vanishes, root1 * one + root2 * two, one + two)
        return tf.reduce_sum(apart[1:] ** 2, 0) / 2 + rise, slope, change * total
