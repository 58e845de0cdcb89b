"""Reads the graph of a Keras model, operation by operation, without any arithmetic.

Until the first layer with weights a tensor is data, and Keras's own layers act on it when the
kernel is called. From there on it is a `signals.Signal`, and the rule of each layer's class says
what becomes of it.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import keras
import tensorflow as tf

from mfcnn import borrowed
from mfcnn import layers as own
from mfcnn.kernels._models import pairs, registry
from mfcnn.kernels._models.nodes import Data
from mfcnn.kernels._models.signals import Part, Signal

__all__ = ["Call", "Settings", "read"]


class Settings:
    """What holds for a whole model.

    Attributes:
        standard: whether gradients are those by the layers' own weights, or by standard normal
            ones.
        sampled: whether Monte Carlo may stand for what has no closed form.
        trained: identities of the variables that are trained.
    """

    def __init__(self, model: keras.Model, standard: bool, sampled: bool) -> None:
        self.standard, self.sampled = standard, sampled
        self.trained = {id(variable) for variable in model.trainable_variables}


class Call:
    """One call of a layer, as its rule sees it.

    Attributes:
        layer: the layer, or one of Keras's operations.
        node: Keras's record of the call.
        sizes: the size of the output's image.
        channels: the number of its channels.
        masks: the masks [n, *positions] that Keras calls it with, by the arguments' names.
    """

    def __init__(self, layer: Any, node: Any, shape: Sequence[int], settings: Settings) -> None:
        self.layer, self.node, self.settings = layer, node, settings
        self.masks: dict[str, Data] = {}
        self.carried: dict[int, Data | None] = {}
        self.shape = tuple(shape)
        self.sizes, self.channels = self.shape[1:-1], self.shape[-1]

    @property
    def sampled(self) -> bool:
        """Whether Monte Carlo may stand for what has no closed form."""
        return self.settings.sampled

    def carried_mask(self, tensor: Any) -> Data | None:
        """The mask [n, *positions] that a tensor carries when the model runs, or None."""
        mask = borrowed.get_mask(tensor)
        if mask is None:
            return None
        if self.carried.get(id(mask)) is None:
            self.refuse("its input carries a mask that depends on random weights")
        return self.carried[id(mask)]

    def trained(self, variable: Any) -> bool:
        """Whether a weight is trained; None is not."""
        return variable is not None and id(variable) in self.settings.trained

    def refuse(self, reason: str, cause: Exception | None = None) -> NoReturn:
        """Raises the error that names the layer and the reason."""
        raise ValueError(refusal(self.layer, reason)) from cause


def refusal(layer: Any, reason: str) -> str:
    """The sentence for a layer that has no kernel."""
    kind = type(layer).__name__
    return f"layer {layer.name!r} ({kind}) has no infinite-width kernel here: {reason}."


def read(model: keras.Model, shapes: Sequence[Sequence[int]], settings: Settings) -> list[Signal]:
    """The signals of a model's outputs, for inputs of these shapes [n, ...].

    The classes of all layers are looked at before anything else: a layer without a rule, behind
    the first weights, is named at once.

    Raises:
        ValueError: for a layer that has no kernel; the message names it and why.
    """
    inputs = [Signal([Part(shape[-1], _input(index, shape))]) for index, shape in enumerate(shapes)]
    reader = _Reader(settings)
    reader.look_at(model)
    return reader.outputs(model, inputs, shapes)


def _input(index: int, shape: Sequence[int]) -> Data:
    return Data(tuple(shape[1:-1]), lambda inputs, side: inputs[index][side])


# The layers whose rules read a mask; others that Keras calls with one are refused.
_MASKED = (
    keras.layers.GlobalAveragePooling1D,
    keras.layers.MultiHeadAttention,
    own.NTKSelfAttention,
)


class _Reader:
    """Walks the graph of a model, and of the models inside it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._carried: dict[int, Data | None] = {}
        self._masked: set[int] = set()  # the calls that read them

    def outputs(
        self, model: keras.Model, inputs: Sequence[Signal], shapes: Sequence[Sequence[int]]
    ) -> list[Signal]:
        """The signals of a functional graph's outputs."""
        known: dict[int, Signal] = {id(t): signal for t, signal in zip(model.inputs, inputs)}
        sizes = {id(t): tuple(shape) for t, shape in zip(model.inputs, shapes)}
        # A stack of our own: a model may be deeper than Python's recursion.
        waiting = list(reversed(model.outputs))
        while waiting:
            tensor = waiting[-1]
            if id(tensor) in known:
                waiting.pop()
                continue
            operation, index, _ = tensor._keras_history
            node = operation._inbound_nodes[index]
            carried = self._carried_masks(operation, node)
            missing = [t for t in (*node.input_tensors, *carried) if id(t) not in known]
            if not missing:
                self._carried.update((id(mask), known[id(mask)].data()) for mask in carried)
                arguments = [known[id(t)] for t in node.input_tensors]
                results = self._apply(operation, node, arguments, sizes)
                known.update((id(t), signal) for t, signal in zip(node.output_tensors, results))
            waiting.extend(reversed(missing))  # masks, the last arguments, are read last
        return [known[id(tensor)] for tensor in model.outputs]

    def _apply(
        self, operation: Any, node: Any, arguments: list[Signal], sizes: dict[int, tuple]
    ) -> list[Signal]:
        """The outputs of one call of an operation."""
        shapes = _output_shapes(operation, node, sizes)
        sizes.update((id(t), shape) for t, shape in zip(node.output_tensors, shapes))
        masked = any(borrowed.get_mask(t) is not None for t in node.input_tensors)
        if isinstance(operation, keras.Model):
            self.look_at(operation)
            inside = [o for o in operation.layers if isinstance(o, keras.layers.Masking)]
            if masked or inside:
                raise ValueError(refusal(operation, "a mask goes in or out of a model inside"))
            inner = [sizes[id(t)] for t in node.input_tensors]
            return self.outputs(operation, arguments, inner)
        if masked and isinstance(operation, keras.layers.Multiply):
            raise ValueError(refusal(operation, "it replaces what is masked by one"))
        data = [one for one in (signal.data() for signal in arguments) if one is not None]
        if len(data) == len(arguments) and _acts_on_data(operation):
            return [_on_data(operation, node, data, shape, k) for k, shape in enumerate(shapes)]
        call = Call(operation, node, shapes[0], self._settings)
        rule, reason = registry.rule_of(operation)
        if rule is None:
            call.refuse(reason)
        call.carried = self._carried
        signals, call.masks = _without_masks(call, arguments)
        if getattr(operation, "data_format", None) == "channels_first":
            call.refuse("data_format must be 'channels_last'")
        try:
            result = rule(call, *signals)
        except pairs.UnrelatedError as error:
            call.refuse(str(error), error)
        if not isinstance(result, Signal):
            raise TypeError(f"the rule for {type(operation).__name__} must return a signal")
        return [result]

    def _carried_masks(self, operation: Any, node: Any) -> list[Any]:
        """The masks that attention finds at its inputs: its call does not name them."""
        if not isinstance(operation, keras.layers.MultiHeadAttention):
            return []
        masks = [borrowed.get_mask(tensor) for tensor in node.input_tensors]
        masks = [mask for mask in masks if mask is not None]
        if masks:
            self._masked.add(id(node))
        if len(self._masked) > 1:
            reason = (
                "another attention layer reads a mask too, and takes it off its input, so that "
                "which masks are left depends on the order in which layers run. "
                "mfcnn.layers.NTKSelfAttention takes none off"
            )
            raise ValueError(refusal(operation, reason))
        return masks

    def look_at(self, model: keras.Model) -> None:
        """Refuses a model that is more than its graph."""
        base, overridden = registry.find(type(model), (keras.Sequential, borrowed.Functional))
        changed = {"call", "__call__"}.intersection(overridden)
        if base is None or changed:
            raise ValueError(refusal(model, "it is a model with a call of its own, not a graph"))


