"""Dual maps of an activation: E[phi(u) phi(v)] and E[phi'(u) phi'(v)] for Gaussian (u, v).

(u, v) is centred with variances q1 and q2 and covariance q12 = c sqrt(q1 q2). A dual works with the
gap 1 - c rather than with c, because everything that happens at large depth happens at c -> 1,
where 1 - c keeps digits that c has lost. It has three methods:

    moments(q)          A = E[phi(u)^2] and E[phi'(u)^2]
    side(q)             what `pair` needs of one variance: computed once for a row, not for a pair
    pair(s1, s2, gap)   the output gap 1 - E[phi(u) phi(v)] / sqrt(A1 A2), and E[phi'(u) phi'(v)]

`keeps_float64` says that sides stay in float64 where pairs are in float32.

All are element-wise, broadcast, differentiate, and run in tf.function with or without XLA in
float32 and float64. `dual_maps` is the plain T(q1, q2, q12) on top of them.

Sources: erf, C. Williams (1997); piecewise linear, Y. Cho and L. Saul (2009); gelu, sin, cos, exp
and Gaussian by Stein's lemma and completion of the square (derivations beside each); hard_tanh in
`dual_hard_tanh`, activations without a closed form in `dual_numerical`.
"""

import math

import numpy as np
import tensorflow as tf

from mfcnn.activations import dual_hard_tanh, dual_numerical, library

__all__ = ["closed_form_dual", "dual_maps", "leaky_relu_dual"]

# arcsin(sqrt(y)) / sqrt(y) on [0, 1/2], interpolated at Chebyshev nodes in exact arithmetic: error
# 2e-17 with 19 terms, 3e-9 with 9. XLA's own arcsin takes four times as long on a CPU.
_ARCSIN = {
    tf.float64: (
        1.0,
        0.16666666666664987,
        0.07500000000401816,
        0.044642856762615,
        0.030381963396751827,
        0.022371584779320355,
        0.017364281439103527,
        0.01380344589589198,
        0.013191002571753903,
        -0.002601537848299688,
        0.07871611357002127,
        -0.2968705430689824,
        1.0082016650534187,
        -2.4908808126226116,
        4.6420689099888435,
        -6.229299875397985,
        5.7579408313146985,
        -3.278933156739812,
        0.8892904367638688,
    ),
    tf.float32: (
        1.0000000016226234,
        0.16666614237824284,
        0.07502757316352404,
        0.04409161673371687,
        0.03581423928401177,
        -0.0070205791522944755,
        0.10740002130174647,
        -0.13591627123984387,
        0.12391349490512975,
    ),
}


def _arcsin_ratio(y):
    """arcsin(sqrt(y)) / sqrt(y) for 0 <= y <= 1/2."""
    coefficients = _ARCSIN[y.dtype]
    value = tf.constant(coefficients[-1], y.dtype)
    for coefficient in coefficients[-2::-1]:
        value = value * y + tf.constant(coefficient, y.dtype)
    return value


def _angle(sine, cosine):
    """The angle in [-pi/2, pi/2] of a given sine and non-negative cosine, both accurate."""
    magnitude = tf.abs(sine)
    near_zero = magnitude <= cosine
    smaller = tf.where(near_zero, magnitude, cosine)
    value = smaller * _arcsin_ratio(smaller * smaller)
    value = tf.where(near_zero, value, math.pi / 2 - value)
    return tf.where(sine < 0, -value, value)


def _safe_sqrt(x):
    """sqrt(x) with slope zero instead of infinity at x = 0."""
    positive = x > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, x, tf.ones_like(x))), tf.zeros_like(x))


def _inverse(x):
    """1 / x, and zero at x = 0: a factor that multiplies something that is zero there."""
    nonzero = tf.not_equal(x, 0)
    return tf.where(nonzero, 1 / tf.where(nonzero, x, tf.ones_like(x)), tf.zeros_like(x))


class _ClosedForm:
    """What all duals here share."""

    keeps_float64 = False


