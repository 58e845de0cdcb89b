"""The recursion of NNGP and NTK over the layers, for one block of pairs, in one compiled loop.

With K^(l) the covariance of the pre-activations, T and T' the dual maps of the activation and A the
affine map (variances and, for a convolution, the average over its taps),

    K^(l+1) = A T(K^(l)),   Theta^(l+1) = K^(l+1) + weight_variance * mix(T'(K^(l)) Theta^(l))

(NTK paper, equations 2, 6, 27, 31). The loop carries the variances of each single signal and, for
each pair, the gap 1 - c instead of K. An affine map acts on squared distances linearly: for signals
normalised by scales t1, t2 that are constant over positions,

    d = E|z1 / t1 - z2 / t2|^2 = mix((f1 - f2)^2 + 2 f1 f2 gap_T) + bias_variance (1/t1 - 1/t2)^2
    gap = (d - (r1 - r2)^2) / (2 r1 r2)

with f^2 the share of the weights in E|z / t|^2, and r = |z| / t. Every term is a square or a
product of positive numbers, so 1 - c keeps its relative accuracy as c -> 1, and inputs whose
norms differ by any factor share no cancellation. A pair of an input with itself has gap zero: it is
set, and its kernels follow the scalar recursion.
"""

import math

import tensorflow as tf

__all__ = ["inverse", "propagate", "safe_sqrt", "start"]


def inverse(x):
    """1 / x, and zero at x = 0."""
    nonzero = tf.not_equal(x, 0)
    return tf.where(nonzero, 1 / tf.where(nonzero, x, tf.ones_like(x)), tf.zeros_like(x))


def safe_sqrt(x):
    """sqrt(x) with slope zero instead of infinity at x = 0."""
    positive = x > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, x, tf.ones_like(x))), tf.zeros_like(x))


def _normalise(q, geometry, bias_variance):
    root = safe_sqrt(q)
    inverse_norm = inverse(geometry.norm(root))
    radius = root * inverse_norm
    return {
        "q": q,
        "root": root,
        "inverse_norm": inverse_norm,
        "bias": safe_sqrt(bias_variance) * inverse_norm,
        "radius": radius,
        "inverse_radius": math.sqrt(0.5) * inverse(radius),
    }


def _prepare(q, dual, geometry, weight_variance, bias_variance, last):
    """What a layer needs of a signal [*spatial, b]: computed once, used by all its pairs."""
    second, slope = dual.moments(q)
    if last:  # the readout follows, and nothing may be left of the image for another convolution
        return {"side": dual.side(q), "weighted": safe_sqrt(weight_variance) * safe_sqrt(second)}
    following = weight_variance * geometry.mix_signal(second) + bias_variance
    signal = _normalise(following, geometry, bias_variance)
    weighted = safe_sqrt(weight_variance) * safe_sqrt(second)
    return signal | {
        "side": dual.side(q),
        "weighted": weighted,
        "weights": weighted * signal["inverse_norm"],
        "chi": weight_variance * tf.reduce_max(slope),
    }


def _pairs(distance, one, two, geometry, coincide):
    """The gap 1 - c and the covariance K from the normalised squared distance."""
    radius = geometry.first(one["radius"]) - geometry.second(two["radius"])
    scale = geometry.first(one["inverse_radius"]) * geometry.second(two["inverse_radius"])
    gap = tf.clip_by_value((distance - radius * radius) * scale, 0, 2)
    gap = tf.where(coincide, tf.zeros_like(gap), gap)
    return gap, geometry.first(one["root"]) * geometry.second(two["root"]) * (1 - gap)


def _bias_distance(one, two, geometry):
    difference = geometry.first(one["bias"]) - geometry.second(two["bias"])
    return difference * difference


def start(x1, x2, geometry, ids, weight_variance, bias_variance):
    """The first affine map, a convolution of images.

    Args:
        x1: images [channels, *spatial, b1].
        x2: images [channels, *spatial, b2].
        geometry: `geometry.Flatten` or `geometry.Pool`.
        ids: two vectors of integers, equal for equal inputs.
        weight_variance: scalar tensor.
        bias_variance: scalar tensor.

    Returns:
        (q1, q2, gap): variances of the signals and gaps of the pairs after the affine map.
    """
    signals = []
    for x in (x1, x2):
        q = weight_variance * geometry.mix_signal(tf.reduce_mean(x * x, axis=0)) + bias_variance
        signals.append(_normalise(q, geometry, bias_variance))
    one, two = signals
    channels = x1.shape[0]

    def distance(c):
        difference = geometry.first(x1[c] * one["inverse_norm"]) - geometry.second(
            x2[c] * two["inverse_norm"]
        )
        return difference * difference

    if channels <= 8:
        total = tf.add_n([distance(c) for c in range(channels)])
    else:
        shape = tf.broadcast_static_shape(geometry.first(x1[0]).shape, geometry.second(x2[0]).shape)
        _, total = tf.while_loop(
            lambda c, _: c < channels,
            lambda c, total: (c + 1, total + distance(c)),
            (0, tf.zeros(shape, x1.dtype)),
            maximum_iterations=channels,
        )
    coincide = geometry.coincide(*ids, one["q"].shape[:-1])
    squares = [
        tf.reduce_sum((x * signal["inverse_norm"]) ** 2, axis=0)
        for x, signal in ((x1, one), (x2, two))
    ]
    total = geometry.mix_pair(total) + geometry.beyond_edge(*squares)
    mixed = weight_variance / channels * total
    gap, _ = _pairs(mixed + _bias_distance(one, two, geometry), one, two, geometry, coincide)
    return one["q"], two["q"], gap


