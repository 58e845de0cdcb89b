"""Dual maps of an activation whose features lie at zero: polynomials in the angle of c = cos(a).

A Hermite series (`_hermite_table`) of a function with a kink, or of one that is sharp on the scale
of its input (tanh at a variance of 10,000), has more terms than can be had. In polar coordinates,

    E[phi'(u) phi'(v)] = 1/(2 pi) integral dt integral dr r exp(-r^2 / 2)
                         phi'(sqrt(q1) r sin(t)) phi'(sqrt(q2) r sin(t + a)),

where u and v change sign on the rays t = 0, pi, -a, pi - a. On the four sectors between them phi'
is smooth, whatever happens at zero: quadrature with nodes that are dense at the rays and at r = 0
is exact to rounding, and E[phi' phi'] is analytic in the angle, a = 0 and a = pi included. So it is
a Chebyshev series in a; its coefficients are functions of two variances, of low rank:

    E[phi'(u) phi'(v)] = sum_n T_n(x(a)) sum_kl f_k(q1) C_nkl f_l(q2).

The secant is its mean over correlations from c to 1, which is linear in the coefficients.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mfcnn.activations._dual import Side
from mfcnn.activations._table import RANKS, RESOLVED, TableDual, domain, relative, rotated, rounded
from mfcnn.numerics import chebyshev_coefficients, chebyshev_nodes, safe_sqrt

__all__ = ["AngleTable", "build_angle_table"]

_ORDERS = (24, 48, 96, 192)  # Chebyshev terms in the angle
_TOLERANCE = 1e-12  # last terms in the angle, and of the variances' basis, over the largest
_PANEL, _SECTOR, _SECANT = 16, 64, 48  # nodes of a radial panel, a sector, the mean over c
_REACH = 10.0  # standard deviations


class AngleTable(NamedTuple):
    """The series for variances in a range, as float64 arrays.

    Attributes:
        domain, moments, unit: see `TableDual`.
        width: of the features in the angle, a scalar.
        basis: [k, r], the functions f_k of the variance.
        slope: [n, k, k], C of E[phi' phi'].
        secant: [n, k, k], likewise.
    """

    domain: np.ndarray
    moments: np.ndarray
    unit: np.ndarray
    width: np.ndarray
    basis: np.ndarray
    slope: np.ndarray
    secant: np.ndarray

    def dual(self, dtype: tf.DType = tf.float64, variance: tf.Tensor | None = None) -> "_AngleDual":
        """The dual that evaluates the table; with a variance, of signals which all have it."""
        return _AngleDual(self, dtype, variance)


def build_angle_table(activation: Any, q_low: float, q_high: float) -> AngleTable:
    """Tabulates the dual maps for variances in [q_low, q_high].

    Args:
        activation: an `Activation` with no kink but at zero.
        q_low: the smallest variance, not negative.
        q_high: the largest.

    Raises:
        ValueError: if the series does not resolve phi.
    """
    phi, phi_prime = (_on_numpy(f) for f in (activation.phi, activation.phi_prime))
    vanishes = float(phi(np.zeros(1))[0]) == 0
    width = min(1.0, 1 / np.sqrt(q_high))
    r, r_weights = _radial(width)
    z = np.concatenate([-r[::-1], r])
    density = np.concatenate([r_weights[::-1], r_weights]) * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    for rank in RANKS:
        place, q = domain(q_low, q_high, rank)
        x = np.sqrt(q)[:, None] * z
        values = phi(x) * np.sqrt(density)
        root = np.sqrt(np.sum(values**2, axis=1))
        size = root / (np.sqrt(q) if vanishes else 1.0)
        moments = chebyshev_coefficients(np.stack([size, phi_prime(x) ** 2 @ density]))
        unit = chebyshev_coefficients((values / root[:, None]).T)
        sizes = np.maximum(relative(unit.T), relative(moments.T))
        if np.max(sizes[-2:]) < 1000 * RESOLVED:
            break
    else:
        raise ValueError(f"its moments are not polynomials of degree {rank} in the variance")
    order = _angular(phi_prime, q[[0, rank // 2, -1]], width)
    values = _covariances(phi_prime, q, order, width)
    left, singular, _ = np.linalg.svd(np.swapaxes(values, 0, 1).reshape(rank, -1))
    kept = rounded(int(np.sum(singular > _TOLERANCE / 10 * singular[0])), rank)
    left = left[:, :kept]
    reduced = left.T @ values @ left  # [angle, k, k]
    transform = chebyshev_coefficients(np.eye(order)).T
    slope = np.tensordot(transform, reduced, 1)
    secant = np.tensordot(transform @ _mean_over_correlations(order, width), reduced, 1)
    basis = chebyshev_coefficients(left.T)
    return AngleTable(
        np.array([*place, float(vanishes)]),
        moments,
        rotated(unit.T),
        np.array(width),
        basis,
        slope,
        secant,
    )


def _on_numpy(function: Any) -> Any:
    return lambda x: np.asarray(function(tf.constant(x)))


def _place(sine: Any, cosine: Any, width: Any, asinh: Any = np.arcsinh) -> Any:
    """The variable x in [-1, 1] of the series, from sine and cosine of a / 2; odd about pi / 2.

    E[phi' phi'] varies within `width` of a = 0 and pi, there x goes like asinh(a / (2 width)).
    """
    return (asinh(sine / width) - asinh(cosine / width)) / asinh(1 / width)


def _angles(order: int, width: float) -> np.ndarray:
    """The angles at the Chebyshev nodes of the series, by bisection."""
    x = chebyshev_nodes(order)
    low, high = np.zeros(order), np.full(order, np.pi)
    for _ in range(60):
        middle = (low + high) / 2
        below = _place(np.sin(middle / 2), np.cos(middle / 2), width) < x
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def _radial(width: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 10], on panels that halve towards zero, where features are."""
    halvings = int(np.ceil(-np.log2(width))) + 4
    edges = np.concatenate([[0.0], 2.0 ** np.arange(-halvings, 1), np.arange(2.0, _REACH + 1, 2.0)])
    nodes, weights = np.polynomial.legendre.leggauss(_PANEL)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (nodes + 1)).ravel(), (half * weights).ravel()