class _Linear(_ClosedForm):
    """phi(x) = x."""

    def moments(self, q):
        return q, tf.ones_like(q)

    def side(self, q):
        return (q,)

    def pair(self, side1, side2, gap):
        return gap, tf.ones_like(gap * side1[0] * side2[0])


class _PiecewiseLinear(_ClosedForm):
    """phi(x) = a x + b |x|: relu, leaky relu, abs.

    The cross terms vanish by symmetry: T = a^2 q12 + b^2 E|uv|, with Cho and Saul's
    E|uv| = sqrt(q1 q2) (2/pi) (sin t + (pi/2 - t) cos t), c = cos t; it is homogeneous, so the
    normalised map does not depend on the variances.
    """

    def __init__(self, negative_slope):
        self._odd, self._even = ((1 + negative_slope) / 2) ** 2, ((1 - negative_slope) / 2) ** 2

    def moments(self, q):
        total = self._odd + self._even
        return total * q, total * tf.ones_like(q)

    def side(self, q):
        return (q,)

    def pair(self, side1, side2, gap):
        gap = gap + tf.zeros_like(side1[0] * side2[0])
        # The angle from sin(t/2)^2 = gap / 2 or cos(t/2)^2 = 1 - gap / 2, whichever is smaller:
        # full relative accuracy at c = 1 and c = -1, where arccos(c) loses half of the digits.
        acute = gap <= 1
        half = tf.where(acute, gap, 2 - gap) / 2
        angle = 2 * _safe_sqrt(half) * _arcsin_ratio(half)
        angle = tf.where(acute, angle, math.pi - angle)
        sine = _safe_sqrt(gap * (2 - gap))
        bend = (2 / math.pi) * (sine - angle * (1 - gap))
        output_gap = gap - self._even / (self._odd + self._even) * bend
        return output_gap, self._odd + self._even * (1 - (2 / math.pi) * angle)


class _Erf(_ClosedForm):
    """phi(x) = erf(x): T = (2/pi) arcsin(2 q12 / sqrt((1 + 2 q1) (1 + 2 q2)))."""

    def moments(self, q):
        free = 1 / (1 + 2 * q)
        # cos of the angle of sin = 2 q / (1 + 2 q): exact for q -> 0 and q -> infinity.
        cosine = tf.sqrt(free * (2 - free))
        return (2 / math.pi) * _angle(2 * q * free, cosine), (4 / math.pi) * free / cosine

    def side(self, q):
        free = 1 / (1 + 2 * q)
        return (
            free,
            tf.sqrt(free),
            _safe_sqrt(2 * q * free),
            _inverse(_safe_sqrt(self.moments(q)[0])),
        )

    def pair(self, side1, side2, gap):
        (free1, root1, k1, inverse1), (free2, root2, k2, inverse2) = side1, side2
        k = k1 * k2
        # 1 - rho^2 as a sum of positive terms; its root serves the arcsine and the derivative.
        cosine = tf.sqrt(free1 + free2 - free1 * free2 + k * k * gap * (2 - gap))
        angle = _angle(k * (1 - gap), cosine)
        output_gap = 1 - (2 / math.pi) * angle * (inverse1 * inverse2)
        return output_gap, (4 / math.pi) * (root1 * root2) / cosine


class _Exponential(_ClosedForm):
    """phi(x) = exp(x): T = exp((q1 + q2) / 2 + q12)."""

    def moments(self, q):
        second = tf.exp(2 * q)
        return second, second

    def side(self, q):
        return tf.sqrt(q), tf.exp(q)

    def pair(self, side1, side2, gap):
        (root1, a1), (root2, a2) = side1, side2
        half_distance = (root1 - root2) ** 2 / 2 + root1 * root2 * gap
        output_gap = -tf.math.expm1(-half_distance)
        return output_gap, a1 * a2 * (1 - output_gap)