def propagate(q1, q2, gap, ids, segments, geometry, depth, parameters, *, scaled=False):
    """From the first pre-activations through `depth` activations to the readout.

    Args:
        q1: variances after the first affine map, [*spatial, b1].
        q2: the same of the second inputs.
        gap: 1 - c of the pairs (see `geometry` for the layout).
        ids: two vectors of integers, equal for equal inputs.
        segments: list of (start, stop, dual_at): layers in which the dual has one structure, and
            the function from a layer's index to its dual.
        geometry: see `geometry`.
        depth: number of hidden layers, a Python integer of at least one.
        parameters: (weight_variance, bias_variance), scalar tensors.
        scaled: whether the NTK is divided by exp(log_scale) on the way.

    Returns:
        (nngp, ntk, log_scale): kernels over pairs of inputs after the readout, and the logarithm
        of what the NTK was divided by (zero unless scaled).
    """
    weight_variance, bias_variance = parameters
    coincide = geometry.coincide(*ids, q1.shape[:-1])

    def prepare(q, layer, dual):
        last = geometry.shrinks and layer == depth - 1
        return _prepare(q, dual, geometry, weight_variance, bias_variance, last)

    def activate(dual, one, two, gap):
        side1 = tuple(geometry.first(a) for a in one["side"])
        side2 = tuple(geometry.second(a) for a in two["side"])
        return dual.pair(side1, side2, gap)

    def advance(dual_at, next_dual_at, layer, one, two, gap, theta, log_scale):
        output_gap, slope = activate(dual_at(layer), one, two, gap)
        weights1, weights2 = geometry.first(one["weights"]), geometry.second(two["weights"])
        difference = weights1 - weights2
        distance = geometry.mix_pair(difference * difference + 2 * weights1 * weights2 * output_gap)
        distance = distance + _bias_distance(one, two, geometry)
        distance = distance + geometry.beyond_edge(one["weights"] ** 2, two["weights"] ** 2)
        same = geometry.coincide(*ids, one["q"].shape[:-1]) if geometry.shrinks else coincide
        gap, covariance = _pairs(distance, one, two, geometry, same)
        theta = weight_variance * geometry.mix_pair(slope * theta)
        if scaled:
            # T' of a pair is at most the larger T' of its two signals: theta can't overflow.
            growth = tf.maximum(tf.maximum(one["chi"], two["chi"]), 1)
            log_scale = log_scale + tf.math.log(growth)
            theta = theta / growth + covariance * tf.exp(-log_scale)
        else:
            theta = theta + covariance
        following = layer + 1
        return (
            following,
            prepare(one["q"], following, next_dual_at(following)),
            prepare(two["q"], following, next_dual_at(following)),
            gap,
            theta,
            log_scale,
        )

    start_root = geometry.first(safe_sqrt(q1)) * geometry.second(safe_sqrt(q2))
    theta = start_root * (1 - gap)
    first = 0 if geometry.shrinks else tf.constant(0)
    dual_at = segments[0][2]
    signals = (prepare(q, 0, dual_at(0)) for q in (q1, q2))
    state = (first, *signals, gap, theta, tf.zeros([], gap.dtype))
    for index, (start_layer, stop, dual_at) in enumerate(segments):

        def body(*state, dual_at=dual_at):
            return advance(dual_at, dual_at, *state)

        if geometry.shrinks:
            for _ in range(start_layer, stop - 1):
                state = body(*state)
        elif stop - 1 > start_layer:
            state = tf.while_loop(
                lambda layer, *_, stop=stop: layer < stop - 1,
                body,
                state,
                maximum_iterations=stop - 1 - start_layer,
            )
        if index + 1 < len(segments):
            state = advance(dual_at, segments[index + 1][2], *state)
    layer, one, two, gap, theta, log_scale = state
    output_gap, slope = activate(dual_at(layer), one, two, gap)
    weighted = geometry.first(one["weighted"]) * geometry.second(two["weighted"])
    nngp = geometry.readout(weighted * (1 - output_gap)) + bias_variance
    ntk = nngp * tf.exp(-log_scale) + weight_variance * geometry.readout(slope * theta)
    return nngp, ntk, log_scale
