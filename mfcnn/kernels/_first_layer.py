"""The first affine map: gaps 1 - c of pairs of inputs, to full relative accuracy.

With z = (sqrt(weight_variance) x, sqrt(bias_variance)) the inner products of z are the kernel. A
difference of products, q1 q2 - K^2, has no digits left where two inputs nearly coincide, or where
they are collinear and large. There it is taken as a sum of positive terms,

    1 - c^2 = [weight_variance^2 det(x, y) + weight_variance bias_variance |x - y|^2] / (q1 q2)
    det(x, y) = |x|^2 |y|^2 - (x y)^2 = |x|^2 |r|^2 - (x r)^2,   r = y - a x for any a.

The residual r is made in three steps whose factors a have 26 bits, as have the two halves of x:
every product is exact, and r keeps its own relative accuracy however small it is. The difference of
two variances, which is weight_variance <x - y, x + y>, is taken from x - y as well.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn.borrowed import GraphOrParentsInXlaContext, could_possibly_record
from mfcnn.kernels._distances import bias_distance, gap_of_distance, normal
from mfcnn.kernels._recursion import First
from mfcnn.numerics import inverse, safe_sqrt

__all__ = [
    "close_gaps",
    "convolutional",
    "fully_connected",
    "gap_of_products",
    "same_inputs",
    "suspects",
    "variance",
]

# Gaps below are computed anew: those of products, with an error of 1e-15; those of distances; and
# those far below the terms whose difference they are.
_CLOSE, _CLOSE_DISTANCE, _CANCELS = 1e-4, 1e-10, 1e-6
_HALVED_FROM, _HALVED_TO = 2**17, 2**21  # multiplications of a product that is made in halves
_HIGH_BITS = ~((1 << 27) - 1)  # of a float64: 26 of its 53 bits
_FACTORS = np.random.default_rng(0).integers(2**63, size=4096) | 1


def _in_xla() -> bool:
    return GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def variance(x: tf.Tensor, parameters: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Variances [n] after a dense layer, of inputs [n, features]."""
    return parameters[0] * tf.reduce_mean(x * x, 1) + parameters[1]


def fingerprints(x: tf.Tensor) -> tf.Tensor:
    """Integers [n] that are equal for equal inputs [n, ...], and else differ but once in 2^60."""
    x = tf.reshape(x, [-1, math.prod(x.shape[1:])])
    factors = tf.constant(np.resize(_FACTORS, x.shape[1]) + 2 * np.arange(x.shape[1]))
    bits = tf.bitcast(tf.stop_gradient(x) + 0.0, tf.int64)  # -0 is 0
    for _ in range(2):  # all bits of a product depend on the factor's bits, but not the reverse
        bits = bits * factors
        bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(31, tf.int64)))
    return tf.reduce_sum(bits * factors, 1)


def same_inputs(x1: tf.Tensor, x2: tf.Tensor | None, *, pairwise: bool = True) -> tf.Tensor:
    """Whether inputs are equal: [n1, n2], or [pairs] of two lists of one length."""
    one = fingerprints(x1)
    two = one if x2 is None else fingerprints(x2)
    return tf.equal(one[:, None], two[None, :]) if pairwise else tf.equal(one, two)


def fully_connected(
    x1: tf.Tensor, x2: tf.Tensor | None, parameters: tuple[tf.Tensor, tf.Tensor]
) -> First:
    """The first dense layer on inputs [n1, features] and [n2, features], or all pairs of x1.

    Before `close_gaps`, which `suspects` need.
    """
    q1 = variance(x1, parameters)
    second, q2 = (x1, q1) if x2 is None else (x2, variance(x2, parameters))
    same = tf.zeros([tf.shape(x1)[0], tf.shape(second)[0]], tf.bool)
    if x2 is None:
        same = tf.linalg.diag(tf.ones_like(q1)) > 0
    gap = gap_of_products(q1, q2, _products(x1, second), x1.shape[1], parameters)
    return First(q1, q2, gap, same)