class _Sinusoid(_ClosedForm):
    """phi = sin or cos: E[sin sin] and E[cos cos] = (exp(-d / 2) -+ exp(-m / 2)) / 2.

    d and m are the variances of u - v and u + v; the derivative of one is the other.
    """

    def __init__(self, sine):
        self._sine = sine

    def _products(self, q12, minus):
        # exp(-(q1 + q2) / 2) sinh(q12) and cosh(q12); `minus` is exp(|q12| - (q1 + q2) / 2).
        magnitude = tf.abs(q12)
        decay = -tf.math.expm1(-2 * magnitude)
        return tf.sign(q12) * minus * decay / 2, minus * (2 - decay) / 2

    def moments(self, q):
        sine, cosine = self._products(q, tf.ones_like(q))
        return (sine, cosine) if self._sine else (cosine, sine)

    def side(self, q):
        return tf.sqrt(q), _inverse(_safe_sqrt(self.moments(q)[0]))

    def pair(self, side1, side2, gap):
        (root1, inverse1), (root2, inverse2) = side1, side2
        product = root1 * root2
        # |q12| - (q1 + q2) / 2 = -(r1 - r2)^2 / 2 - r1 r2 (1 - |c|), never positive.
        nearer = tf.minimum(gap, 2 - gap)
        minus = tf.exp(-((root1 - root2) ** 2) / 2 - product * nearer)
        sine, cosine = self._products(product * (1 - gap), minus)
        value, derivative = (sine, cosine) if self._sine else (cosine, sine)
        return 1 - value * (inverse1 * inverse2), derivative


class _Gaussian(_ClosedForm):
    """phi(x) = exp(-a x^2): T = D^(-1/2), D = (1 + 2 a q1) (1 + 2 a q2) - (2 a q12)^2.

    Completing the square leaves a Gaussian with covariance q12 / D between u and v, so
    E[phi' phi'] = 4 a^2 q12 D^(-3/2).
    """

    def __init__(self, a):
        self._a = a

    def moments(self, q):
        second = 1 / tf.sqrt(1 + 4 * self._a * q)
        return second, 4 * self._a**2 * q * second**3

    def side(self, q):
        free = 1 / (1 + 2 * self._a * q)
        return free, tf.sqrt(q), tf.pow((2 - free) / free, 0.25)

    def pair(self, side1, side2, gap):
        (free1, root1, inverse1), (free2, root2, inverse2) = side1, side2
        product = root1 * root2
        free = free1 * free2
        # D divided by (1 + 2 a q1) (1 + 2 a q2), as a sum of positive terms.
        k = 2 * self._a * product
        relative = free1 + free2 - free + k * k * free * gap * (2 - gap)
        value = tf.sqrt(free / relative)
        derivative = 4 * self._a**2 * product * (1 - gap) * value**3
        return 1 - value * (inverse1 * inverse2), derivative


class _Gelu(_ClosedForm):
    """phi(x) = x Phi(x), Phi the normal distribution function.

    Stein's lemma on E[u v Phi(u) Phi(v)], with D = (1 + q1) (1 + q2) - q12^2, gives
    T = q12 (1/4 + arcsin(rho) / 2 pi) + (q1 q2 + k q12^2) / (2 pi sqrt(D)),
    k = (1 - q1 q2) / ((1 + q1) (1 + q2)), rho = q12 / sqrt((1 + q1) (1 + q2));
    T' is its derivative by q12 (Price).
    """

    def moments(self, q):
        value, derivative = self._maps(q, q, q, tf.zeros_like(q))
        return value, derivative

    def side(self, q):
        return q, tf.sqrt(q), _inverse(_safe_sqrt(self.moments(q)[0]))

    def pair(self, side1, side2, gap):
        (q1, root1, inverse1), (q2, root2, inverse2) = side1, side2
        value, derivative = self._maps(q1, q2, root1 * root2, gap)
        return 1 - value * (inverse1 * inverse2), derivative

    def _maps(self, q1, q2, product, gap):
        free1, free2 = 1 / (1 + q1), 1 / (1 + q2)
        q12 = product * (1 - gap)
        # D divided by (1 + q1) (1 + q2), as a sum of positive terms.
        root = tf.sqrt(free1 * free2)
        k = product * root
        cosine = tf.sqrt(free1 + free2 - free1 * free2 + k * k * gap * (2 - gap))
        orthant = 0.25 + _angle(k * (1 - gap), cosine) / (2 * math.pi)
        density = root / (2 * math.pi * cosine)
        # q1 q2 / ((1 + q1)(1 + q2)) written without overflow.
        curvature = free1 * free2 - (q1 * free1) * (q2 * free2)
        form = product * product + curvature * q12 * q12
        value = q12 * orthant + density * form
        slope = 1 + 2 * curvature + form * (root / cosine) ** 2
        return value, orthant + density * q12 * slope


