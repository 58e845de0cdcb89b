"""Dual maps of a continuous piecewise polynomial, for two variances.

In standard deviations, u = sqrt(q1) z1 and v = sqrt(q2) z2 with c = E[z1 z2] = cos(a), let F_m be
the m-th derivative of phi without its delta functions, times q^(m / 2). Price's theorem says

    d/dc E[F_m(z1) F_m(z2)] = E[F_(m+1)(z1) F_(m+1)(z2)] + G_m(c),

where G_m are the terms with a delta function at a kink: with J the jump of F_m at the kink x of z1
or y of z2, n the normal density and n2(x, y; c) that of the pair,

    G_m = sum_xy J_x J_y n2(x, y; c) + sum_x J_x n(x) E[F_(m+1)(z2) | z1 = x]
          + sum_y J_y n(y) E[F_(m+1)(z1) | z2 = y].

F_(d+1) is zero for polynomials of degree d. Integrating d times from c = 1, with g = 1 - cos(a),

    E[F_m F_m] = sum_l (-g)^l / l! H_(m+l)
                 - sum_l (-1)^l / l! integral_0^a (cos(t) - cos(a))^l G_(m+l)(t) sin(t) dt,

H_m = E[F_m F_m] at c = 1: sums over kinks of E[(z - x)_+^k (z - y)_+^l], in closed form, and one
integral over the angle. n2 sin(t) is exp(-(x^2 - 2 x y cos(t) + y^2) / (2 sin(t)^2)) / (2 pi),
which turns on at t = |x - y|, however small, and off near pi: so the nodes are dense at both ends.

F_m is written as its polynomial about zero plus truncated powers (z - x)_+^k / k! or
(x - z)_+^k / k! that point away from zero: at a small variance they vanish instead of cancelling.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from mfcnn.activations._dual import Dual, Side
from mfcnn.numerics import inverse, safe_sqrt

__all__ = ["PiecewisePolynomial", "recognized"]

_TINY = 1e-18  # least standard deviation in which a kink's place is measured
_NODES, _POWER = 128, 4


def _rule() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes w of the integral over [0, 1], 1 - w and weights; w ~ s^4 and 1 - w ~ (1 - s)^4."""
    s, weights = np.polynomial.legendre.leggauss(_NODES)
    s, weights = (s + 1) / 2, weights / 2
    left, right = s**_POWER, (1 - s) ** _POWER
    slope = _POWER * (s * (1 - s)) ** (_POWER - 1) / (left + right) ** 2
    return left / (left + right), right / (left + right), weights * slope