def _products(x1: tf.Tensor, x2: tf.Tensor) -> tf.Tensor:
    """x1 x2^T [n1, n2] inside of a program.

    A small product as two of half the rows: XLA divides one between threads, whose waking costs
    more than the product itself (100 inputs of 100 features on two cores: 0.2 ms instead of 0.1).
    """
    (n1, features), n2 = x1.shape, x2.shape[0]
    if None in (n1, n2) or n1 % 2 or not _HALVED_FROM <= n1 * n2 * features <= _HALVED_TO:
        return tf.matmul(x1, x2, transpose_b=True)
    halves = tf.reshape(x1, [2, n1 // 2, features])
    both = tf.broadcast_to(x2, [2, n2, features])
    return tf.reshape(tf.matmul(halves, both, transpose_b=True), [n1, n2])


def gap_of_products(
    q1: tf.Tensor, q2: tf.Tensor, products: tf.Tensor, features: int, parameters: tuple
) -> tf.Tensor:
    """Gaps from inner products, to 1e-15 of one."""
    covariance = products * (parameters[0] / features) + parameters[1]
    root = safe_sqrt(q1)[:, None] * safe_sqrt(q2)[None, :]
    return tf.clip_by_value((root - covariance) * inverse(root), 0, 2)


def suspects(gap: tf.Tensor, same: tf.Tensor) -> tf.Tensor:
    """Pairs that are close, or equal without being known to be."""
    return tf.logical_and(gap < _CLOSE, tf.logical_not(same))


def close_gaps(x1: tf.Tensor, x2: tf.Tensor, first: First, layout: Any, parameters: tuple) -> First:
    """Gaps of close inputs once more, accurately, their q1 - q2, and which inputs are equal.

    Row by row, and of those rows alone that have close pairs: there are few of them, but none may
    be forgotten.
    """
    differences = layout.first(first.q1) - layout.second(first.q2)
    if not tf.executing_eagerly() and could_possibly_record() and _in_xla():
        # XLA has no gradient of a condition: equal inputs are found, near ones keep their rounding.
        same = tf.logical_or(first.same, same_inputs(x1, x2))
        return first._replace(same=same, difference=differences)

    def anew() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        same = tf.logical_or(first.same, same_inputs(x1, x2))
        close = suspects(first.gap, same)
        rows = tf.reduce_any(close, 1)
        patches = tf.transpose(x2)
        weights = tf.fill([tf.shape(x1)[1]], tf.constant(1 / x1.shape[1], tf.float64))

        def row(i: tf.Tensor, both: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            def accurate() -> tf.Tensor:
                own = First(first.q1[i, None], first.q2, both[0, i, None], same[i, None])
                exact = _accurate(x1[i, :, None], patches, weights, own, layout, parameters)
                apart = (x1[i, :, None] - patches) * (x1[i, :, None] + patches)
                apart = parameters[0] * tf.tensordot(weights, apart, 1)
                return tf.where(close[i], tf.stack([exact[0], apart]), both[:, i])

            value = tf.cond(rows[i], accurate, lambda: both[:, i])
            places = tf.stack([[0, i], [1, i]])
            return i + 1, tf.tensor_scatter_nd_update(both, places, value)

        count = first.gap.shape[0]
        _, both = tf.while_loop(
            lambda i, _: i < tf.shape(first.gap)[0],
            row,
            (tf.constant(0), tf.stack([first.gap, differences])),
            maximum_iterations=count,
        )
        return both[0], both[1], same

    some = tf.reduce_any(suspects(first.gap, first.same))
    gap, differences, same = tf.cond(some, anew, lambda: (first.gap, differences, first.same))
    return first._replace(gap=gap, same=same, difference=differences)


def convolutional(
    x1: tf.Tensor, x2: tf.Tensor, same: tf.Tensor, layout: Any, parameters: tuple, accurate: bool
) -> tuple[First, tf.Tensor]:
    """The first convolution on images [channels, *spatial, b1] and [channels, *spatial, b2].

    Returns:
        The signals, and whether some patches are so close that their gaps have no digits but with
        `accurate`.
    """
    images = [x1] if x1 is x2 else [x1, x2]
    variances = [
        parameters[0] * layout.mix_signal(tf.reduce_mean(x * x, axis=0)) + parameters[1]
        for x in images
    ]
    normals = [normal(q, layout, parameters[1]) for q in variances]
    scaled = [x * side.inverse_norm for x, side in zip(images, normals)]
    q1, q2, one, two = variances[0], variances[-1], normals[0], normals[-1]
    total = layout.mix_pair(_over_channels(_squared_difference, scaled[0], scaled[-1], layout))
    squares = [tf.reduce_sum(x * x, axis=0) for x in scaled]
    beyond = layout.beyond_edge(squares[0], squares[-1])
    total = (total + beyond) * (parameters[0] / x1.shape[0])
    total = total + bias_distance(one, two, layout)
    gap = gap_of_distance(total, one, two, layout)
    # A pair of equal patches has distance zero; where its radii cancel it, no digit is left.
    own = layout.coincide(same, q1.shape[:-1])
    terms = total * layout.first(one.half) * layout.second(two.half)
    close = gap < tf.maximum(_CANCELS * terms, _CLOSE_DISTANCE)
    close = tf.logical_and(close, tf.logical_and(total > 0, tf.logical_not(own)))
    first = First(q1, q2, gap, same)
    if accurate:
        first = first._replace(difference=_differences(x1, x2, layout, parameters))

    def anew() -> tf.Tensor:
        (patches1, weights), (patches2, _) = layout.patches(x1), layout.patches(x2)
        exact = _accurate(patches1, patches2, weights, first, layout, parameters)
        return tf.where(close, exact, gap)

    # Images whose positions are all close, and images with some that rounding has reached.
    whole = tf.reduce_max(layout.equal_positions(gap), list(range(q1.shape.rank - 1)))
    some = tf.logical_or(tf.reduce_any(close), tf.reduce_any(suspects(whole, same)))
    if accurate and not (could_possibly_record() and _in_xla()):
        first = first._replace(gap=tf.cond(some, anew, lambda: gap))
    return first, some


def _differences(x1: tf.Tensor, x2: tf.Tensor, layout: Any, parameters: tuple) -> tf.Tensor:
    """q1 - q2 of pairs of positions, from x1 - x2."""
    squares = [tf.reduce_sum(x * x, axis=0) for x in (x1, x2)]
    total = layout.mix_pair(_over_channels(_difference_of_squares, x1, x2, layout))
    total += layout.beyond_edge(squares[0], -squares[1])
    return total * (parameters[0] / x1.shape[0])


def _squared_difference(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return (x - y) ** 2


def _difference_of_squares(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return (x - y) * (x + y)


def _over_channels(term: Callable, x1: tf.Tensor, x2: tf.Tensor, layout: Any) -> tf.Tensor:
    """Sums over channels of a function of two values, at all pairs of positions of the layout."""

    def value(c: Any) -> tf.Tensor:
        return term(layout.first(x1[c]), layout.second(x2[c]))

    channels = x1.shape[0]
    if channels <= 8:
        return tf.add_n([value(c) for c in range(channels)])
    zeros = tf.zeros_like(layout.first(x1[0]) + layout.second(x2[0]))
    return tf.while_loop(
        lambda c, _: c < channels,
        lambda c, total: (c + 1, total + value(c)),
        (0, zeros),
        maximum_iterations=channels,
    )[1]


def _halves(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """X as a sum of two floats of 26 and 27 bits; the first is a constant to gradients."""
    bits = tf.bitwise.bitwise_and(tf.bitcast(tf.stop_gradient(x), tf.int64), _HIGH_BITS)
    high = tf.bitcast(bits, tf.float64)
    return high, x - high


def _power_of_two(x: tf.Tensor) -> tf.Tensor:
    """A power of two near x > 0, so that scaling by it is exact; one at zero."""
    x = tf.stop_gradient(tf.where(x > 0, x, tf.ones_like(x)))
    mantissa = (1 << 52) - 1
    return tf.bitcast(tf.bitwise.bitwise_and(tf.bitcast(x, tf.int64), ~mantissa), tf.float64)


def _accurate(
    x1: tf.Tensor, x2: tf.Tensor, weights: tf.Tensor, first: First, layout: Any, parameters: tuple
) -> tf.Tensor:
    """Gaps of close pairs of inputs [features, *spatial, b], with weights [features] of sum one."""

    def total(products: tf.Tensor) -> tf.Tensor:
        return tf.tensordot(weights, products, 1)

    squares = total(x1 * x1), total(x2 * x2)
    scale1, scale2 = (_power_of_two(safe_sqrt(square)) for square in squares)
    x, y = layout.first(x1 / scale1), layout.second(x2 / scale2)
    high, low = _halves(x)
    square = total(x * x)
    residual = y + tf.zeros_like(x)
    for _ in range(3):
        factor, _ = _halves(total(x * residual) * inverse(square))
        factor = tf.stop_gradient(factor)
        residual = (residual - factor * high) - factor * low
    determinant = square * total(residual * residual) - total(x * residual) ** 2
    difference = layout.first(x1) - layout.second(x2)
    distance = total(difference * difference)
    inverse1, inverse2 = layout.first(inverse(first.q1)), layout.second(inverse(first.q2))
    scales = layout.first(scale1 * scale1) * inverse1 * (layout.second(scale2 * scale2) * inverse2)
    weight_variance, bias_variance = parameters
    sine = weight_variance**2 * determinant * scales
    sine += weight_variance * bias_variance * distance * inverse1 * inverse2
    sine = tf.clip_by_value(sine, 0, 1)
    return sine / (1 + safe_sqrt(1 - sine))