_CLOSED_FORMS = {
    "linear": _Linear(),
    "relu": _PiecewiseLinear(0.0),
    "leaky_relu": _PiecewiseLinear(0.2),
    "abs": _PiecewiseLinear(-1.0),
    "erf": _Erf(),
    "sin": _Sinusoid(sine=True),
    "cos": _Sinusoid(sine=False),
    "exp": _Exponential(),
    "gaussian": _Gaussian(1.0),
    "gelu": _Gelu(),
    "hard_tanh": dual_hard_tanh.HardTanh(),
}


def leaky_relu_dual(negative_slope):
    """The closed-form dual of phi(x) = max(x, negative_slope * x)."""
    return _PiecewiseLinear(negative_slope)


def closed_form_dual(activation):
    """The closed-form dual of one of the library's activations, or None when there is none.

    Args:
        activation: a name or a `mfcnn.activations.Activation`.
    """
    activation = library.get(activation)
    # A user's activation may carry a library name: only the library's own object has its form.
    known = activation.name in library.NAMES and activation is library.get(activation.name)
    return _CLOSED_FORMS.get(activation.name) if known else None


def dual_maps(activation, q1, q2, q12):
    """E[phi(u) phi(v)] and E[phi'(u) phi'(v)] for (u, v) ~ N(0, [[q1, q12], [q12, q2]]).

    Args:
        activation: a name or a `mfcnn.activations.Activation`.
        q1: variances of u, non-negative, float64 or float32.
        q2: variances of v, of the same dtype; the three arguments broadcast.
        q12: covariances; values beyond sqrt(q1 q2) by rounding count as correlation one.

    Returns:
        (T, T'), tensors of the broadcast shape. An activation without a closed form is tabulated
        for the range of the given variances, which must therefore be eager tensors.

    Raises:
        ValueError: for a negative or non-finite variance (eager arguments), and see
            `dual_numerical.build_table`.
    """
    q1 = tf.convert_to_tensor(q1, None if hasattr(q1, "dtype") else tf.float64)
    q2, q12 = tf.convert_to_tensor(q2, q1.dtype), tf.convert_to_tensor(q12, q1.dtype)
    for name, q in (("q1", q1), ("q2", q2)):
        if tf.executing_eagerly() and not np.all((q.numpy() >= 0) & np.isfinite(q.numpy())):
            raise ValueError(f"{name} must be finite and not negative. Received: {name}={q}")
    dual = closed_form_dual(activation)
    if dual is None:
        low = min(np.min(q1.numpy()), np.min(q2.numpy()))
        high = max(np.max(q1.numpy()), np.max(q2.numpy()))
        table = dual_numerical.build_table(library.get(activation), float(low), float(high))
        dual = dual_numerical.TabulatedDual(table, q1.dtype)
    # Roots apart: their product neither overflows nor underflows, and it is q1 for q1 == q2.
    root = tf.where(q1 == q2, q1, _safe_sqrt(q1) * _safe_sqrt(q2))
    gap = tf.clip_by_value((root - q12) * _inverse(root), 0, 2)
    output_gap, derivative = dual.pair(dual.side(q1), dual.side(q2), gap)
    scale = _safe_sqrt(dual.moments(q1)[0]) * _safe_sqrt(dual.moments(q2)[0])
    return scale * (1 - output_gap), derivative
