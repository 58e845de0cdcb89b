"""Dual maps of an activation without a closed form: tables of Chebyshev coefficients.

At the nodes of a table the maps come from Hermite coefficients a_n(q) = E[phi(sqrt(q) z) h_n(z)],

    E[phi(u) phi(v)] = sum_n a_n(q1) a_n(q2) c^n          (Mehler),

summed as 1 - T / sqrt(A1 A2) = sum_n ((a_n(q1) - a_n(q2))^2 / 2 + a_n(q1) a_n(q2) (1 - c^n)) for
coefficients normalised to sum_n a_n^2 = 1: terms of one sign where c -> 1, no lost digits. Between
the nodes they are polynomials, of degree N in the gap 1 - c and of degree r in y(q1) and y(q2),
y = sqrt(q) / (1 + sqrt(q)). In a deep network the variances of all inputs approach one fixed
point, r falls to 1, and a layer costs two short polynomials in the gap.
"""

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

__all__ = ["Table", "TabulatedDual", "build_table", "next_range", "same", "stack_tables"]

_TOLERANCE = 1e-11  # of the largest value: two digits below the promised 1e-9
_ORDERS = (128, 512, 2048)
_RANKS = (1, 3, 6, 12, 24)
_DEGREES = (16, 32, 64, 128)
_REACH, _STEP = 13.0, 1 / 24  # E[...] by the trapezoidal rule: exact to rounding if phi is analytic


class Table(NamedTuple):
    """Chebyshev coefficients of the dual maps for variances in [q_low, q_high].

    Attributes:
        domain: [4], centre and inverse half width of y, 2 / (largest gap), and whether phi(0) = 0.
        moments: [2, r], sqrt(E[phi^2]) and E[phi'^2] over y, the first divided by sqrt(q) if
            phi(0) = 0: then a small variance keeps its relative accuracy beside a large one.
        offset: [r, r], the output gap at gap 0.
        pair: [2, N, r, r], (output gap - offset) / gap and E[phi' phi'].
    """

    domain: np.ndarray
    moments: np.ndarray
    offset: np.ndarray
    pair: np.ndarray


@functools.cache
def _hermite(order):
    """Nodes z [m] and the matrix [m, order] that maps values f(z) to E[f h_n]."""
    z = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
    # Hermite functions: the polynomials times exp(-z^2 / 4) stay bounded.
    basis = np.empty((order, z.size))
    basis[0] = np.exp(-(z**2) / 4)
    basis[1] = z * basis[0]
    for n in range(1, order - 1):
        basis[n + 1] = (z * basis[n] - np.sqrt(n) * basis[n - 1]) / np.sqrt(n + 1)
    return z, (basis * np.exp(-(z**2) / 4) * (_STEP / np.sqrt(2 * np.pi))).T.copy()


@functools.cache
def _chebyshev(count):
    """Nodes [count] and the matrix [count, count] from values at the nodes to coefficients."""
    angles = np.pi * (np.arange(count) + 0.5) / count
    transform = np.cos(np.outer(np.arange(count), angles)) * (2 / count)
    transform[0] /= 2
    return np.cos(angles), transform


def _hermite_coefficients(activation, q):
    """a_n and those of phi', [r, order] each, with an order that leaves nothing out."""
    for order in _ORDERS:
        z, matrix = _hermite(order)
        x = np.sqrt(q)[:, None] * z
        phi, phi_prime = (
            np.asarray(f(tf.constant(x))) for f in (activation.phi, activation.phi_prime)
        )
        a, b = phi @ matrix, phi_prime @ matrix
        missing = []
        for values, coefficients in ((phi, a), (phi_prime, b)):
            # Parseval: what the coefficients miss of E[f^2] bounds the error at any correlation.
            total = values**2 @ matrix[:, 0]
            missing.append(np.max(np.abs(1 - np.sum(coefficients**2, axis=1) / total)))
        if max(missing) < _TOLERANCE / 10:
            return a, b
    raise ValueError(
        f"activation {activation.name!r} can't be resolved by {order} Hermite polynomials at "
        f"variance {np.max(q):.3g}: a fraction {max(missing):.1e} of E[phi^2] or E[phi'^2] is "
        "missing. Its dual maps need phi smooth on the scale of its input; normalise the inputs "
        "to a smaller variance, or use an activation with a closed form."
    )


def _y(q):
    return np.sqrt(q) / (1 + np.sqrt(q))


