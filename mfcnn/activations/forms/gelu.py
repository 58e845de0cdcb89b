"""x Phi(x), Phi the normal distribution function, or its approximation by tanh."""

import math

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._close import Close, gap_of_squares, turn
from mfcnn.activations._dual import Dual, Side, angle, constant
from mfcnn.activations._registry import form
from mfcnn.numerics import inverse, safe_sqrt


def _density(x: tf.Tensor) -> tf.Tensor:
    return tf.exp(-tf.square(x) / 2) * constant(1 / math.sqrt(2 * math.pi), x)


def _distribution(x: tf.Tensor) -> tf.Tensor:
    return tf.math.erfc(x * constant(-math.sqrt(0.5), x)) / 2


def _gelu(x: tf.Tensor) -> tf.Tensor:
    return x * _distribution(x)


def _derivative(x: tf.Tensor) -> tf.Tensor:
    return _distribution(x) + x * _density(x)


def _inner(x: tf.Tensor) -> tf.Tensor:
    return constant(math.sqrt(2 / math.pi), x) * (x + constant(0.044715, x) * x * x * x)


def _approximate(x: tf.Tensor) -> tf.Tensor:
    return x * (1 + tf.tanh(_inner(x))) / 2


def _approximate_derivative(x: tf.Tensor) -> tf.Tensor:
    t = tf.tanh(_inner(x))
    slope = constant(math.sqrt(2 / math.pi), x) * (1 + constant(3 * 0.044715, x) * x * x)
    return (1 + t) / 2 + x * (1 - t) * (1 + t) * slope / 2