def _acts_on_data(operation: Any) -> bool:
    """Whether an operation is evaluated on data, instead of read by its rule."""
    known = registry.find(type(operation), (keras.layers.Normalization,))[0]
    return known is not None or not getattr(operation, "weights", ())


def _without_masks(call: Call, arguments: list[Signal]) -> tuple[list[Signal], dict[str, Data]]:
    """What a layer acts on, and the masks that Keras passes beside it."""
    names = {
        id(tensor): name
        for name, tensor in call.node.arguments.kwargs.items()
        if name.endswith("mask")
    }
    signals, masks = [], {}
    for tensor, signal in zip(call.node.input_tensors, arguments):
        name, data = names.get(id(tensor)), signal.data()
        if name is None:
            signals.append(signal)
        elif data is None:
            call.refuse("its mask depends on random weights")
        else:
            masks[name] = data
    if masks and not isinstance(call.layer, (*_MASKED, keras.layers.BatchNormalization)):
        call.refuse("its input carries a mask, which has no rule here")
    return signals, masks


def _on_data(
    operation: Any, node: Any, parents: list[Data], shape: tuple[int, ...], output: int
) -> Signal:
    """What Keras's own operation makes of data."""
    training = {"training": False} if getattr(operation, "_call_has_training_arg", False) else {}

    # Where numbers are compared, as for a mask, they are rounded as the model rounds them.
    compares = node.output_tensors[output].dtype == "bool"

    def function(*tensors: tf.Tensor) -> tf.Tensor:
        values = []
        for symbol, x in zip(node.input_tensors, tensors):
            rounds = compares or symbol.dtype == "bool"
            dtype = symbol.dtype if rounds else getattr(operation, "compute_dtype", x.dtype)
            values.append(tf.cast(x, dtype))
        known = {id(symbol): value for symbol, value in zip(node.input_tensors, values)}
        args, kwargs = node.arguments.fill_in(known)
        return tf.cast(tf.nest.flatten(operation(*args, **kwargs | training))[output], tf.float64)

    return Signal([Part(shape[-1], Data(shape[1:-1], function, tuple(parents)))])


def _output_shapes(operation: Any, node: Any, sizes: dict[int, tuple]) -> list[tuple[int, ...]]:
    """The shapes of a call's outputs for the sizes at hand, [None, ...]."""
    shapes = [tuple(tensor.shape) for tensor in node.output_tensors]
    if all(None not in shape[1:] for shape in shapes):
        return shapes
    concrete = {
        id(t): keras.KerasTensor((None, *sizes[id(t)][1:]), t.dtype) for t in node.input_tensors
    }
    args, kwargs = node.arguments.fill_in(concrete)
    specs = operation.compute_output_spec(*args, **kwargs)
    return [tuple(spec.shape) for spec in tf.nest.flatten(specs)]
