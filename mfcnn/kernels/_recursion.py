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

import functools
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
        "root": root,
        "inverse_norm": inverse_norm,
        "bias": safe_sqrt(bias_variance) * inverse_norm,
        "radius": radius,
        "inverse_radius": math.sqrt(0.5) * inverse(radius),
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
    q1, q2 = (
        weight_variance * geometry.mix_signal(tf.reduce_mean(x * x, axis=0)) + bias_variance
        for x in (x1, x2)
    )
    one, two = (_normalise(q, geometry, bias_variance) for q in (q1, q2))
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
    coincide = geometry.coincide(*ids, q1.shape[:-1])
    squares = [
        tf.reduce_sum((x * signal["inverse_norm"]) ** 2, axis=0)
        for x, signal in ((x1, one), (x2, two))
    ]
    total = geometry.mix_pair(total) + geometry.beyond_edge(*squares)
    mixed = weight_variance / channels * total
    gap, _ = _pairs(mixed + _bias_distance(one, two, geometry), one, two, geometry, coincide)
    return q1, q2, gap


def propagate(q1, q2, gap, ids, stages, geometry, parameters, *, scaled=False):
    """From the first pre-activations through the activations to the readout, at several depths.

    Args:
        q1: variances after the first affine map, [*spatial, b1], in float64.
        q2: the same of the second inputs.
        gap: 1 - c of the pairs (see `geometry` for the layout), in the dtype of the kernels.
        ids: two vectors of integers, equal for equal inputs.
        stages: list of (dual, stop, depths): the dual of the layers below `stop`, a scalar that the
            last stage ignores, and the numbers of hidden layers, ascending, to read out in this
            stage: a tensor, or a list of integers, which gradients under XLA and shrinking images
            need, as for `stop`.
        geometry: see `geometry`.
        parameters: (weight_variance, bias_variance), scalar tensors, in float64.
        scaled: whether the NTK is divided by exp(log_scale) on the way.

    Returns:
        (nngp, ntk, log_scale): kernels [depths, ...] over pairs of inputs after the readout, and
        the logarithms [depths] of what the NTKs were divided by (zero unless scaled).
    """
    weight_variance, bias_variance = (tf.cast(p, gap.dtype) for p in parameters)
    coincide = geometry.coincide(*ids, q1.shape[:-1])

    def narrow(signal):
        return tf.nest.map_structure(lambda a: tf.cast(a, gap.dtype), signal)

    def coinciding(spatial):
        return geometry.coincide(*ids, spatial) if geometry.shrinks else coincide

    def prepare(signal, dual):
        """What the next layer needs of a signal: computed once, used by all its pairs.

        In float64 whatever the pairs are in: an error of chi_1 that is the same in each layer
        adds up.
        """
        second = signal["second"]
        q = parameters[0] * geometry.mix_signal(second) + parameters[1]
        normal = _normalise(q, geometry, parameters[1])
        weights = safe_sqrt(parameters[0]) * safe_sqrt(second) * normal["inverse_norm"]
        return signal | narrow(normal | {"weights": weights}) | {"q": q, "side": sides(dual, q)}

    def sides(dual, q):
        return dual.side(q) if dual.keeps_float64 else narrow(dual.side(q))

    def activate(dual, q1, q2, side1, side2, gap, theta):
        """The signals behind the activation, the output gap, and T' Theta."""
        signals, slopes = [], []
        for q in (q1, q2):
            second, slope = dual.moments(q)
            chi = {"chi": narrow(parameters[0] * tf.reduce_max(slope))} if scaled else {}
            signals.append({"second": second} | chi)
            slopes.append(slope)
        output_gap, slope = dual.pair(
            [geometry.first(a) for a in side1], [geometry.second(a) for a in side2], gap
        )
        if gap.dtype == tf.float32:
            own = geometry.first(narrow(slopes[0]))
            slope = tf.where(coinciding(q1.shape[:-1]), own, slope)
        return *carried(signals, dual), output_gap, slope * theta

    def carried(signals, dual):
        # In the loop's state, so that XLA does not compute it for each pair. Behind the last layer
        # of a shrinking image there may be nothing left to prepare.
        return signals if geometry.shrinks else [prepare(signal, dual) for signal in signals]

    def step(dual, layer, one, two, output_gap, theta, *log_scale):
        """The affine map, then the activation."""
        if geometry.shrinks:
            one, two = prepare(one, dual), prepare(two, dual)
        first, second = geometry.first(one["weights"]), geometry.second(two["weights"])
        difference = first - second
        distance = geometry.mix_pair(difference * difference + 2 * first * second * output_gap)
        distance = distance + _bias_distance(one, two, geometry)
        distance = distance + geometry.beyond_edge(one["weights"] ** 2, two["weights"] ** 2)
        same = coinciding(one["q"].shape[:-1])
        gap, covariance = _pairs(distance, one, two, geometry, same)
        theta = weight_variance * geometry.mix_pair(theta)
        if scaled:
            # T' of a pair is at most the larger T' of its two signals: theta can't overflow.
            growth = tf.maximum(tf.maximum(one["chi"], two["chi"]), 1)
            log_scale = (log_scale[0] + tf.math.log(growth),)
            theta = theta / growth + covariance * tf.exp(-log_scale[0])
        else:
            theta = theta + covariance
        signals = one["q"], two["q"], one["side"], two["side"]
        return layer + 1, *activate(dual, *signals, gap, theta), *log_scale

    def read(state):
        _, one, two, output_gap, theta, *rest = state
        log_scale = rest[0] if scaled else tf.zeros([], gap.dtype)
        weighted1, weighted2 = (
            narrow(safe_sqrt(parameters[0]) * safe_sqrt(signal["second"])) for signal in (one, two)
        )
        weighted = geometry.first(weighted1) * geometry.second(weighted2)
        nngp = geometry.readout(weighted * (1 - output_gap)) + bias_variance
        ntk = nngp * tf.exp(-log_scale) + weight_variance * geometry.readout(theta)
        return nngp[None], ntk[None], log_scale[None]

    def forward(dual, state, stop):
        layer = functools.partial(step, dual)
        if geometry.shrinks:
            for _ in range(state[0], stop):
                state = layer(*state)
            return state
        known = stop if isinstance(stop, int) else None
        if known == 1:
            return state
        return tf.while_loop(lambda done, *_: done < stop, layer, state, maximum_iterations=known)

    def record(dual, state, depths):
        """Reads out in one loop over depths that are a tensor."""
        if depths.shape[0] == 1:
            state = forward(dual, state, depths[0])
            return state, read(state)

        def one_more(k, state, arrays):
            state = forward(dual, state, depths[k])
            return k + 1, state, [a.write(k, v[0]) for a, v in zip(arrays, read(state))]

        count = depths.shape[0]
        arrays = [tf.TensorArray(gap.dtype, count) for _ in range(3)]
        _, state, arrays = tf.while_loop(
            lambda k, *_: k < count, one_more, (tf.constant(0), state, arrays)
        )
        return state, tuple(array.stack() for array in arrays)

    root1, root2 = (narrow(safe_sqrt(q)) for q in (q1, q2))
    theta = geometry.first(root1) * geometry.second(root2) * (1 - gap)
    first_sides = (sides(stages[0][0], q) for q in (q1, q2))
    state = (
        1 if geometry.shrinks else tf.constant(1),
        *activate(stages[0][0], q1, q2, *first_sides, gap, theta),
    )
    if scaled:  # a constant in the state of several loops is an error on the way to XLA
        state += (tf.zeros([], gap.dtype),)
    results = []
    for k, (dual, stop, depths) in enumerate(stages):
        if tf.is_tensor(depths):
            state, kernels = record(dual, state, depths)
            results.append(kernels)
        else:
            for depth in depths:
                state = forward(dual, state, depth)
                results.append(read(state))
        if k + 1 < len(stages):
            layer, one, two, *rest = forward(dual, state, stop)
            # The side for the dual that follows.
            kept = [{k: v for k, v in a.items() if k in ("second", "chi")} for a in (one, two)]
            state = (layer, *carried(kept, stages[k + 1][0]), *rest)
    return tuple(tf.concat(parts, 0) for parts in zip(*results))