def _angular(phi_prime: Any, q: np.ndarray, width: float) -> int:
    """How many terms the series in the angle has."""
    for order in _ORDERS:
        values = np.moveaxis(_covariances(phi_prime, q, order, width), 0, -1)
        sizes = np.abs(chebyshev_coefficients(values))
        last = np.max(sizes[..., -2:]) / np.max(sizes)
        if last < _TOLERANCE:
            return order
    raise ValueError(f"the last of {order} terms in the angle is {last:.1e} of the largest")


def _covariances(phi_prime: Any, q: np.ndarray, order: int, width: float) -> np.ndarray:
    """E[phi'(u) phi'(v)] at the nodes of the angle, for all pairs of q: [order, n, n]."""
    s, weights = np.polynomial.legendre.leggauss(_SECTOR + int(_SECTOR / 4 * -np.log2(width)))
    s, weights = (s + 1) / 2, weights / 2
    # Dense at both ends: s^4 / (s^4 + (1 - s)^4).
    left, right = s**4, (1 - s) ** 4
    weights = weights * 4 * (s * (1 - s)) ** 3 / (left + right) ** 2
    r, radial = _radial(width)
    weights = ((radial * r * np.exp(-r * r / 2) / (2 * np.pi))[:, None] * weights).ravel()
    x = np.sqrt(q)[:, None, None] * r[:, None]

    def sectors(size: float) -> tuple[np.ndarray, np.ndarray]:
        """The integrals over sectors of this size where u and v have one sign, and where two."""
        u = x * np.sin(size * left / (left + right))
        above, below = phi_prime(u), phi_prime(-u)  # and v runs through the same from the end
        flat = [f.reshape(q.size, -1) for f in (above, below, above[..., ::-1], below[..., ::-1])]
        one, other = flat[0] * (size * weights), flat[1] * (size * weights)
        mixed = one @ flat[3].T
        return one @ flat[2].T + other @ flat[3].T, mixed + mixed.T

    result = np.empty((order, q.size, q.size))
    for n, a in enumerate(_angles(order, width)[: order // 2]):
        (wide_same, wide_mixed), (same, mixed) = sectors(np.pi - a), sectors(a)
        result[n], result[-1 - n] = wide_same + mixed, same + wide_mixed
    return (result + np.swapaxes(result, 1, 2)) / 2


def _mean_over_correlations(order: int, width: float) -> np.ndarray:
    """The matrix from values at the nodes of the angle to means over c from cos(a) to 1."""
    sigma, weights = np.polynomial.legendre.leggauss(max(_SECANT, order))
    sigma, weights = (sigma + 1) / 2, weights / 2
    # 1 - cos(t) = sigma^2 (1 - cos(a)), so that the mean is smooth in sigma.
    sine = np.sin(_angles(order, width)[:, None] / 2) * sigma
    series = np.polynomial.chebyshev.chebvander(
        _place(sine, np.sqrt(1 - sine * sine), width), order - 1
    )
    means = np.einsum("g,agn->an", 2 * sigma * weights, series)
    return means @ chebyshev_coefficients(np.eye(order)).T


class _AngleDual(TableDual):
    """A dual that evaluates an `AngleTable`, by Clenshaw's rule in a loop over the terms."""

    def __init__(
        self, table: AngleTable, dtype: tf.DType, variance: tf.Tensor | None = None
    ) -> None:
        """Takes a table of arrays or tensors, and one variance if all signals have it."""
        self._width, self._functions, self._slope, self._secant = (
            tf.cast(a, dtype) for a in table[3:]
        )
        super().__init__(table[:3], dtype, variance)

    def side(self, q: tf.Tensor) -> Side:
        """sqrt(q / A), w, f_k, and the two C f, [2, n, k] in front."""
        if self._fixed:
            return ()
        ratio, unit, basis = self._shared_side(q)
        functions = tf.tensordot(self._functions, basis, 1)
        both = tf.stack([self._slope, self._secant])
        return ratio, unit, functions, tf.tensordot(both, functions, 1)

    def rise(self, side1: Any, side2: Any, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The gap's part of the output gap and E[phi' phi']."""
        (ratio1, _, functions, _), (ratio2, _, _, products) = side1, side2
        sine, cosine = safe_sqrt(gap / 2), safe_sqrt(1 - gap / 2)
        x = _place(sine, cosine, tf.cast(self._width, gap.dtype), tf.asinh)
        x = x + tf.zeros_like(ratio1 * ratio2)
        # Eagerly a loop of many small operations takes 50 times as long as its program.
        evaluate = _compiled_sums if tf.executing_eagerly() else _sums
        slope, secant = evaluate(x, functions, products)
        return ratio1 * ratio2 * gap * secant, slope


def _sums(x: tf.Tensor, functions: tf.Tensor, products: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """sum_n T_n(x) f C_n f, of the slope's C and the secant's, by Clenshaw's rule.

    Args:
        x: places of the angle, [...].
        functions: f of the one side, [k, ...].
        products: C f of the other, [2, n, k, ...].
    """
    rows, count = tf.unstack(functions), products.shape[1]

    def coefficient(which: int, n: Any) -> tf.Tensor:
        terms = tf.unstack(tf.gather(products[which], n), num=len(rows))
        total = rows[0] * terms[0]
        for row, term in zip(rows[1:], terms[1:]):
            total += row * term
        return total

    def step(n: Any, a1: Any, a2: Any, b1: Any, b2: Any) -> tuple:
        return (
            n - 1,
            coefficient(0, n) + 2 * x * a1 - a2,
            a1,
            coefficient(1, n) + 2 * x * b1 - b2,
            b1,
        )

    zero = tf.zeros_like(x)
    start = (tf.constant(count - 1), zero, zero, zero, zero)
    _, a1, a2, b1, b2 = tf.while_loop(
        lambda n, *_: n > 0, step, start, maximum_iterations=count - 1
    )
    return coefficient(0, 0) + x * a1 - a2, coefficient(1, 0) + x * b1 - b2


_compiled_sums = tf.function(_sums, autograph=False)