class _Gelu(Dual):
    """phi(x) = x Phi(x), Phi the normal distribution function.

    With D = (1 + q1) (1 + q2) - q12^2, c = q12 / sqrt(q1 q2), rho = q12 / sqrt((1 + q1) (1 + q2)),
    f = 1 / (1 + q1) / (1 + q2) and g = 1 / (1 + q1) + 1 / (1 + q2), Stein's lemma on
    E[u v Phi(u) Phi(v)] gives a sum of terms of one sign for c >= 0,

        T = q12 (1/4 + arcsin(rho) / 2 pi) + q1 q2 (1 - c^2 + c^2 g) / (2 pi sqrt(D));

    its derivative by q12 is T' (Price): 1/4 + arcsin(rho) / 2 pi
        + q12 (g + f / (1 - rho^2)) / (2 pi sqrt(D)).
    """

    def moments(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        value, derivative = self._maps(q, q, q, tf.zeros_like(q))
        return value, derivative

    def side(self, q: tf.Tensor) -> Side:
        return q, tf.sqrt(q), inverse(safe_sqrt(self.moments(q)[0]))

    def pair(self, side1: Side, side2: Side, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        (q1, root1, inverse1), (q2, root2, inverse2) = side1, side2
        value, derivative = self._maps(q1, q2, root1 * root2, gap)
        return 1 - value * (inverse1 * inverse2), derivative

    def _maps(
        self, q1: tf.Tensor, q2: tf.Tensor, product: tf.Tensor, gap: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        free1, free2 = 1 / (1 + q1), 1 / (1 + q2)
        q12 = product * (1 - gap)
        # D divided by (1 + q1) (1 + q2), 1 - rho^2, as a sum of positive terms.
        f, g, bend = free1 * free2, free1 + free2, gap * (2 - gap)
        root = tf.sqrt(f)
        k = product * root
        cosine = tf.sqrt(g - f + k * k * bend)
        orthant = 0.25 + angle(k * (1 - gap), cosine) / (2 * math.pi)
        density = root / (2 * math.pi * cosine)
        value = q12 * orthant + density * product * product * (bend + (1 - bend) * g)
        return value, orthant + density * q12 * (g + f / (cosine * cosine))

    @property
    def close(self) -> Close:
        return _CloseGelu(self)


class _CloseGelu(Close):
    """All digits, from E[(phi(u) - phi(v))^2] without cancellation.

    With D1 = 1 + 2 q1 and D2, i = D^(-1/2), E the mean of D1 and D2, which is D at c = 1, and t the
    angles of sin t = rho, the distance at c = 1 is

        (r1 - r2)^2 / 4 + [(r1 - r2)^2 t + q1 (t1 - t) + q2 (t2 - t) + f1 i1 + f2 i2 - 2 f i] / 2 pi

    whose last terms are second differences, products of q1 - q2 with itself; and it grows by
    2 (T(1) - T(c)), which is a product with the gap. Where the variances are far apart the output
    gap at c = 1 follows from 1 - 2 A / q and 1 - 2 T / sqrt(q1 q2), which are small at large
    variances, where the function is nearly relu.
    """

    def side(self, q: tf.Tensor) -> Side:
        free = 1 / (1 + q)
        sine, size = q * free, tf.sqrt(1 + 2 * q)
        cosine = size * free
        turned = angle(sine, cosine)
        second = safe_sqrt(self.dual.moments(q)[0])
        bent = (angle(cosine, sine) - 2 * sine / size) / math.pi  # 1 - 2 A / q
        own = q, tf.sqrt(q), free, sine, cosine, size, turned
        return second, bent, *own, *self.dual.side(q)

    def pair(
        self, side1: Side, side2: Side, gap: tf.Tensor, difference: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        second1, bent1, one, own1 = *side1[:2], side1[2:9], side1[9:]
        second2, bent2, two, own2 = *side2[:2], side2[2:9], side2[9:]
        plain, slope = self.dual.pair(own1, own2, gap)
        change, distance = self._equal(one, two, difference)
        # Either way to the gap at c = 1 has one rounding of what it starts from: of the square of
        # the difference, or of the angles 1 / sqrt(1 + 2 q).
        apart = difference / (one[0] + two[0])
        equal = tf.where(
            apart * apart < 1 / one[5] + 1 / two[5],
            gap_of_squares(distance, second1, second2, change),
            self._far(one, two, bent1, bent2),
        )
        rise = self._fall(one, two, gap) * (inverse(second1) * inverse(second2))
        return tf.where(gap < 1, equal + rise, plain), slope, change

    @staticmethod
    def _far(one: Side, two: Side, bent1: tf.Tensor, bent2: tf.Tensor) -> tf.Tensor:
        """The output gap at c = 1 of variances that are not close."""
        (_, root1, free1, _, _, size1, _), (_, root2, free2, _, _, size2, _) = one, two
        p, middle = root1 * root2, tf.sqrt((size1 * size1 + size2 * size2) / 2)
        root = tf.sqrt(free1 * free2)
        bent = (angle(middle * root, p * root) - p * (free1 + free2) / middle) / math.pi
        both = bent1 + bent2 - bent1 * bent2
        size = tf.sqrt(1 - both)  # 2 sqrt(A1 A2 / (q1 q2)), where T is (1 - bent) / 2
        return (bent - both / (1 + size)) / size

    @staticmethod
    def _equal(one: Side, two: Side, difference: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """A1 - A2, and E[(phi(u) - phi(v))^2] at c = 1."""
        (q1, root1, free1, sine1, cosine1, size1, turned1) = one
        (q2, root2, free2, sine2, cosine2, size2, turned2) = two
        roots = difference * inverse(root1 + root2)
        sines = difference * (free1 * free2)
        turned = turn(sine1, cosine1, sine2, cosine2, sines)
        angles = angle(*turned)  # t1 - t2
        sizes = 2 * difference / (size1 + size2)
        inverses = -sizes / (size1 * size2)
        # f = 2 q^2 / (1 + q), and A = q / 4 + (q t + f i) / 2 pi.
        f2 = 2 * q2 * sine2
        rise = 2 * (difference * sine1 + q2 * sines)
        change = difference * turned1 + q2 * angles + rise / size1 + f2 * inverses
        change = difference / 4 + change / (2 * math.pi)
        # The angle t at c = 1; D there is the mean of D1 and D2.
        middle = tf.sqrt((size1 * size1 + size2 * size2) / 2)
        cosine = middle * tf.sqrt(free1 * free2)
        rho = root1 * root2 * tf.sqrt(free1 * free2)
        t = angle(rho, cosine)
        # The mean s of t1 and t2, and s - t, since sin(s - t) sin(s + t) = sin^2((t1 - t2) / 2).
        apart = turned[0] * turned[0] / (2 * (1 + turned[1]))
        sine, rest = tf.sqrt(rho * rho + apart), safe_sqrt(cosine * cosine - apart)
        lag = tf.asin(tf.minimum(apart * inverse(sine * cosine + rest * rho), 1))
        # q1 (t1 - t) + q2 (t2 - t): t1 - t is (t1 - t2) / 2 + lag.
        total = roots * roots * t + difference * angles / 2 + (q1 + q2) * lag
        # i1 - i and i1 + i2 - 2 i of the three inverse roots.
        step = -difference / (size1 * middle * (size1 + middle))
        curve = difference * sizes * (size1 + size2 + middle)
        curve /= middle * size1 * size2 * (size1 + middle) * (size2 + middle)
        bend = 2 * sines * difference / middle + rise * step + f2 * curve
        return change, roots * roots / 4 + (total + bend) / (2 * math.pi)

    @staticmethod
    def _fall(one: Side, two: Side, gap: tf.Tensor) -> tf.Tensor:
        """T at c = 1 less T at c, for c > 0."""
        (_, root1, free1, _, _, size1, _), (_, root2, free2, _, _, size2, _) = one, two
        gap = tf.minimum(gap, 1)
        p, free = root1 * root2, free1 * free2
        bend = gap * (2 - gap)  # 1 - c^2
        k = p * tf.sqrt(free)
        equal = (size1 * size1 + size2 * size2) / 2  # D at c = 1, and behind it D at c
        whole = equal + p * p * bend
        first, then = tf.sqrt(equal * free), tf.sqrt(whole * free)
        sine = k * bend * inverse(then + (1 - gap) * first)
        drop = angle(sine, first * then + k * k * (1 - gap))
        turned = angle(k * (1 - gap), then)
        # The terms f i with f = p^2 (1 - c^2 + c^2 g), of the dual, and D i^2 = 1.
        g, (root, larger) = one[2] + two[2], (tf.sqrt(equal), tf.sqrt(whole))
        rest = g * p * p * bend / (root * larger * (root + larger)) - bend * (1 - g) / larger
        return p * gap / 4 + p * (drop + gap * turned + p * rest) / (2 * math.pi)


@form("gelu", functions=(tf.nn.gelu, keras.activations.gelu))
def build(approximate: bool = False) -> Activation:
    """The exact function has a closed form, the approximation has none."""
    if approximate:
        return Activation(_approximate, _approximate_derivative)
    return Activation(_gelu, _derivative, dual=_Gelu())
