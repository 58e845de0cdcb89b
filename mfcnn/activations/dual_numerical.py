"""Dual maps of an activation without a closed form: Hermite series.

With b_n(q) = E[phi'(sqrt(q) z) h_n(z)], h_n the orthonormal Hermite polynomials, Mehler's formula
is

    E[phi'(u) phi'(v)] = sum_n b_n(q1) b_n(q2) c^n,
    E[phi(u) phi(v)]   = E[phi(u)] E[phi(v)] + sqrt(q1 q2) sum_n b_n(q1) b_n(q2) c^(n+1) / (n+1),

exact, and separable: a pair costs four operations a term, whatever its variances. With p_n the
terms at c = 1 and 1 - c^(n+1) = gap (1 + c + ... + c^n),

    1 - T / sqrt(A1 A2) = |w1 - w2|^2 / 2 + r1 r2 gap sum_n p_n / (n+1) (1 + c + ... + c^n),

w the unit vector of all Hermite coefficients of phi and r = sqrt(q / A): for c >= 0 a sum of terms
of one sign, so that no digits are lost as c -> 1. Both sums run by Horner's rule, the tail sums of
p_n / (n+1) being the coefficients of the second.

What depends on one variance alone, b_n, w and A, is a polynomial in y = sqrt(q) / (1 + sqrt(q)).
"""

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

__all__ = ["Table", "TabulatedDual", "build_table", "variance_ranges"]

_TOLERANCE = {tf.float64: 1e-11, tf.float32: 1e-8}  # of E[phi'^2]: what the series may leave out
_ORDERS = (128, 512, 2048)
_RANKS = (6, 12, 24, 48, 96)
_RESOLVED = 1e-13  # last coefficients of the polynomials in y over the largest
_CHUNK = 32  # terms to a step of the inner loop: what bounds the time of compilation
_REACH, _STEP = 13.0, 1 / 24  # E[...] by the trapezoidal rule: exact to rounding if phi is analytic


class Table(NamedTuple):
    """Chebyshev coefficients in y of what the dual maps need, for variances in [q_low, q_high].

    Attributes:
        domain: [3], centre and inverse half width of y, and whether phi(0) = 0.
        moments: [2, r], sqrt(E[phi^2]) and E[phi'^2], the first divided by sqrt(q) if phi(0) = 0:
            then a small variance keeps its relative accuracy beside a large one.
        unit: [k, r], w in a basis of its own, in which few of its components differ from zero.
        first: [r], b_0.
        rest: [chunks, terms, r], b_n of the terms after it, highest order first.
        inverse: [chunks, terms], 1 / (n + 1).
        odd: whether phi is odd, so that only even n occur: a Python bool.
    """

    domain: np.ndarray
    moments: np.ndarray
    unit: np.ndarray
    first: np.ndarray
    rest: np.ndarray
    inverse: np.ndarray
    odd: bool


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


def _hermite_coefficients(activation, q, tolerance):
    """E[phi] [r] and b_n [r, N] with the smallest N that leaves out less than the tolerance."""
    for order in _ORDERS:
        z, matrix = _hermite(order)
        x = np.sqrt(q)[:, None] * z
        phi, phi_prime = (
            np.asarray(f(tf.constant(x))) for f in (activation.phi, activation.phi_prime)
        )
        b = phi_prime @ matrix
        total = phi_prime**2 @ matrix[:, 0]
        # Parseval: what the coefficients miss of E[phi'^2] bounds the error at any correlation.
        missing = np.abs(1 - np.sum(b**2, axis=1) / total)
        if np.max(missing) < max(tolerance / 2, 1e-13):
            tails = np.cumsum((b**2)[:, ::-1], axis=1)[:, ::-1]
            count = int(np.max(np.sum(tails > tolerance / 2 * total[:, None], axis=1)))
            return phi @ matrix[:, 0], b[:, :count]
    raise ValueError(
        f"activation {activation.name!r} can't be resolved by {order} Hermite polynomials at "
        f"variance {np.max(q):.3g}: a fraction {np.max(missing):.1e} of E[phi'^2] is missing. Its "
        "dual maps need phi smooth on the scale of its input; normalise the inputs to a smaller "
        "variance, or use an activation with a closed form."
    )


