"""Rules for attention."""

import inspect
import math
from typing import TYPE_CHECKING, Any

import keras

from mfcnn import layers as own
from mfcnn.kernels._models import weights
from mfcnn.kernels._models.mixing import Attention, SampledHeads
from mfcnn.kernels._models.nodes import Law
from mfcnn.kernels._models.registry import newer_layers, refuse, rule
from mfcnn.kernels._models.rules_weights import free, law_of
from mfcnn.kernels._models.signals import Part, Signal

if TYPE_CHECKING:
    from mfcnn.kernels._models.reading import Call

__all__: list[str] = []

L = keras.layers


def _has_positions(call: "Call", *signals: Signal) -> None:
    if any(signal.flat or not signal.sizes for signal in signals):
        call.refuse("it attends to positions, and its input has none")


@rule(own.NTKSelfAttention)
def self_attention(call: "Call", signal: Signal) -> Signal:
    """Keys whose mean products are not random, values, and weights over all heads."""
    layer = free(call)
    _has_positions(call, signal)
    trained = float(call.trained(layer.value_kernel))
    keys, values = (
        signal.through(law, signal.sizes, layer.num_heads * layer.key_dim).parts[0].node
        for law in (
            Law((id(layer), "keys"), layer.key_variance, 0.0),  # which carry no gradient
            Law((id(layer), "values"), 1.0, 0.0, weight_gradient=trained),
        )
    )
    heads = Attention(values, keys, layer.mechanism, call.masks.get("mask"))
    law = Law(
        id(layer),
        layer.weight_variance,
        layer.bias_variance,
        weight_gradient=layer.weight_variance * call.trained(layer.kernel),
        bias_gradient=layer.bias_variance * call.trained(layer.bias),
    )
    joined = Signal([Part(layer.num_heads * layer.key_dim, heads)])
    return joined.through(law, call.sizes, call.channels)


def _arguments(call: "Call") -> dict[str, Any]:
    """What the layer is called with, by name, without what says nothing."""
    arguments = call.node.arguments
    bound = inspect.signature(call.layer.call).bind(*arguments.args, **arguments.kwargs).arguments
    return {
        name: value
        for name, value in bound.items()
        if value is not None and value is not False and name != "training"
    }


def _weighted(call: "Call", dense: Any, signal: Signal, sizes: tuple[int, ...]) -> Signal:
    """Weights of one of the layers inside."""
    shape, channels = tuple(dense.kernel.shape), signal.channels
    entry = weights.entry_variance(dense.kernel_initializer, shape)
    if entry is None:
        name = type(dense.kernel_initializer).__name__
        call.refuse(f"its kernel initializer {name} has no known variance")
    bias = 0.0
    if dense.bias is not None:
        bias = weights.bias_variance(call, dense.bias_initializer, tuple(dense.bias.shape))
    law = law_of(call, id(dense), entry * channels, channels, dense._kernel, dense.bias, bias)
    return signal.through(law, sizes, math.prod(shape) // channels)


@rule(L.MultiHeadAttention)
def multi_head_attention(call: "Call", *signals: Signal) -> Signal:
    """The mean over heads, which are drawn; as many keys in each as the layer has."""
    layer = free(call)
    if not call.sampled:
        call.refuse(
            "its attention weights stay random at any width, and their mean has no closed form; "
            "from_keras(model, sampled=True) takes a Monte Carlo estimate for infinitely many "
            "heads, and mfcnn.layers.NTKSelfAttention has a closed form"
        )
    _has_positions(call, *signals)
    given = _arguments(call)
    tensors = [given.pop(name) for name in ("query", "value", "key") if name in given]
    masks = [call.carried_mask(tensor) for tensor in tensors]
    known = {id(tensor): one for tensor, one in zip(call.node.input_tensors, signals)}
    query, value, key = (known[id(tensor)] for tensor in (*tensors, tensors[1])[:3])
    causal = bool(given.pop("use_causal_mask", False))
    if given:
        call.refuse(f"it is called with {', '.join(sorted(given))}")
    if getattr(layer, "_use_gate", False) or getattr(layer, "_sliding_window", None):
        call.refuse("it has a gate or a sliding window")
    axes = tuple(range(1, len(query.sizes) + 1))
    if tuple(layer._attention_axes) != axes or len(query.sizes) != len(value.sizes):
        call.refuse("its attention_axes are not all axes of positions")
    if len(layer.output_dense.kernel.shape) != 3:
        call.refuse("its output_shape has several axes")
    if len(axes) > 1 and (causal or any(mask is not None for mask in masks)):
        call.refuse("it has a mask, and its positions are those of an image")
    values, keys, queries = (
        _weighted(call, dense, signal, signal.sizes).parts[0].node
        for dense, signal in (
            (layer.value_dense, value),
            (layer.key_dense, key),
            (layer.query_dense, query),
        )
    )
    heads = SampledHeads(values, keys, queries, layer.key_dim, causal, masks)
    joined = Signal([Part(layer.num_heads * layer.value_dim, heads)])
    return _weighted(call, layer.output_dense, joined, call.sizes)


refuse(
    "several of its queries share keys: mfcnn.layers.NTKSelfAttention has a closed form, and "
    "MultiHeadAttention a sampled one",
    *newer_layers("GroupQueryAttention"),
)
refuse(
    "it has no heads to average over, so that its attention weights stay random: take "
    "mfcnn.layers.NTKSelfAttention",
    L.Attention,
    L.AdditiveAttention,
)
