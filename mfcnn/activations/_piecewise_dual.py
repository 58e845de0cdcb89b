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

from mfcnn.activations import _truncated_powers as powers
from mfcnn.activations._close import Close, gap_of_squares
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
        output_gap, slope = self.rise(root1, root2, both, gap)
        output_gap += self.offset(root1, root2, both)
        return tf.cast(output_gap, dtype), tf.cast(slope, dtype)

    @property
    def close(self) -> Close:
        """With all digits of the output gap that two variances make."""
        return _ClosePiecewise(self)

    def offset(self, root1: tf.Tensor, root2: tf.Tensor, both: tf.Tensor) -> tf.Tensor:
        """The output gap at c = 1, `both` being 1 / sqrt(A1 A2): to one rounding of one."""
        offset = 1 - self._equal(0, root1, root2) * both
        return tf.where(tf.equal(root1, root2), tf.zeros_like(offset), offset)

    def rise(
        self, root1: tf.Tensor, root2: tf.Tensor, both: tf.Tensor, gap: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What the gap adds to it, a product with the gap, and E[phi'(u) phi'(v)]."""
        slope, secant = self._drops(root1, root2, gap)
        slope, secant = -slope, -secant
        for m in range(1, self._degree + 1):
            equal = self._equal(m, root1, root2)
            slope += (-gap) ** (m - 1) / math.factorial(m - 1) * equal
            secant += (-gap) ** (m - 1) / math.factorial(m) * equal
        return root1 * root2 * both * gap * secant, slope

    def radial(self, root1: tf.Tensor, root2: tf.Tensor) -> tf.Tensor:
        """E[z phi'(r1 z) z phi'(r2 z)]."""
        return self._product(self._radial(root1), self._radial(root2), root1, root2)

    def growth(self, root: tf.Tensor) -> tf.Tensor:
        """d/dr E[phi(r z)^2] / 2 = E[phi(r z) z phi'(r z)]."""
        return self._product(self._expansion(0, root), self._radial(root), root, root)

    # Coefficients of F_m, divided by sqrt(q) for m > 0: those of phi' then, not of F_1.

    def _polynomial(self, m: int, root: tf.Tensor) -> list:
        """Coefficients of z^k / k! about zero, k = 0, 1, ...; zeros as None."""
        return [powers.scaled(c, root, m, k) for k, c in enumerate(self._centre[m:])]

    def _powers(self, m: int, j: int, root: tf.Tensor) -> list:
        """Coefficients at kink j of (z - x)_+^k / k!, or (x - z)_+^k / k! to the left of zero."""
        return [
            powers.scaled(c if self._sides[j] > 0 else -c * (-1) ** k, root, m, k)
            for k, c in enumerate(self._jumps[j][m:])
        ]

    def _distance(self, j: int, root: tf.Tensor) -> tf.Tensor:
        """How far kink j is from zero in standard deviations, on its side."""
        return abs(self._kinks[j]) / tf.maximum(root, _TINY)

    def _equal(self, m: int, root1: tf.Tensor, root2: tf.Tensor) -> tf.Tensor:
        """H_m = E[F_m(z) F_m(z)] of two variances, divided by sqrt(q1 q2) for m > 0."""
        return self._product(self._expansion(m, root1), self._expansion(m, root2), root1, root2)

    def _expansion(self, m: int, root: tf.Tensor) -> tuple[list, list]:
        """The coefficients of F_m about zero, and those at each kink."""
        kinks = range(len(self._kinks))
        return self._polynomial(m, root), [self._powers(m, j, root) for j in kinks]

    def _radial(self, root: tf.Tensor) -> tuple[list, list]:
        """The coefficients of z phi'(sqrt(q) z): z (z - x)^k = (z - x)^(k + 1) + x (z - x)^k."""
        centre, all_powers = self._expansion(1, root)
        turned = []
        for j, (side, terms) in enumerate(zip(self._sides, all_powers)):
            x, raised = self._distance(j, root), powers.raised(terms)
            kept = [None if a is None else x * a for a in terms]
            pairs = zip(raised, [*kept, None])
            turned.append([powers.times(powers.added(a, b), side) for a, b in pairs])
        return powers.raised(centre), turned

    def _product(
        self, first: tuple, second: tuple, root1: tf.Tensor, root2: tf.Tensor
    ) -> tf.Tensor:
        """E[f(z) g(z)] of two expansions."""
        (centre1, all_powers1), (centre2, all_powers2) = first, second
        total = tf.zeros_like(root1 * root2)
        for k, a in enumerate(centre1):
            for n, b in enumerate(centre2):
                if a is not None and b is not None and (k + n) % 2 == 0:
                    total += a * b * (powers.gaussian_moment(k + n) / powers.factorials(k, n))
        for j, side in enumerate(self._sides):
            x, y = self._distance(j, root1), self._distance(j, root2)
            signed1, signed2 = (
                [powers.times(c, side**k) for k, c in enumerate(centre)]
                for centre in (centre1, centre2)
            )
            powers1, powers2 = all_powers1[j], all_powers2[j]
            total += powers.tails(signed1, tf.zeros_like(x), powers2, y)
            total += powers.tails(signed2, tf.zeros_like(y), powers1, x)
            for i, other in enumerate(self._sides):
                if other == side:
                    total += powers.tails(powers1, x, all_powers2[i], self._distance(i, root2))
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
                    total += s * a * powers.density(x) * mean
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
            own = self._powers(m, j, root)
            if any(a is not None for a in own):
                x = self._kinks[j] / tf.maximum(root, _TINY)
                tails = powers.truncated(side * (mean - x) / deviation, len(own))
                terms += [a * deviation**k * tails[k] for k, a in enumerate(own) if a is not None]
        return tf.add_n([t + tf.zeros_like(terms[0] + t) for t in terms]) if terms else None


class _ClosePiecewise(Close):
    """The output gap at c = 1 from the integral of d phi(r z) / dr = z phi'(r z).

        E[(phi(r1 z) - phi(r2 z))^2] = 2 integral_r2^r1 dr integral_r2^r ds M(r, s),

    M = E[z^2 phi'(r z) phi'(s z)], which has a kink at r = s and is smooth on either side of it:
    three nodes for each of the two are off by 1e-13 of it at r1 / r2 - 1 = 1.5 %, and serve to 3 %.
    """

    dual: PiecewisePolynomial

    def pair(
        self, side1: Side, side2: Side, gap: tf.Tensor, difference: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The maps of pairs."""
        (second1, root1, inverse1), (second2, root2, inverse2) = side1, side2
        both = inverse1 * inverse2
        gap += tf.zeros_like(both)
        output_gap, slope = self.dual.rise(root1, root2, both, gap)
        apart = difference * inverse(root1 + root2)
        near = tf.abs(apart) < 0.03 * (root1 + root2) / 2
        distance, change = self._integrals(root2, tf.where(near, apart, tf.zeros_like(apart)))
        change = tf.where(near, change, second1 - second2)
        offset = gap_of_squares(distance, safe_sqrt(second1), safe_sqrt(second2), change)
        offset = tf.where(near, offset, self.dual.offset(root1, root2, both))
        return output_gap + offset, slope, change

    def _integrals(self, root: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """E[(phi(u) - phi(v))^2] and A1 - A2 for r2 = root and r1 = root + step."""
        places, weights = np.polynomial.legendre.leggauss(3)
        places, weights = (places + 1) / 2, weights / 2
        # s = places[i], and the inner r below it at s * places[j]; the area is s ds.
        outer, inner = np.repeat(places, 3), np.outer(places, places).ravel()
        area = np.outer(weights * places, weights).ravel()
        rows = tf.constant(np.stack([outer, inner, 2 * area, np.repeat(weights / 3, 3) * 2]))

        def add(k: tf.Tensor, square: tf.Tensor, change: tf.Tensor) -> tuple:
            row = rows[:, k]
            above, below = root + row[0] * step, root + row[1] * step
            square += row[2] * self.dual.radial(above, below)
            return k + 1, square, change + row[3] * self.dual.growth(above)

        zero = tf.zeros_like(root + step)
        start = tf.constant(0), zero, zero
        _, square, change = tf.while_loop(lambda k, *_: k < 9, add, start, maximum_iterations=9)
        return step * step * square, step * change


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
