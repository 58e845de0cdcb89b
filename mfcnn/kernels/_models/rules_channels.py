"""Rules for what acts on single channels or on their statistics: activations, normalization."""

from typing import TYPE_CHECKING, Any

import keras

from mfcnn import activations, borrowed
from mfcnn.kernels._models import weights
from mfcnn.kernels._models.nodes import Data, Node
from mfcnn.kernels._models.operations import Normalized
from mfcnn.kernels._models.registry import refuse, rule
from mfcnn.kernels._models.signals import Part, Signal

if TYPE_CHECKING:
    from mfcnn.kernels._models.reading import Call

__all__: list[str] = []

L = keras.layers


@rule(
    L.Dropout,
    L.SpatialDropout1D,
    L.SpatialDropout2D,
    L.SpatialDropout3D,
    L.GaussianDropout,
    L.GaussianNoise,
    L.AlphaDropout,
    L.Identity,
    L.ActivityRegularization,
    borrowed.StochasticDepth,
)
def identity(call: "Call", signal: Signal) -> Signal:
    """Nothing, outside training."""
    return signal


@rule(L.Activation)
def activation(call: "Call", signal: Signal) -> Signal:
    """A function of each value."""
    return signal.activated(call, call.layer.activation)


@rule(L.ReLU, L.LeakyReLU, L.ELU)
def activation_layer(call: "Call", signal: Signal) -> Signal:
    """A function of each value, with parameters."""
    return signal.activated(call, call.layer)


@rule(L.PReLU)
def prelu(call: "Call", signal: Signal) -> Signal:
    """A leaky relu whose slopes are trained."""
    slope = weights.constant(call.layer.alpha_initializer)
    if slope is None:
        call.refuse("its slopes do not start at one number")
    if call.settings.standard and call.trained(call.layer.alpha):
        call.refuse("its trained slopes have no term in the standard parameterization: freeze them")
    return signal.activated(call, activations.get("leaky_relu", negative_slope=slope))


def _gain(call: "Call", signal: Signal, scale: float, gamma: Any, beta: Any) -> Signal:
    """The factor and shift of each channel that a normalization has behind it."""
    layer, standard = call.layer, call.settings.standard
    initializer = getattr(layer, "gamma_initializer", "ones")
    factor = 1.0 if gamma is None else weights.constant(initializer)
    if factor is None:
        call.refuse("its scale does not start at one number")
    if beta is not None and weights.constant(layer.beta_initializer) != 0:
        call.refuse("its shift does not start at zero")
    by_factor = scale**2 if standard and call.trained(gamma) else 0.0
    by_shift = 1.0 if standard and call.trained(beta) else 0.0
    if factor * scale == 1 and not by_factor and not by_shift:
        return signal
    return signal.gained(factor * scale, by_factor, by_shift)


def _no_data(call: "Call", signal: Signal) -> None:
    if any(isinstance(part.node, Data) for part in signal.parts):
        call.refuse("it has weights, but acts on the inputs' few channels")


@rule(L.BatchNormalization)
def batch_normalization(call: "Call", signal: Signal) -> Signal:
    """In inference mode, at the start: the moving mean is zero and the moving variance one."""
    layer = call.layer
    _no_data(call, signal)
    if layer.axis not in (-1, len(call.shape) - 1):
        call.refuse("its axis is not that of the channels")
    if weights.constant(layer.moving_mean_initializer) != 0:
        call.refuse("its moving mean does not start at zero")
    variance = weights.constant(layer.moving_variance_initializer)
    if variance is None:
        call.refuse("its moving variance does not start at one number")
    scale = (variance + layer.epsilon) ** -0.5
    return _gain(call, signal, scale, layer.gamma, layer.beta)


