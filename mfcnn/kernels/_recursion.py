"""The NNGP and NTK recursions in terms of gaps 1 - c, for one block of pairs.

Subtracting covariances loses the digits that decide everything in the chaotic phase, where 1 - c
grows by chi_1 in each layer. So the recursion carries the variances of each single signal and, for
each pair, the gap 1 - c instead of K. An affine map acts on squared distances linearly: for signals
normalised by scales t1, t2 that are constant over positions,

    d = E|z1 / t1 - z2 / t2|^2 = mix((f1 - f2)^2 + 2 f1 f2 gap_T) + bias_variance (1/t1 - 1/t2)^2
    gap = (d - (r1 - r2)^2) / (2 r1 r2)

with f^2 the share of the weights in E|z / t|^2, and r = |z| / t. Every term is a square or a
product of positive numbers, so 1 - c keeps its relative accuracy as c -> 1, and inputs whose
norms differ by any factor share no cancellation. A pair of an input with itself has gap zero: it is
set, and its kernels follow the scalar recursion.

Signals are in float64 whatever the pairs are in: an error of chi_1 that is the same in each layer
adds up.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mfcnn.numerics import inverse, safe_sqrt

__all__ = ["First", "Normal", "Stage", "bias_distance", "gap_of_distance", "normal", "propagate"]


class First(NamedTuple):
    """The signals after the first affine map.

    Attributes:
        q1: variances of the first inputs' signals, [*spatial, b1], in float64.
        q2: the same of the second inputs.
        gap: 1 - c of the pairs; see `_geometry` for the layout.
        same: whether the two inputs of a pair are equal, [b1, b2] or [pairs].
    """

    q1: tf.Tensor
    q2: tf.Tensor
    gap: tf.Tensor
    same: tf.Tensor


class Stage(NamedTuple):
    """A run of layers whose activation has one dual.

    Attributes:
        dual: see `mfcnn.activations`.
        stop: the number of hidden layers after which the next stage begins.
        depths: numbers of hidden layers, ascending, to read out in this stage: a tensor, or a
            list of integers, which gradients under XLA and shrinking images need, as for `stop`.
    """

    dual: Any
    stop: Any
    depths: Any


class Normal(NamedTuple):
    """What the affine map needs of one side's variances q.

    Attributes:
        root: sqrt(q).
        inverse_norm: 1 / t, t the scale of a whole signal.
        bias: sqrt(bias_variance) / t.
        radius: r = sqrt(q) / t.
        half: sqrt(1/2) / r, so that the product of two sides is 1 / (2 r1 r2).
    """

    root: tf.Tensor
    inverse_norm: tf.Tensor
    bias: tf.Tensor
    radius: tf.Tensor
    half: tf.Tensor


class _Prepared(NamedTuple):
    """A signal ready for the next affine map: computed once, used by all its pairs."""

    q: tf.Tensor
    side: tuple[tf.Tensor, ...]
    weights: tf.Tensor  # f
    normal: Normal


class _Signal(NamedTuple):
    """One side behind an activation: E[phi^2], chi_1 if scaled, and its next affine map.

    Where images shrink the latter is () until it is applied: behind the last layer there may be
    nothing left to prepare.
    """

    second: tf.Tensor
    growth: Any
    prepared: Any


class _State(NamedTuple):
    """What the loop over layers carries; log_scale is () unless scaled."""

    layer: Any
    signals: tuple[_Signal, ...]  # of both sides, or the one of inputs that are paired among them
    output_gap: tf.Tensor
    theta: tf.Tensor  # T' times the NTK
    log_scale: Any


def normal(q: tf.Tensor, layout: Any, bias_variance: tf.Tensor) -> Normal:
    """Scales of one side; see `Normal`."""
    root = safe_sqrt(q)
    inverse_norm = inverse(layout.norm(root))
    # A signal's own norm leaves exactly one: rounding is as large as the square of a small gap.
    radius = tf.cast(root > 0, root.dtype) if layout.own_norm else root * inverse_norm
    bias = safe_sqrt(bias_variance) * inverse_norm
    return Normal(root, inverse_norm, bias, radius, math.sqrt(0.5) * inverse(radius))


def gap_of_distance(distance: tf.Tensor, one: Normal, two: Normal, layout: Any) -> tf.Tensor:
    """The gap 1 - c from the normalised squared distance d."""
    radius = layout.first(one.radius) - layout.second(two.radius)
    scale = layout.first(one.half) * layout.second(two.half)
    return tf.clip_by_value((distance - radius * radius) * scale, 0, 2)


def bias_distance(one: Normal, two: Normal, layout: Any) -> tf.Tensor:
    """What the biases add to the normalised squared distance."""
    difference = layout.first(one.bias) - layout.second(two.bias)
    return difference * difference


def propagate(
    first: First,
    stages: list[Stage],
    layout: Any,
    parameters: tuple[tf.Tensor, tf.Tensor],
    dtype: tf.DType,
    *,
    scaled: bool = False,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """From the first pre-activations through the activations to the readout, at several depths.

    Args:
        first: the signals after the first affine map.
        stages: runs of layers, the `stop` of the last one ignored.
        layout: see `_geometry`.
        parameters: (weight_variance, bias_variance), scalar tensors, in float64.
        dtype: of the pairs and the results.
        scaled: whether the NTK is divided by exp(log_scale) on the way.

    Returns:
        (nngp, ntk, log_scale): kernels [depths, ...] over pairs of inputs after the readout, and
        the logarithms [depths] of what the NTKs were divided by (zero unless scaled).
    """
    spatial = first.q1.shape[:-1]
    coincide = layout.coincide(first.same, spatial)
    gap = tf.cast(first.gap, dtype)
    gap = tf.where(coincide, tf.zeros_like(gap), gap)
    narrow = tuple(tf.cast(parameter, dtype) for parameter in parameters)
    block = _Block(layout, first.same, coincide, parameters, narrow, dtype, scaled)
    state = block.start(first, gap, stages[0].dual)
    results = []
    for stage, following in zip(stages, [*stages[1:], None]):
        state, kernels = block.through(stage, state)
        results += kernels
        if following is not None:
            state = block.forward(stage.dual, state, stage.stop)
            state = block.prepared(state, following.dual)
    return tuple(tf.concat(parts, 0) for parts in zip(*results))


@dataclasses.dataclass(frozen=True)
class _Block:
    """The recursion over one block of pairs.

    Attributes:
        layout: see `_geometry`.
        same: which pairs are of equal inputs.
        coincide: the same over pairs of positions of the first layer.
        parameters: (weight_variance, bias_variance) in float64.
        narrow: the same in the dtype of the pairs.
        dtype: of the pairs.
        scaled: whether the NTK is divided by exp(log_scale) on the way.
    """

    layout: Any
    same: tf.Tensor
    coincide: tf.Tensor
    parameters: tuple[tf.Tensor, tf.Tensor]
    narrow: tuple[tf.Tensor, tf.Tensor]
    dtype: tf.DType
    scaled: bool

    def start(self, first: First, gap: tf.Tensor, dual: Any) -> _State:
        """The state behind the first activation."""
        variances = (first.q1,) if first.q1 is first.q2 else (first.q1, first.q2)
        roots = [self._cast(safe_sqrt(q)) for q in variances]
        theta = self.layout.first(roots[0]) * self.layout.second(roots[-1]) * (1 - gap)
        # A constant in the state of nested loops does not compile: zeros are an operation.
        scale = tf.zeros([], self.dtype) if self.scaled else ()
        layer = 1 if self.layout.shrinks else tf.constant(1)
        sides = [self._side(dual, q) for q in variances]
        return self._activated(dual, layer, variances, sides, gap, theta, scale)

    def through(self, stage: Stage, state: _State) -> tuple[_State, list[tuple]]:
        """The state at the last depth of a stage, and the kernels at all of its depths."""
        if tf.is_tensor(stage.depths) and stage.depths.shape[0] != 1:
            return self._loop_over_depths(stage, state)
        results = []
        depths = [stage.depths[0]] if tf.is_tensor(stage.depths) else stage.depths
        for depth in depths:
            state = self.forward(stage.dual, state, depth)
            results.append(self._read(state))
        return state, results

    def forward(self, dual: Any, state: _State, stop: Any) -> _State:
        """The state behind `stop` hidden layers."""
        if self.layout.shrinks:
            for _ in range(state.layer, stop):
                state = self._step(dual, state)
            return state
        known = stop if isinstance(stop, int) else None
        if known == 1:
            return state
        return tf.while_loop(
            lambda state: state.layer < stop,
            lambda state: (self._step(dual, state),),
            (state,),
            maximum_iterations=known,
        )[0]

    def prepared(self, state: _State, dual: Any) -> _State:
        """The state with signals ready for a layer of this dual."""
        if self.layout.shrinks:
            return state
        signals = (s._replace(prepared=self._prepare(s.second, dual)) for s in state.signals)
        return state._replace(signals=tuple(signals))

    def _loop_over_depths(self, stage: Stage, state: _State) -> tuple[_State, list[tuple]]:
        count = stage.depths.shape[0]
        arrays = [tf.TensorArray(self.dtype, count) for _ in range(3)]

        def one_more(k: tf.Tensor, state: _State, arrays: list[tf.TensorArray]) -> tuple:
            state = self.forward(stage.dual, state, stage.depths[k])
            values = self._read(state)
            return k + 1, state, [a.write(k, v[0]) for a, v in zip(arrays, values)]

        _, state, arrays = tf.while_loop(
            lambda k, *_: k < count, one_more, (tf.constant(0), state, arrays)
        )
        return state, [tuple(array.stack() for array in arrays)]

    def _cast(self, a: tf.Tensor) -> tf.Tensor:
        return tf.cast(a, self.dtype)

    def _coincide(self, spatial: tf.TensorShape) -> tf.Tensor:
        if self.layout.shrinks:
            return self.layout.coincide(self.same, spatial)
        return self.coincide

    def _side(self, dual: Any, q: tf.Tensor) -> tuple[tf.Tensor, ...]:
        side = dual.side(q)
        return side if dual.keeps_float64 else tuple(map(self._cast, side))

    def _prepare(self, second: tf.Tensor, dual: Any) -> _Prepared:
        q = self.parameters[0] * self.layout.mix_signal(second) + self.parameters[1]
        scales = normal(q, self.layout, self.parameters[1])
        weights = safe_sqrt(self.parameters[0]) * safe_sqrt(second) * scales.inverse_norm
        scales = Normal(*map(self._cast, scales))
        return _Prepared(q, self._side(dual, q), self._cast(weights), scales)

    def _activated(
        self,
        dual: Any,
        layer: Any,
        q: Sequence[tf.Tensor],
        sides: Sequence[tuple[tf.Tensor, ...]],
        gap: tf.Tensor,
        theta: tf.Tensor,
        scale: Any,
    ) -> _State:
        """The state behind the activation, `theta` the NTK before it."""
        signals, slopes = [], []
        for variance in q:
            second, slope = dual.moments(variance)
            chi_1 = self._cast(self.parameters[0] * tf.reduce_max(slope)) if self.scaled else ()
            # In the loop's state, so that XLA does not compute it for each pair.
            prepared = () if self.layout.shrinks else self._prepare(second, dual)
            signals.append(_Signal(second, chi_1, prepared))
            slopes.append(slope)
        output_gap, slope = dual.pair(
            [self.layout.first(a) for a in sides[0]],
            [self.layout.second(a) for a in sides[-1]],
            gap,
        )
        if self.dtype == tf.float32:
            own = self.layout.first(self._cast(slopes[0]))
            slope = tf.where(self._coincide(q[0].shape[:-1]), own, slope)
        return _State(layer, tuple(signals), output_gap, slope * theta, scale)

    def _step(self, dual: Any, state: _State) -> _State:
        """The affine map, then the activation."""
        layout = self.layout
        prepared = [
            signal.prepared if signal.prepared != () else self._prepare(signal.second, dual)
            for signal in state.signals
        ]
        one, two = prepared[0], prepared[-1]
        first, second = layout.first(one.weights), layout.second(two.weights)
        difference = first - second
        distance = difference * difference + 2 * first * second * state.output_gap
        distance = layout.mix_pair(distance) + bias_distance(one.normal, two.normal, layout)
        distance = distance + layout.beyond_edge(one.weights**2, two.weights**2)
        gap = gap_of_distance(distance, one.normal, two.normal, layout)
        gap = tf.where(self._coincide(one.q.shape[:-1]), tf.zeros_like(gap), gap)
        covariance = layout.first(one.normal.root) * layout.second(two.normal.root) * (1 - gap)
        theta = self.narrow[0] * layout.mix_pair(state.theta)
        scale = state.log_scale
        if self.scaled:
            # T' of a pair is at most the larger T' of its two signals: theta can't overflow.
            growth = tf.maximum(tf.reduce_max([signal.growth for signal in state.signals]), 1)
            scale = scale + tf.math.log(growth)
            theta = theta / growth + covariance * tf.exp(-scale)
        else:
            theta = theta + covariance
        variances, sides = [p.q for p in prepared], [p.side for p in prepared]
        return self._activated(dual, state.layer + 1, variances, sides, gap, theta, scale)

    def _read(self, state: _State) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The kernels behind a readout, with an axis for depths in front."""
        layout = self.layout
        weight_variance, bias_variance = self.narrow
        log_scale = state.log_scale if self.scaled else tf.zeros([], self.dtype)
        roots = [
            self._cast(safe_sqrt(self.parameters[0]) * safe_sqrt(signal.second))
            for signal in state.signals
        ]
        weighted = layout.first(roots[0]) * layout.second(roots[-1])
        nngp = layout.readout(weighted * (1 - state.output_gap)) + bias_variance
        ntk = nngp * tf.exp(-log_scale) + weight_variance * layout.readout(state.theta)
        return nngp[None], ntk[None], log_scale[None]
