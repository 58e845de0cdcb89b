"""The NNGP and NTK recursions in terms of gaps 1 - c, for one block of pairs.

Subtracting covariances loses the digits that decide everything in the chaotic phase, where 1 - c
grows by chi_1 in each layer. So the recursion carries the variances of each single signal and, for
each pair, the gap 1 - c instead of K, and how the affine map acts on it is in `_distances`. A pair
of an input with itself has gap zero: it is set, and its kernels follow the scalar recursion. Where
some inputs nearly coincide (`close`), pairs carry q1 - q2 too, in float64.

Signals are in float64 whatever the pairs are in: an error of chi_1 that is the same in each layer
adds up.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mfcnn.kernels import _distances
from mfcnn.numerics import safe_sqrt

__all__ = ["First", "Stage", "propagate"]


class First(NamedTuple):
    """The signals after the first affine map.

    Attributes:
        q1: variances of the first inputs' signals, [*spatial, b1], in float64.
        q2: the same of the second inputs.
        gap: 1 - c of the pairs; see `_geometry` for the layout.
        same: whether the two inputs of a pair are equal, [b1, b2] or [pairs].
        difference: q1 - q2 of the pairs, or () unless close.
    """

    q1: tf.Tensor
    q2: tf.Tensor
    gap: tf.Tensor
    same: tf.Tensor
    difference: Any = ()


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


class _Prepared(NamedTuple):
    """A signal ready for the next affine map: computed once, used by all its pairs."""

    q: tf.Tensor
    side: tuple[tf.Tensor, ...]
    weights: tf.Tensor  # f
    normal: _distances.Normal


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
    difference: Any  # A1 - A2, or () unless close
    theta: tf.Tensor  # T' times the NTK
    log_scale: Any


def propagate(
    first: First,
    stages: list[Stage],
    layout: Any,
    parameters: tuple[tf.Tensor, tf.Tensor],
    dtype: tf.DType,
    *,
    scaled: bool = False,
    close: bool = False,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """From the first pre-activations through the activations to the readout, at several depths.

    Args:
        first: the signals after the first affine map.
        stages: runs of layers, the `stop` of the last one ignored.
        layout: see `_geometry`.
        parameters: (weight_variance, bias_variance), scalar tensors, in float64.
        dtype: of the pairs and the results.
        scaled: whether the NTK is divided by exp(log_scale) on the way.
        close: whether pairs carry q1 - q2; then the duals are close ones and dtype is float64.

    Returns:
        (nngp, ntk, log_scale): kernels [depths, ...] over pairs of inputs after the readout, and
        the logarithms [depths] of what the NTKs were divided by (zero unless scaled).
    """
    spatial = first.q1.shape[:-1]
    coincide = layout.coincide(first.same, spatial)
    gap = tf.cast(first.gap, dtype)
    gap = tf.where(coincide, tf.zeros_like(gap), gap)
    narrow = tuple(tf.cast(parameter, dtype) for parameter in parameters)
    block = _Block(layout, first.same, coincide, parameters, narrow, dtype, scaled, close)
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
        close: whether pairs carry q1 - q2.
    """

    layout: Any
    same: tf.Tensor
    coincide: tf.Tensor
    parameters: tuple[tf.Tensor, tf.Tensor]
    narrow: tuple[tf.Tensor, tf.Tensor]
    dtype: tf.DType
    scaled: bool
    close: bool

    def start(self, first: First, gap: tf.Tensor, dual: Any) -> _State:
        """The state behind the first activation."""
        variances = (first.q1,) if first.q1 is first.q2 else (first.q1, first.q2)
        roots = [self._cast(safe_sqrt(q)) for q in variances]
        theta = self.layout.first(roots[0]) * self.layout.second(roots[-1]) * (1 - gap)
        # A constant in the state of nested loops does not compile: zeros are an operation.
        scale = tf.zeros([], self.dtype) if self.scaled else ()
        layer = 1 if self.layout.shrinks else tf.constant(1)
        sides = [self._side(dual, q) for q in variances]
        pair = gap, self._apart(first.difference, first.q1)
        return self._activated(dual, layer, variances, sides, pair, theta, scale)

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

    def _apart(self, difference: Any, q: tf.Tensor) -> Any:
        """q1 - q2, zero where the pair is known to be equal."""
        if not self.close:
            return ()
        return tf.where(self._coincide(q.shape[:-1]), tf.zeros_like(difference), difference)

    def _side(self, dual: Any, q: tf.Tensor) -> tuple[tf.Tensor, ...]:
        side = dual.side(q)
        return side if self.close or dual.keeps_float64 else tuple(map(self._cast, side))

    def _prepare(self, second: tf.Tensor, dual: Any) -> _Prepared:
        q = self.parameters[0] * self.layout.mix_signal(second) + self.parameters[1]
        scales = _distances.normal(q, self.layout, self.parameters[1])
        weights = safe_sqrt(self.parameters[0]) * safe_sqrt(second) * scales.inverse_norm
        scales = _distances.Normal(*map(self._cast, scales))
        return _Prepared(q, self._side(dual, q), self._cast(weights), scales)

    def _activated(
        self,
        dual: Any,
        layer: Any,
        q: Sequence[tf.Tensor],
        sides: Sequence[tuple[tf.Tensor, ...]],
        pair: tuple[tf.Tensor, Any],
        theta: tf.Tensor,
        scale: Any,
    ) -> _State:
        """The state behind the activation; `pair` the gap and q1 - q2, `theta` the NTK before."""
        signals, slopes = [], []
        for variance in q:
            second, slope = dual.moments(variance)
            chi_1 = self._cast(self.parameters[0] * tf.reduce_max(slope)) if self.scaled else ()
            # In the loop's state, so that XLA does not compute it for each pair.
            prepared = () if self.layout.shrinks else self._prepare(second, dual)
            signals.append(_Signal(second, chi_1, prepared))
            slopes.append(slope)
        one_side = [self.layout.first(a) for a in sides[0]]
        other_side = [self.layout.second(a) for a in sides[-1]]
        output_gap, slope, *rest = dual.pair(one_side, other_side, *pair[: 1 + self.close])
        if self.dtype == tf.float32:
            own = self.layout.first(self._cast(slopes[0]))
            slope = tf.where(self._coincide(q[0].shape[:-1]), own, slope)
        difference = rest[0] if self.close else ()
        return _State(layer, tuple(signals), output_gap, difference, slope * theta, scale)

    def _step(self, dual: Any, state: _State) -> _State:
        """The affine map, then the activation."""
        layout = self.layout
        prepared = [
            signal.prepared if signal.prepared != () else self._prepare(signal.second, dual)
            for signal in state.signals
        ]
        one, two = prepared[0], prepared[-1]
        scales = one.normal, two.normal, (one.weights, two.weights), layout
        if self.close:
            apart = _distances.close_between(*scales, self.parameters, state.difference)
        else:
            apart = _distances.between(*scales)
        gap = apart.gap(state.output_gap, layout)
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
        pair = gap, self._apart(apart.variances, one.q)
        return self._activated(dual, state.layer + 1, variances, sides, pair, theta, scale)

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