def _normalized(
    call: "Call", signal: Signal, groups: list[list[Part]], over_positions: bool, subtract: bool
) -> Signal:
    """Each part without the mean of its group, over the group's standard deviation."""
    parts = []
    for group in groups:
        total = sum(part.channels for part in group)
        shares = tuple((part.channels / total, part.node) for part in group)

        def normalized(node: Node, shares: tuple = shares) -> Node:
            return Normalized(node, shares, call.layer.epsilon, over_positions, subtract)

        parts += [part._replace(node=normalized(part.node)) for part in group]
    return Signal(parts, signal.flat)


def _axes(call: "Call") -> bool:
    """Whether a layer's axes are positions and channels (True) or channels alone (False)."""
    axes = call.layer.axis
    rank = len(call.shape)
    axes = sorted(axis % rank for axis in (axes if isinstance(axes, (list, tuple)) else [axes]))
    if axes == [rank - 1]:
        return False
    if axes == list(range(1, rank)):
        return True
    call.refuse("its axes are neither the channels nor all but the batch")


@rule(L.LayerNormalization)
def layer_normalization(call: "Call", signal: Signal) -> Signal:
    """Mean and variance over infinitely many channels are not random."""
    layer = call.layer
    _no_data(call, signal)
    if signal.flat:
        call.refuse("it acts on a flat signal: normalize before Flatten")
    subtract = not layer.rms_scaling
    result = _normalized(call, signal, [list(signal.parts)], _axes(call), subtract)
    return _gain(call, result, 1.0, layer.gamma, layer.beta)


@rule(L.RMSNormalization)
def rms_normalization(call: "Call", signal: Signal) -> Signal:
    """As layer normalization, without the mean."""
    _no_data(call, signal)
    if signal.flat:
        call.refuse("it acts on a flat signal: normalize before Flatten")
    result = _normalized(call, signal, [list(signal.parts)], _axes(call), False)
    standard = call.settings.standard and call.trained(call.layer.scale)
    return result.gained(1.0, 1.0, 0.0) if standard else result


@rule(L.GroupNormalization)
def group_normalization(call: "Call", signal: Signal) -> Signal:
    """Mean and variance over positions and the channels of a group."""
    layer = call.layer
    _no_data(call, signal)
    if layer.axis not in (-1, len(call.shape) - 1) or signal.flat:
        call.refuse("its axis is not that of the channels")
    groups = 1 if layer.groups == -1 else layer.groups
    size, start, grouped = signal.channels // groups, 0, []
    if size == 1:
        call.refuse("its groups are single channels, whose mean and variance stay random")
    if len(signal.parts) == 1:
        grouped = [list(signal.parts)]
    else:
        ends = [0]
        for part in signal.parts:
            ends.append(ends[-1] + part.channels)
        for start in range(0, signal.channels, size):
            inside = [
                Part(min(end, start + size) - max(begin, start), part.node)
                for begin, end, part in zip(ends, ends[1:], signal.parts)
                if min(end, start + size) > max(begin, start)
            ]
            grouped.append(inside)
    result = _normalized(call, signal, grouped, True, True)
    return _gain(call, result, 1.0, layer.gamma, layer.beta)


@rule(borrowed.LayerScale)
def layer_scale(call: "Call", signal: Signal) -> Signal:
    """A trained factor for each channel."""
    layer = call.layer
    by_factor = 1.0 if call.settings.standard and call.trained(layer.gamma) else 0.0
    return signal.gained(float(layer.init_values), by_factor, 0.0)


refuse("it couples the channels; take the kernel of the logits", L.Softmax)
refuse("it divides by a norm that grows with the width", L.UnitNormalization)
refuse("its mean and variance are those of a data set, per channel of the data", L.Normalization)
refuse(
    "it is code of its own: make it a layer class with a rule of its own "
    "(mfcnn.kernels.register_layer_rule)",
    L.Lambda,
    L.TFSMLayer,
    L.JaxLayer,
    L.FlaxLayer,
    L.TorchModuleWrapper,
    L.Wrapper,
)