def build_table(activation, q_low, q_high, largest_gap=2.0):
    """Tabulates the dual maps for variances in [q_low, q_high] and gaps in [0, largest_gap].

    Args:
        activation: a `mfcnn.activations.Activation`, smooth.
        q_low: the smallest variance, not negative.
        q_high: the largest.
        largest_gap: the largest 1 - c, at most 2.

    Returns:
        A `Table` in float64, with the smallest r and N that keep 1e-11 of the largest value.

    Raises:
        ValueError: if the activation is not smooth enough on the scale sqrt(q_high).
    """
    vanishes = float(activation.phi(tf.zeros([], tf.float64))) == 0
    y_low, y_high = _y(q_low), _y(q_high)
    centre, half = (y_low + y_high) / 2, max((y_high - y_low) / 2, 1e-300)
    narrow = half < 1e-13 * max(centre, 1e-3)
    for rank in _RANKS[:1] if narrow else _RANKS[1:]:
        nodes, transform = _chebyshev(rank)
        y = centre + half * nodes if rank > 1 else np.array([centre])
        q = np.maximum((y / (1 - y)) ** 2, 1e-200)
        a, b = _hermite_coefficients(activation, q)
        root = np.sqrt(np.sum(a**2, axis=1))
        scale = np.sqrt(q) if vanishes else 1.0
        moments = np.stack([root / scale, np.sum(b**2, axis=1)]) @ transform.T
        if rank == 1 or _tail(moments.T) < _TOLERANCE:
            break
    unit = a / np.where(root > 0, root, 1.0)[:, None]
    n = np.arange(unit.shape[1])
    products = np.stack([unit[:, None] * unit, b[:, None] * b]).reshape(2, -1, n.size)
    offset = np.sum((unit[:, None] - unit) ** 2, axis=-1) / 2
    for degree in _DEGREES:
        x, to_coefficients = _chebyshev(degree)
        gap = (1 - x) * largest_gap / 2
        c = (1 - gap)[:, None]
        # The gap may be far below the rounding of c: deep in the ordered phase inputs coincide.
        near = np.log1p(-np.minimum(gap, 0.5))
        far = np.log(np.maximum(np.abs(1 - gap), 1e-300))
        log_c = n * np.where(gap < 0.5, near, far)[:, None]
        sign = np.where((c < 0) & (n % 2 == 1), -1.0, 1.0)
        secant = np.where(sign > 0, -np.expm1(log_c), 1 + np.exp(log_c)) / gap[:, None]
        values = np.stack([products[0] @ secant.T, products[1] @ (sign * np.exp(log_c)).T])
        values = values.reshape(2, rank, rank, degree)
        pair = transform @ (values @ to_coefficients.T).transpose(0, 3, 1, 2) @ transform.T
        if _tail(np.abs(pair).transpose(1, 0, 2, 3).reshape(degree, -1)) < _TOLERANCE:
            break
    else:
        raise ValueError(
            f"activation {activation.name!r} at variance {q_high:.3g}: its dual maps are not "
            f"polynomials of degree {degree} in the correlation to {_TOLERANCE}; normalise the "
            "inputs to a smaller variance."
        )
    return Table(
        np.array([centre, 0.0 if rank == 1 else 1 / half, 2 / largest_gap, float(vanishes)]),
        moments,
        transform @ offset @ transform.T,
        pair,
    )


def _tail(coefficients):
    """Size of the last two rows of Chebyshev coefficients relative to the largest."""
    size = np.abs(coefficients)
    return np.max(size[-2:]) / np.max(size)


def _pad_table(table, rank, degree):
    """The same table with zero coefficients up to a common rank and degree."""
    grow = rank - table.offset.shape[0]
    return Table(
        table.domain,
        np.pad(table.moments, ((0, 0), (0, grow))),
        np.pad(table.offset, ((0, grow), (0, grow))),
        np.pad(table.pair, ((0, 0), (0, degree - table.pair.shape[1]), (0, grow), (0, grow))),
    )


def stack_tables(tables):
    """Tables of successive layers as a list of `Table`s with the layer in front.

    Each has one rank; ranks only fall, so that the many layers near the fixed point are not slowed
    by the few before it.
    """
    tables, ranks = list(tables), []
    for table in reversed(tables):
        ranks.append(max([table.offset.shape[0], *ranks[-1:]]))
    ranks.reverse()
    stacks = []
    for rank in sorted(set(ranks), reverse=True):
        group = [table for table, r in zip(tables, ranks) if r == rank]
        degree = max(table.pair.shape[1] for table in group)
        padded = [_pad_table(table, rank, degree) for table in group]
        stacks.append(Table(*map(np.stack, zip(*padded))))
    return stacks


def same(table1, table2):
    """Whether two tables hold the same map to rounding."""
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-14, atol=1e-15)
        for a, b in zip(table1, table2)
    )