def _y(q):
    return np.sqrt(q) / (1 + np.sqrt(q))


def build_table(activation, q_low, q_high, dtype=tf.float64):
    """Tabulates the dual maps for variances in [q_low, q_high].

    Args:
        activation: a `mfcnn.activations.Activation`, smooth.
        q_low: the smallest variance, not negative.
        q_high: the largest.
        dtype: tf.float64 (1e-11 of E[phi'^2]) or tf.float32 (1e-8, with fewer terms).

    Returns:
        A `Table` of float64 arrays.

    Raises:
        ValueError: if the activation is not smooth enough on the scale sqrt(q_high).
    """
    vanishes = float(activation.phi(tf.zeros([], tf.float64))) == 0
    y_low, y_high = _y(q_low), _y(q_high)
    # Not a point: derivatives by the variance need a neighbourhood.
    centre, half = (y_low + y_high) / 2, max((y_high - y_low) / 2, 5e-4 * y_high, 1e-150)
    for rank in _RANKS:
        nodes, transform = _chebyshev(rank)
        y = centre + half * nodes
        q = np.maximum(y / (1 - y), 1e-100) ** 2
        mean, b = _hermite_coefficients(activation, q, _TOLERANCE[dtype])
        order = np.arange(1, b.shape[1] + 1)
        a = np.concatenate([mean[:, None], np.sqrt(q)[:, None] * b / np.sqrt(order)], axis=1)
        root = np.sqrt(np.sum(a**2, axis=1))
        moments = np.stack([root / (np.sqrt(q) if vanishes else 1.0), np.sum(b**2, axis=1)])
        unit = transform @ (a / root[:, None])
        b, moments = transform @ b, moments @ transform.T
        if max(map(_tail, (b, unit, moments.T))) < _RESOLVED:
            break
    else:
        raise ValueError(
            f"activation {activation.name!r}: its Hermite coefficients at variances from "
            f"{q_low:.3g} to {q_high:.3g} are not polynomials of degree {rank}."
        )
    # Rotated, the unit vector has few components: half of its squared distance in `pair` is short.
    _, singular, right = np.linalg.svd(unit.T, full_matrices=False)
    keep = singular > 1e-15 * singular[0]
    odd = bool(np.max(np.abs(b[:, 1::2]), initial=0.0) < 1e-14 * np.max(np.abs(b)))
    step = 2 if odd else 1
    terms = b.T[step::step][::-1]
    chunks = max(-(-len(terms) // _CHUNK), 1)
    length = -(-len(terms) // chunks)
    fill = chunks * length - len(terms)
    inverse = np.pad(1 / order[step::step][::-1], (fill, 0))
    return Table(
        np.array([centre, 1 / half, float(vanishes)]),
        moments,
        singular[keep, None] * right[keep],
        b[:, 0],
        np.pad(terms, ((fill, 0), (0, 0))).reshape(chunks, length, rank),
        inverse.reshape(chunks, length),
        odd,
    )


def _tail(coefficients):
    """Size of the last two rows of Chebyshev coefficients relative to the largest."""
    size = np.abs(coefficients)
    return np.max(size[-2:]) / np.max(size)


def variance_ranges(activation, low, high, depth, weight_variance, bias_variance, share=1.0):
    """The variances of the first layer, and those of all layers after it.

    Args:
        activation: a `mfcnn.activations.Activation`.
        low: smallest variance after the first affine map.
        high: largest.
        depth: number of activations that follow.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        share: the smallest sum of a convolution's taps at a position.

    Returns:
        Two pairs (low, high); the second is mapped into itself, or covers `depth` layers.
    """

    def image(low, high):
        y = np.linspace(_y(low), _y(high), 17)
        second = activation.second_moment(np.maximum((y / (1 - y)) ** 2, 1e-200))
        low = weight_variance * share * second.min() + bias_variance
        return low, weight_variance * second.max() + bias_variance

    def widened(low, high):  # by more than what lies between the samples, and rounding
        slack = 1e-3 * (high - low) + 1e-13 * high
        return max(low - slack, 0.0), high + slack

    first, rest = widened(low, high), image(low, high)
    for layer in range(1, depth):
        low, high = rest
        new_low, new_high = image(low, high)
        if new_low >= low * (1 - 1e-10) and new_high <= high * (1 + 1e-10):
            break
        # Slow convergence is overtaken: a range that is a little too wide costs little.
        ahead = 0 if layer < 8 else 4
        low = min(low, max(new_low - ahead * (low - new_low), bias_variance))
        rest = low if layer < 40 else bias_variance, max(high, new_high + ahead * (new_high - high))
    return first, widened(*rest)


class TabulatedDual:
    """A dual (see `dual`) that evaluates a table."""

    def __init__(self, table, dtype):
        """Takes a `Table` of arrays or tensors, of static shapes."""
        *arrays, self._odd = table
        (
            self._domain,
            self._moments,
            self._unit,
            self._first,
            self._rest,
            self._inverse,
        ) = (tf.cast(a, dtype) for a in arrays)

    def _basis(self, q):
        """Chebyshev polynomials of y(q), [r, ...]."""
        rank = self._first.shape[0]
        positive = q > 0
        root = tf.where(positive, tf.sqrt(tf.where(positive, q, tf.ones_like(q))), tf.zeros_like(q))
        t = (root / (1 + root) - self._domain[0]) * self._domain[1]
        basis = [tf.ones_like(q), t]
        while len(basis) < rank:
            basis.append(2 * t * basis[-1] - basis[-2])
        return root, tf.stack(basis[:rank])

    def moments(self, q):
        """E[phi(u)^2] and E[phi'(u)^2]."""
        _, basis = self._basis(q)
        root, derivative = tf.unstack(tf.tensordot(self._moments, basis, 1))
        return root * root * tf.where(self._domain[2] > 0, q, tf.ones_like(q)), derivative

    def side(self, q):
        """sqrt(q / A), and w and b_n along axes in front."""
        root, basis = self._basis(q)
        size = tf.tensordot(self._moments[:1], basis, 1)[0]
        ratio = tf.where(self._domain[2] > 0, tf.ones_like(q), root) / size
        return (
            ratio,
            tf.tensordot(self._unit, basis, 1),
            tf.tensordot(self._first, basis, 1),
            tf.tensordot(self._rest, basis, 1),
        )

    def pair(self, side1, side2, gap):
        """The output gap and E[phi' phi'], by Horner's rule over the terms."""
        (ratio1, unit1, first1, rest1), (ratio2, unit2, first2, rest2) = side1, side2
        c = 1 - gap
        power = c * c if self._odd else c
        chunks, terms = self._inverse.shape

        def chunk(k, tail, secant, slope):
            for n in range(terms):
                product = rest1[k, n] * rest2[k, n]
                tail = tail + self._inverse[k, n] * product
                secant = secant * power + tail
                slope = slope * power + product
            return k + 1, tail, secant, slope

        zero = tf.zeros_like(gap)
        state = (0, zero, zero, zero)
        if chunks > 1:
            state = tf.while_loop(
                lambda k, *_: k < chunks, chunk, (tf.constant(0), *state[1:]),
                maximum_iterations=chunks,
            )  # fmt: skip
        elif terms:
            state = chunk(*state)
        _, tail, secant, slope = state
        product = first1 * first2
        # 1 + c + ... + c^n = 1 + (c + c^2) (1 + c^2 + ...) if n is even.
        secant = tail + product + (c + power if self._odd else c) * secant
        offset = 0.0
        for k in range(self._unit.shape[0]):
            difference = unit1[k] - unit2[k]
            offset = offset + difference * difference
        return offset / 2 + ratio1 * ratio2 * gap * secant, slope * power + product