class PiecewisePolynomial(Dual):
    """The dual maps of a piecewise polynomial."""

    # E[phi' phi'] falls like the root of the gap: no rounding of variances may enter that.
    keeps_float64 = True

    def __init__(self, kinks: Sequence[float], polynomials: Sequence[Sequence[float]]) -> None:
        """Takes the kinks, ascending, and the coefficients, ascending, of the polynomials between.

        Args:
            kinks: k of them.
            polynomials: k + 1 lists; neighbours agree in value at the kink.
        """
        pieces = [np.polynomial.Polynomial(p) for p in polynomials]
        self._degree = max(p.trim().degree() for p in pieces)
        orders = range(self._degree + 1)
        centre = int(np.sum(np.asarray(kinks) < 0))
        self._centre = [float(pieces[centre].deriv(m)(0.0)) for m in orders]
        self._kinks = [float(k) for k in kinks]
        self._sides = [-1 if k < 0 else 1 for k in self._kinks]
        self._jumps = [
            [float(right.deriv(m)(k) - left.deriv(m)(k)) if m else 0.0 for m in orders]
            for k, left, right in zip(self._kinks, pieces, pieces[1:])
        ]

    def moments(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """E[phi(u)^2] and E[phi'(u)^2]."""
        root = safe_sqrt(q)
        return self._equal(0, root, root), self._equal(1, root, root)

    def side(self, q: tf.Tensor) -> Side:
        """sqrt(q) and E[phi^2]^(-1/2)."""
        root = safe_sqrt(q)
        return root, inverse(safe_sqrt(self._equal(0, root, root)))

    def pair(self, side1: Side, side2: Side, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The output gap and E[phi'(u) phi'(v)], in the dtype of the gap."""
        (root1, inverse1), (root2, inverse2) = side1, side2
        both = inverse1 * inverse2
        dtype, gap = gap.dtype, tf.cast(gap, both.dtype) + tf.zeros_like(both)
        offset = 1 - self._equal(0, root1, root2) * both
        offset = tf.where(tf.equal(root1, root2), tf.zeros_like(offset), offset)
        slope, secant = self._drops(root1, root2, gap)
        slope, secant = -slope, -secant
        for m in range(1, self._degree + 1):
            equal = self._equal(m, root1, root2)
            slope += (-gap) ** (m - 1) / math.factorial(m - 1) * equal
            secant += (-gap) ** (m - 1) / math.factorial(m) * equal
        output_gap = offset + root1 * root2 * both * gap * secant
        return tf.cast(output_gap, dtype), tf.cast(slope, dtype)

    # Coefficients of F_m, divided by sqrt(q) for m > 0: those of phi' then, not of F_1.

    def _polynomial(self, m: int, root: tf.Tensor) -> list:
        """Coefficients of z^k / k! about zero, k = 0, 1, ...; zeros as None."""
        return [_scaled(c, root, m, k) for k, c in enumerate(self._centre[m:])]

    def _powers(self, m: int, j: int, root: tf.Tensor) -> list:
        """Coefficients at kink j of (z - x)_+^k / k!, or (x - z)_+^k / k! to the left of zero."""
        return [
            _scaled(c if self._sides[j] > 0 else -c * (-1) ** k, root, m, k)
            for k, c in enumerate(self._jumps[j][m:])
        ]

    def _distance(self, j: int, root: tf.Tensor) -> tf.Tensor:
        """How far kink j is from zero in standard deviations, on its side."""
        return abs(self._kinks[j]) / tf.maximum(root, _TINY)

    def _equal(self, m: int, root1: tf.Tensor, root2: tf.Tensor) -> tf.Tensor:
        """H_m = E[F_m(z) F_m(z)] of two variances, divided by sqrt(q1 q2) for m > 0."""
        centre1, centre2 = self._polynomial(m, root1), self._polynomial(m, root2)
        total = tf.zeros_like(root1 * root2)
        for k, a in enumerate(centre1):
            for n, b in enumerate(centre2):
                if a is not None and b is not None and (k + n) % 2 == 0:
                    total += a * b * (_gaussian_moment(k + n) / _factorials(k, n))
        for j, side in enumerate(self._sides):
            x, y = self._distance(j, root1), self._distance(j, root2)
            signed1, signed2 = (
                [_times(c, side**k) for k, c in enumerate(centre)] for centre in (centre1, centre2)
            )
            powers1, powers2 = self._powers(m, j, root1), self._powers(m, j, root2)
            total += _tails(signed1, tf.zeros_like(x), powers2, y)
            total += _tails(signed2, tf.zeros_like(y), powers1, x)
            for i, other in enumerate(self._sides):
                if other == side:
                    total += _tails(powers1, x, self._powers(m, i, root2), self._distance(i, root2))
        return total

    def _drops(
        self, root1: tf.Tensor, root2: tf.Tensor, gap: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What the integrals over the angle take from E[phi' phi'] and from its mean over c."""
        nodes, rests, weights = (tf.constant(a, gap.dtype) for a in _rule())
        # Never zero, so that slopes at coincident inputs are finite.
        half = tf.asin(tf.sqrt(tf.clip_by_value(gap / 2, 1e-30, 1.0)))
        least = tf.sin(half) ** 2

        def add(k: tf.Tensor, slope: tf.Tensor, secant: tf.Tensor) -> tuple:
            t = half * nodes[k]
            fall = 2 * tf.sin(half + t) * tf.sin(half * rests[k])  # cos(2 t) - cos(a)
            terms = [None] + [
                self._kinked(m, root1, root2, tf.sin(t), tf.cos(t))
                for m in range(1, self._degree + 1)
            ]
            size = 2 * half * weights[k]
            for m, term in enumerate(terms):
                if term is not None:
                    sign = (-1) ** (m - 1)
                    slope += size * term * fall ** (m - 1) * (sign / math.factorial(m - 1))
                    secant += size * term * fall**m / (2 * least) * (sign / math.factorial(m))
            return k + 1, slope, secant

        zero = tf.zeros_like(gap)
        start = tf.constant(0), zero, zero
        return tf.while_loop(lambda k, *_: k < _NODES, add, start, maximum_iterations=_NODES)[1:]

    def _kinked(
        self, m: int, root1: tf.Tensor, root2: tf.Tensor, sine: tf.Tensor, cosine: tf.Tensor
    ) -> tf.Tensor | None:
        """G_m sin(t) / sqrt(q1 q2) from sine and cosine of t / 2, or None for zero."""
        total, s, c = 0.0, 2 * sine * cosine, 1 - 2 * sine * sine
        s = tf.maximum(s, 1e-30)
        jumps = [(k, jump[m]) for k, jump in zip(self._kinks, self._jumps) if jump[m]]
        for k, jump in jumps:
            x, a = k / tf.maximum(root1, _TINY), jump * root1 ** (m - 1)
            for other, other_jump in jumps:
                y, b = other / tf.maximum(root2, _TINY), other_jump * root2 ** (m - 1)
                # x^2 - 2 x y cos(t) + y^2 over sin(t)^2, as two terms that are not negative.
                if k * other >= 0:
                    exponent = ((x - y) / s) ** 2 + x * y / (cosine * cosine)
                else:
                    exponent = ((x + y) / s) ** 2 - x * y / (sine * sine)
                total += a * b * tf.exp(-exponent / 2) / (2 * math.pi)
            for one, two in ((root1, root2), (root2, root1)):
                x, a = k / tf.maximum(one, _TINY), jump * one ** (m - 1)
                mean = self._conditional(m + 1, two, x * c, s)
                if mean is not None:
                    total += s * a * _density(x) * mean
        return total if jumps else None

    def _conditional(
        self, m: int, root: tf.Tensor, mean: tf.Tensor, deviation: tf.Tensor
    ) -> tf.Tensor | None:
        """E[F_m(z)] / sqrt(q) for z ~ N(mean, deviation^2), or None where F_m is zero."""
        terms, hermite = [], [tf.ones_like(mean), mean]
        for k, a in enumerate(self._polynomial(m, root)):
            if k > 1:
                hermite.append((mean * hermite[-1] + deviation**2 * hermite[-2]) / k)
            if a is not None:
                terms.append(a * hermite[k])
        for j, side in enumerate(self._sides):
            powers = self._powers(m, j, root)
            if any(a is not None for a in powers):
                x = self._kinks[j] / tf.maximum(root, _TINY)
                tails = _truncated(side * (mean - x) / deviation, len(powers))
                terms += [
                    a * deviation**k * tails[k] for k, a in enumerate(powers) if a is not None
                ]
        return tf.add_n([t + tf.zeros_like(terms[0] + t) for t in terms]) if terms else None


def recognized(phi: Callable[[np.ndarray], np.ndarray], kinks: np.ndarray) -> Dual | None:
    """The dual of a function that is a polynomial of degree five or less between its kinks."""
    if not kinks.size:
        return None
    kinks = np.where(np.abs(kinks) < 1e-12, 0.0, kinks)
    ends = np.concatenate([[kinks[0] - 16], kinks, [kinks[-1] + 16]])
    pieces = []
    for low, high in zip(ends, ends[1:]):
        x = low + (high - low) * (np.arange(200) + 0.5) / 200
        fit = np.polynomial.Polynomial.fit(x, phi(x), 5)
        if np.max(np.abs(fit(x) - phi(x))) > 1e-12 * np.max(np.abs(phi(x))):
            return None
        coefficients = fit.convert().coef
        size = np.max(np.abs(coefficients))
        # The digits that the fit has: equal pieces shall be equal, and zeros zero.
        pieces.append(
            [round(float(a), 11 - int(np.ceil(np.log10(size or 1)))) for a in coefficients]
        )
    return PiecewisePolynomial(kinks.tolist(), pieces)


def _scaled(coefficient: float, root: tf.Tensor, m: int, k: int) -> tf.Tensor | None:
    power = m + k - (1 if m else 0)
    return None if coefficient == 0 else coefficient * root**power


def _times(value: tf.Tensor | None, factor: float) -> tf.Tensor | None:
    return None if value is None else factor * value


def _factorials(k: int, n: int) -> float:
    return float(math.factorial(k) * math.factorial(n))


def _gaussian_moment(order: int) -> float:
    return float(math.prod(range(1, order, 2)))


def _density(x: tf.Tensor) -> tf.Tensor:
    return tf.exp(-x * x / 2) * (1 / math.sqrt(2 * math.pi))


def _truncated(mean: tf.Tensor, count: int) -> list[tf.Tensor]:
    """E[(mean + z)_+^k] / k! for k < count."""
    values = [_density(mean), tf.math.erfc(-mean * math.sqrt(0.5)) / 2]
    for k in range(1, count):
        values.append((mean * values[-1] + values[-2]) / k)
    return values[1 : count + 1]


def _tails(first: list, x: tf.Tensor, second: list, y: tf.Tensor) -> tf.Tensor:
    """sum_kn a_k b_n E[(z - x)^k / k! (z - y)^n / n!; z > max(x, y)].

    With b the larger of x and y, z - x = (z - b) + (b - x), likewise for y: all terms have the
    signs of the coefficients.
    """
    total = tf.zeros_like(x + y)
    if all(a is None for a in first) or all(b is None for b in second):
        return total
    end = tf.maximum(x, y)
    tails = _truncated(-end, len(first) + len(second) - 1)
    for k, a in enumerate(first):
        for n, b in enumerate(second):
            if a is None or b is None:
                continue
            value = tf.zeros_like(total)
            for r in range(k + 1):
                for s in range(n + 1):
                    shift = (end - x) ** (k - r) * (end - y) ** (n - s)
                    ways = math.comb(r + s, r) / _factorials(k - r, n - s)
                    value += ways * shift * tails[r + s]
            total += a * b * value
    return total