def next_range(table, weight_variance, bias_variance, share=1.0):
    """Where the variances and gaps of a table's domain are after the next affine map.

    Args:
        table: a `Table`.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        share: the smallest sum of a convolution's taps at a position.

    Returns:
        ((q_low, q_high), largest_gap).
    """
    t = np.linspace(-1.0, 1.0, 33)
    chebyshev = np.polynomial.chebyshev
    roots = np.abs(chebyshev.chebval(t, table.moments[0]))
    if table.domain[3]:
        y = table.domain[0] + (t / table.domain[1] if table.domain[1] else 0.0)
        roots = roots * np.maximum(y / (1 - y), 0.0)
    low = weight_variance * share * roots.min() ** 2 + bias_variance
    high = weight_variance * roots.max() ** 2 + bias_variance
    gaps = (1 - t) / table.domain[2]
    at_y = chebyshev.chebvander(t, table.offset.shape[0] - 1)
    at_gap = chebyshev.chebvander(t, table.pair.shape[1] - 1)
    secant = at_y @ np.tensordot(at_gap, table.pair[0], 1) @ at_y.T
    output_gap = at_y @ table.offset @ at_y.T
    # The smallest possible covariance: c of the next layer is at least it over q.
    smallest = np.min((1 - output_gap - gaps[:, None, None] * secant) * np.outer(roots, roots))
    covariance = bias_variance + weight_variance * (smallest if smallest < 0 else share * smallest)
    gap = 1 - covariance / (high if covariance > 0 else max(low, 1e-300))
    return (low, high), float(np.clip(1.001 * gap + 1e-9, 1e-6, 2.0))


class TabulatedDual:
    """A dual (see `dual`) that evaluates a table."""

    def __init__(self, table, dtype):
        """Takes a `Table` of arrays or tensors; ranks and degrees must be static."""
        self._domain, self._moments, self._offset, self._pair = (tf.cast(a, dtype) for a in table)

    def _basis(self, q):
        """Chebyshev polynomials of y(q), a list of r tensors."""
        rank = self._offset.shape[0]
        positive = q > 0
        root = tf.where(positive, tf.sqrt(tf.where(positive, q, tf.ones_like(q))), tf.zeros_like(q))
        t = (root / (1 + root) - self._domain[0]) * self._domain[1]
        basis = [tf.ones_like(q), t]
        while len(basis) < rank:
            basis.append(2 * t * basis[-1] - basis[-2])
        return basis[:rank]

    def moments(self, q):
        """E[phi(u)^2] and E[phi'(u)^2]."""
        basis = self._basis(q)
        root, derivative = (
            tf.add_n([c * b for c, b in zip(tf.unstack(row), basis)])
            for row in (
                self._moments[0],
                self._moments[1],
            )
        )
        second = root * root
        return second * tf.where(self._domain[3] > 0, q, tf.ones_like(q)), derivative

    def side(self, q):
        """The Chebyshev polynomials of y(q), r tensors."""
        return tuple(self._basis(q))

    def pair(self, side1, side2, gap):
        """The output gap and E[phi' phi'], by Clenshaw's recurrence in the gap."""
        left, right = side1, tf.stack(side2)
        rank, degree = self._offset.shape[0], self._pair.shape[1]
        offset = _contract(left, tf.tensordot(self._offset, right, 1), rank)
        columns = tf.tensordot(self._pair, right, 1)  # [2, N, r, ...]
        if rank > 3:
            columns = _outer(tf.stack(left), columns)  # [2, N, 1, ...]
            left, rank = (tf.ones([], gap.dtype),), 1
        x = 1 - gap * self._domain[2]
        results = []
        for k in range(2):
            first = second = tf.zeros_like(gap)
            for n in range(degree - 1, 0, -1):
                first, second = _contract(left, columns[k, n], rank) + 2 * x * first - second, first
            results.append(_contract(left, columns[k, 0], rank) + x * first - second)
        return offset + gap * results[0], results[1]


def _outer(left, columns):
    """sum_k left[k] columns[:, :, k] as [2, N, 1, ...], by a matrix product where rows allow it."""
    apart = left.shape.rank >= 3 and left.shape[-1] == 1 and columns.shape[-2] == 1
    if not apart:
        total = sum(left[k] * columns[:, :, k] for k in range(left.shape[0]))
        return total[:, :, None]
    ndim = left.shape.rank - 3
    rows = tf.transpose(left[..., 0], [*range(1, ndim + 2), 0])  # [..., b1, r]
    columns = tf.transpose(
        columns[..., 0, :], [0, 1, *range(3, ndim + 3), 2, ndim + 3]
    )  # [2, N, ..., r, b2]
    return tf.matmul(rows, columns)[:, :, None]


def _contract(left, right, rank):
    """sum_k left[k] right[k], element-wise with broadcasting."""
    total = left[0] * right[0]
    for k in range(1, rank):
        total = total + left[k] * right[k]
    return total
