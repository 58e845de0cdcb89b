"""Rules for layers with weights: dense, convolutions of all kinds, embeddings, stacks."""

import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from mfcnn import layers as own
from mfcnn.kernels._models import weights
from mfcnn.kernels._models.nodes import Depthwise, Law, Lookup
from mfcnn.kernels._models.registry import newer_layers, refuse, rule
from mfcnn.kernels._models.signals import Part, Signal
from mfcnn.kernels._models.stack import Stack
from mfcnn.kernels._models.taps import Taps

if TYPE_CHECKING:
    from mfcnn.kernels._models.reading import Call

__all__ = ["free", "law_of"]

L = keras.layers


def law_of(
    call: "Call",
    key: Any,
    variance: float,
    channels: int,
    kernel: Any,
    bias: Any,
    bias_variance: float,
    taps: Taps | None = None,
) -> Law:
    """The law of a layer's weights, in the parameterization of the settings.

    By standard normal weights the kernel's gradient is sigma_w^2 times the mean over its taps with
    their variance; by the weights themselves it is the plain sum over taps and channels.
    """
    standard = call.settings.standard
    weight_gradient = bias_gradient = 0.0
    gradient_taps = taps
    if call.trained(kernel):
        weight_gradient = variance
        if standard:
            weight_gradient = channels * (1 if taps is None else taps.profile.size)
            gradient_taps = None if taps is None else taps.uniform()
    if call.trained(bias):
        bias_gradient = 1.0 if standard else bias_variance
    return Law(key, variance, bias_variance, taps, weight_gradient, bias_gradient, gradient_taps)


def free(call: "Call") -> Any:
    """The layer, if its weights are free numbers."""
    objection = weights.objection(call.layer)
    if objection:
        call.refuse(objection)
    return call.layer


def _bias_variance(call: "Call") -> float:
    layer = call.layer
    if getattr(layer, "bias", None) is None:
        return 0.0
    return weights.bias_variance(call, layer.bias_initializer, tuple(layer.bias.shape))


@rule(L.Dense)
def dense(call: "Call", signal: Signal) -> Signal:
    """Weights over all channels."""
    layer, channels = free(call), signal.channels
    shape = tuple(layer.kernel.shape)
    variance, _ = weights.weight_variance(call, layer.kernel_initializer, shape, channels)
    kernel = layer._kernel
    law = law_of(call, id(layer), variance, channels, kernel, layer.bias, _bias_variance(call))
    return signal.through(law, signal.sizes, call.channels).activated(call, layer.activation)


@rule(L.EinsumDense)
def einsum_dense(call: "Call", signal: Signal) -> Signal:
    """As Dense, where the equation is that of one over the last axis."""
    inputs, _, rest = call.layer.equation.partition(",")
    kernel, _, outputs = rest.partition("->")
    plain = inputs[:-1] == outputs[:-1] and kernel == inputs[-1] + outputs[-1]
    if not plain or (call.layer.bias is not None and call.layer.bias.shape.rank > 1):
        call.refuse(f"its equation {call.layer.equation!r} is not that of Dense")
    return dense(call, signal)


def _taps(call: "Call", profile: np.ndarray) -> Taps:
    layer = call.layer
    padding = "circular" if isinstance(layer, own.PeriodicConvolution) else layer.padding
    ones = (1,) * profile.ndim
    return Taps(
        profile,
        padding,
        tuple(getattr(layer, "strides", ones)),
        tuple(getattr(layer, "dilation_rate", ones)),
    )


@rule(L.Conv1D, L.Conv2D, L.Conv3D, own.PeriodicConvolution)
def convolution(call: "Call", signal: Signal) -> Signal:
    """Weights over all channels, of a group each, and the taps."""
    layer = free(call)
    shape = tuple(layer.kernel.shape)
    if layer.groups > 1 and shape[-2] == 1:  # groups of one channel
        each = layer.filters // layer.groups
        filtered = _by_channel(
            call, signal, layer._kernel, layer.kernel_initializer, layer.bias, each
        )
        return filtered.activated(call, layer.activation)
    variance, profile = weights.weight_variance(call, layer.kernel_initializer, shape, shape[-2])
    taps = _taps(call, profile)
    bias = _bias_variance(call)

    def law(key: Any) -> Law:
        return law_of(call, key, variance, shape[-2], layer._kernel, layer.bias, bias, taps)

    if layer.groups == 1 or (len(signal.parts) == 1 and signal.data() is None):
        # Groups of channels that are alike see the same kernel, with weights of their own.
        result = signal.through(law(id(layer)), call.sizes, call.channels)
    else:
        call.refuse("its groups see channels that are not alike")
    return result.activated(call, layer.activation)


@rule(L.Conv1DTranspose, L.Conv2DTranspose, L.Conv3DTranspose)
def transposed(call: "Call", signal: Signal) -> Signal:
    """As a convolution whose taps go from inputs to outputs; its kernel is [*window, out, in]."""
    layer = free(call)
    shape = tuple(layer.kernel.shape)
    variance, profile = weights.weight_variance(call, layer.kernel_initializer, shape, shape[-1])
    rank = profile.ndim
    output_padding = layer.output_padding
    if not isinstance(output_padding, tuple):
        output_padding = (output_padding,) * rank
    taps = Taps(profile, layer.padding, layer.strides, layer.dilation_rate, output_padding)
    bias = _bias_variance(call)
    law = law_of(call, id(layer), variance, shape[-1], layer.kernel, layer.bias, bias, taps)
    return signal.through(law, call.sizes, call.channels).activated(call, layer.activation)


