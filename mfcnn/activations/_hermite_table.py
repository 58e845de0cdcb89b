"""Dual maps of an activation without a closed form: Hermite series, shortened.

With b_n(q) = E[phi'(sqrt(q) z) h_n(z)], h_n the orthonormal Hermite polynomials, Mehler's formula
is

    E[phi'(u) phi'(v)] = sum_n b_n(q1) b_n(q2) c^n,
    E[phi(u) phi(v)]   = E[phi(u)] E[phi(v)] + sqrt(q1 q2) sum_n b_n(q1) b_n(q2) c^(n+1) / (n+1),

exact and separable. With p_n the terms at c = 1 and 1 - c^(n+1) = gap (1 + c + ... + c^n),

    1 - T / sqrt(A1 A2) = |w1 - w2|^2 / 2 + r1 r2 gap sum_n p_n / (n+1) (1 + c + ... + c^n),

w the unit vector of all Hermite coefficients of phi and r = sqrt(q / A): for c >= 0 a sum of terms
of one sign, so that no digits are lost as c -> 1.

tanh needs 200 terms at a variance of 2, 900 at 10. But for even and for odd n the terms are smooth
in n, and a sum of smooth terms is a quadrature: the terms of a grid that doubles its step, with
positive weights near those of the trapezoidal rule, give all sums to rounding. The weights are
found by least squares over variances and correlations, and go into b_n: 20 to 40 terms are left.

What depends on one variance alone, b_n, w and A, is a polynomial in y = sqrt(q) / (1 + sqrt(q)).
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mfcnn.activations import _quadrature
from mfcnn.activations._dual import Side
from mfcnn.activations._table import (
    RANKS,
    RESOLVED,
    TableDual,
    domain,
    relative,
    rotated,
    rounded,
)
from mfcnn.numerics import chebyshev_coefficients

__all__ = ["HermiteTable", "build_table"]

_TOLERANCE = {tf.float64: 1e-11, tf.float32: 1e-8}  # of E[phi'^2]: what the series may leave out
_ORDERS = (128, 512, 2048)
_GRIDS = ((8, 4), (16, 8), (4096, 1))  # terms with step 1, then terms for each doubled step
_REACH, _STEP = 13.0, 1 / 24  # E[...] by the trapezoidal rule: exact to rounding if phi is analytic


class HermiteTable(NamedTuple):
    """Chebyshev coefficients in y of what the dual maps need, for variances in [q_low, q_high].

    Attributes:
        domain: [3], centre and inverse half width of y, and whether phi(0) = 0.
        moments: [2, r], sqrt(E[phi^2]) and E[phi'^2], the first divided by sqrt(q) if phi(0) = 0:
            then a small variance keeps its relative accuracy beside a large one.
        unit: [k, r], w in a basis of its own, in which few of its components differ from zero.
        nodes: for even and for odd n, the m of the terms n = 2m or 2m + 1 that are kept, ascending.
        terms: likewise b_n [k, r], with the square root of its weight.
    """

    domain: np.ndarray
    moments: np.ndarray
    unit: np.ndarray
    nodes: tuple
    terms: tuple

    def dual(
        self, dtype: tf.DType = tf.float64, variance: tf.Tensor | None = None
    ) -> "_HermiteDual":
        """The dual that evaluates the table; with a variance, of signals which all have it."""
        return _HermiteDual(self, dtype, variance)


@functools.cache
def _hermite(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes z [m] and the matrix [m, order] that maps values f(z) to E[f h_n]."""
    z = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
    return z, (
        _quadrature.hermite_functions(z, order) * np.exp(-(z**2) / 4) * (_STEP / np.sqrt(2 * np.pi))
    ).T.copy()


def _hermite_coefficients(
    activation: Any, q: np.ndarray, tolerance: float, least: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """E[phi] [r] and b_n [r, order >= least], enough to leave out less than the tolerance."""
    for order in (order for order in _ORDERS if order >= least):
        z, matrix = _hermite(order)
        x = np.sqrt(q)[:, None] * z
        phi, phi_prime = (
            np.asarray(f(tf.constant(x))) for f in (activation.phi, activation.phi_prime)
        )
        b = phi_prime @ matrix
        # Parseval: what the coefficients miss of E[phi'^2] bounds the error at any correlation.
        missing = np.abs(1 - np.sum(b**2, axis=1) / (phi_prime**2 @ matrix[:, 0]))
        if np.max(missing) < max(tolerance / 2, 1e-13):
            return phi @ matrix[:, 0], b
    raise ValueError(
        f"activation {activation.name!r} can't be resolved by {order} Hermite polynomials at "
        f"variance {np.max(q):.3g}: a fraction {np.max(missing):.1e} of E[phi'^2] is missing."
    )


def build_table(
    activation: Any, q_low: float, q_high: float, dtype: tf.DType = tf.float64
) -> HermiteTable:
    """Tabulates the dual maps for variances in [q_low, q_high].

    Args:
        activation: a `mfcnn.activations.Activation`, smooth.
        q_low: the smallest variance, not negative.
        q_high: the largest.
        dtype: tf.float64 (1e-11 of E[phi'^2]) or tf.float32 (1e-8, with fewer terms).

    Returns:
        A `HermiteTable` of float64 arrays.

    Raises:
        ValueError: if the activation is not smooth enough on the scale sqrt(q_high).
    """
    order, vanishes = 0, float(activation.phi(tf.zeros([], tf.float64))) == 0
    for rank in RANKS:
        place, q = domain(q_low, q_high, rank)
        mean, b = _hermite_coefficients(activation, q, _TOLERANCE[dtype], order)
        order = b.shape[1]
        above = np.sqrt(q)[:, None] * b / np.sqrt(np.arange(1, order + 1))
        a = np.concatenate([mean[:, None], above], axis=1)
        root = np.sqrt(np.sum(a**2, axis=1))
        moments = np.stack([root / (np.sqrt(q) if vanishes else 1.0), np.sum(b**2, axis=1)])
        unit = chebyshev_coefficients((a / root[:, None]).T).T
        b, moments = chebyshev_coefficients(b.T).T, chebyshev_coefficients(moments)
        sizes = np.max([relative(a) for a in (b, unit, moments.T)], axis=0)
        if np.max(sizes[-2:]) < RESOLVED:
            break
    else:
        raise ValueError(
            f"activation {activation.name!r}: its Hermite coefficients at variances from "
            f"{q_low:.3g} to {q_high:.3g} are not polynomials of degree {rank}."
        )
    # The last rank tried is up to twice that needed. Few lengths, so that programs are shared.
    rank = rounded(np.flatnonzero(sizes > RESOLVED)[-1] + 1, rank)
    b, moments = b[:rank], moments[:, :rank]
    points = np.polynomial.chebyshev.chebval(np.linspace(-1, 1, 7), b)
    points /= np.sqrt(np.sum(points**2, axis=0))
    nodes, weights = zip(*(_shorten(points[k::2], k, _TOLERANCE[dtype]) for k in (0, 1)))
    terms = (np.sqrt(w)[:, None] * b.T[k::2][list(m)] for k, m, w in zip((0, 1), nodes, weights))
    return HermiteTable(
        np.array([*place, float(vanishes)]),
        moments,
        rotated(unit[:rank]),
        nodes,
        tuple(terms),
    )


def _shorten(b: np.ndarray, parity: int, tolerance: float) -> tuple[tuple[int, ...], np.ndarray]:
    """Terms of one parity that stand for all of them: nodes (m_1, ..., m_k) and weights [k].

    `b` holds b_n at some variances, [m, points] for n = parity + 2 m.
    """
    tails = np.cumsum((b**2)[::-1], axis=0)[::-1]
    count = int(np.max(np.sum(tails > tolerance / 4, axis=0)))
    one, two = np.triu_indices(b.shape[1])
    halves = 2.0 ** -np.arange(1, 25)
    powers = np.concatenate([[1.0], 1 - halves, 1 - 0.75 * halves, np.linspace(0.05, 0.45, 6)])
    for first, repeats in _GRIDS:
        nodes = _grid(min(count, len(b)), first, repeats)
        if len(nodes) == count:
            break
        m = np.arange(min(nodes[-1] + 1, len(b)))
        nodes = nodes[nodes < m.size]
        products = (b[: m.size, one] * b[: m.size, two]).T
        powers_m = powers[:, None] ** m
        pairs = (products, powers_m), (products / (parity + 2 * m + 1), np.cumsum(powers_m, axis=1))
        matrix = np.concatenate([p[:, None, nodes] * f[:, nodes] for p, f in pairs])
        matrix = matrix.reshape(-1, nodes.size)
        total = np.concatenate([p @ f.T for p, f in pairs]).ravel()
        # The smallest change of the trapezoidal rule: what the data don't decide stays positive.
        weights = np.gradient(nodes.astype(float))
        for _ in range(2):
            weights = weights + np.linalg.lstsq(matrix, total - matrix @ weights, rcond=1e-14)[0]
        error = np.max(np.abs(matrix @ weights - total))
        if np.all(weights > 0) and error < tolerance / 8:
            return tuple(map(int, nodes)), weights
    return tuple(range(count)), np.ones(count)


def _grid(count: int, first: int, repeats: int) -> np.ndarray:
    """Integers from 0 with steps that double after `first`, then `repeats` of them, past count."""
    nodes, step = list(range(min(first, count))), 2
    while nodes and nodes[-1] + 1 < count:
        start = nodes[-1] + step // 2
        nodes += range(start, start + repeats * step, step)
        step *= 2
    return np.array(nodes, int)


class _HermiteDual(TableDual):
    """A dual (see `dual`) that evaluates a table."""

    def __init__(
        self, table: HermiteTable, dtype: tf.DType, variance: tf.Tensor | None = None
    ) -> None:
        """Takes a `HermiteTable` of arrays or tensors, of static shapes.

        With a variance, a scalar tensor, the dual is that of signals which all have it.
        """
        self._nodes = table.nodes
        self._terms = [tf.cast(a, dtype) for a in table.terms if a.shape[0]]
        super().__init__(table[:3], dtype, variance)

    def side(self, q: tf.Tensor) -> Side:
        """sqrt(q / A), and w and b_n along axes in front."""
        if self._fixed:
            return ()
        ratio, unit, basis = self._shared_side(q)
        return ratio, unit, *(tf.tensordot(a, basis, 1) for a in self._terms)

    def rise(self, side1: Any, side2: Any, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The gap's part of the output gap and E[phi' phi'], by Horner's rule over the terms."""
        (ratio1, _, *terms1), (ratio2, _, *terms2) = side1, side2
        c = 1 - gap
        secant, slope, kept = 0.0, 0.0, 0
        for parity, nodes in enumerate(self._nodes):
            if nodes:
                sums = _sums(nodes, parity, terms1[kept], terms2[kept], c * c)
                kept += 1
                # 1 + c + ... + c^n is 1 + (c + c^2) (1 + c^2 + ...) or (1 + c) (1 + c^2 + ...).
                tail, tails, value = sums
                if parity:
                    secant, slope = secant + (1 + c) * (tail + c * c * tails), slope + c * value
                else:
                    secant, slope = secant + tail + (c + c * c) * tails, slope + value
        return ratio1 * ratio2 * gap * secant, slope


def _sums(
    nodes: tuple, parity: int, terms1: tf.Tensor, terms2: tf.Tensor, power: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """With x = c^2, S_i = sum_(m >= i) p_m / (n + 1): S_0, sum_i x^i S_(i + 1), sum_m p_m x^m."""
    jumps, geometric = {1: power}, {1: 1.0}
    step = 1
    while len(nodes) > 1 and step < nodes[-1] - nodes[-2]:
        geometric[2 * step] = geometric[step] * (1 + jumps[step])
        jumps[2 * step] = jumps[step] * jumps[step]
        step *= 2
    tail = tails = value = 0.0
    for k in reversed(range(len(nodes))):
        if k + 1 < len(nodes):
            step = nodes[k + 1] - nodes[k]
            tails = tails * jumps[step] + tail * geometric[step]
            value = value * jumps[step]
        product = terms1[k] * terms2[k]
        tail = tail + product * (1 / (parity + 2 * nodes[k] + 1))
        value = value + product
    return tail, tails, value