def _by_channel(
    call: "Call", signal: Signal, kernel: Any, initializer: Any, bias: Any, each: int
) -> Signal:
    """`each` filters of every single channel; `bias` is None where there is none."""
    layer, shape = free(call), tuple(kernel.shape)
    if signal.data() is not None:
        call.refuse("it acts on the inputs' few channels, whose filters stay random at any width")
    variance, profile = weights.weight_variance(call, initializer, shape, 1)
    taps = Taps(profile, layer.padding, layer.strides, layer.dilation_rate)
    bias_variance = 0.0 if bias is None else _bias_variance(call)
    law = law_of(call, (id(layer), "depthwise"), variance, 1, kernel, bias, bias_variance, taps)
    parts = [
        Part(part.channels * each, Depthwise(call.sizes, part.node, law)) for part in signal.parts
    ]
    return Signal(parts)


@rule(L.DepthwiseConv1D, L.DepthwiseConv2D)
def depthwise(call: "Call", signal: Signal) -> Signal:
    """A filter for each channel."""
    layer = call.layer
    result = _by_channel(
        call, signal, layer.kernel, layer.depthwise_initializer, layer.bias, layer.depth_multiplier
    )
    return result.activated(call, layer.activation)


@rule(L.SeparableConv1D, L.SeparableConv2D)
def separable(call: "Call", signal: Signal) -> Signal:
    """A filter for each channel, then weights over all channels."""
    layer = call.layer
    filtered = _by_channel(
        call,
        signal,
        layer.depthwise_kernel,
        layer.depthwise_initializer,
        None,
        layer.depth_multiplier,
    )
    shape = tuple(layer.pointwise_kernel.shape)
    variance, _ = weights.weight_variance(call, layer.pointwise_initializer, shape, shape[-2])
    kernel, bias = layer.pointwise_kernel, _bias_variance(call)
    law = law_of(call, id(layer), variance, shape[-2], kernel, layer.bias, bias)
    return filtered.through(law, call.sizes, call.channels).activated(call, layer.activation)


@rule(L.Embedding)
def embedding(call: "Call", signal: Signal) -> Signal:
    """One random vector for each token."""
    layer = free(call)
    tokens = signal.data()
    if layer.mask_zero:
        call.refuse("it makes a mask; set mask_zero=False")
    if tokens is None:
        call.refuse("it looks up a random signal")
    tokens.sizes = (*tokens.sizes, signal.channels)
    table = layer._embeddings
    variance = weights.entry_variance(layer.embeddings_initializer, tuple(table.shape))
    if variance is None:
        call.refuse(f"its initializer {type(layer.embeddings_initializer).__name__} is not known")
    gradient = float(call.trained(table)) * (1.0 if call.settings.standard else variance)
    gaussian = isinstance(layer.embeddings_initializer, keras.initializers.RandomNormal)
    law = Law(id(layer), variance, 0.0, weight_gradient=gradient)
    return Signal([Part(call.channels, Lookup(tokens, law, gaussian))])


@rule(own.NTKDense, own.NTKConvolution)
def standard_normal(call: "Call", signal: Signal) -> Signal:
    """Standard normal weights, scaled when the layer is called: alike in both parameterizations."""
    layer = free(call)
    window = tuple(layer.kernel.shape)[:-2]
    taps = None
    if window:
        taps = _taps(call, np.full(window, 1 / math.prod(window)))
    law = Law(
        id(layer),
        float(layer.weight_variance),
        float(layer.bias_variance),
        taps,
        float(layer.weight_variance) * call.trained(layer.kernel),
        float(layer.bias_variance) * call.trained(layer.bias),
        taps,
    )
    return signal.through(law, call.sizes, call.channels).activated(call, layer.activation)


@rule(own.DeepConvolution, own.DeepDense)
def stack(call: "Call", signal: Signal) -> Signal:
    """`depth` equal layers."""
    layer, channels = free(call), signal.channels
    shape = tuple(layer.kernel.shape[1:])
    variance, profile = weights.weight_variance(call, layer.kernel_initializer, shape, channels)
    taps = None
    if profile.ndim:
        taps = Taps(profile, layer.padding, (1,) * profile.ndim, (1,) * profile.ndim)
    bias = 0.0
    if layer.bias is not None:
        bias = weights.bias_variance(call, layer.bias_initializer, shape[-1:])
    law = law_of(call, id(layer), variance, channels, layer.kernel, layer.bias, bias, taps)
    layers = Stack(call.sizes, signal.fractions(), law, layer.depth)
    linear = Signal([Part(call.channels, layers)])
    result = linear.activated(call, layer.activation)
    node = result.parts[0].node
    layers.function = getattr(node, "function", None)
    return result


_RECURRENT = (
    L.RNN,
    L.LSTM,
    L.GRU,
    L.SimpleRNN,
    L.Bidirectional,
    L.ConvLSTM1D,
    L.ConvLSTM2D,
    L.ConvLSTM3D,
    L.LSTMCell,
    L.GRUCell,
    L.SimpleRNNCell,
    L.StackedRNNCells,
)
refuse(
    "recurrent layers are not known here; write its steps as layers that share weights", *_RECURRENT
)
refuse("give the layer itself: Dense acts on the last axis of any input", L.TimeDistributed)
refuse("its kernel is divided by its own largest singular value", L.SpectralNormalization)
refuse("it reads the same weights both ways", *newer_layers("ReversibleEmbedding"))
