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
    """

    def __init__(self, layer: Any, node: Any, shape: Sequence[int], settings: Settings) -> None:
        self.layer, self.node, self.settings = layer, node, settings
        self.shape = tuple(shape)
        self.sizes, self.channels = self.shape[1:-1], self.shape[-1]

    @property
    def sampled(self) -> bool:
        """Whether Monte Carlo may stand for what has no closed form."""
        return self.settings.sampled

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


class _Reader:
    """Walks the graph of a model, and of the models inside it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

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
            missing = [t for t in node.input_tensors if id(t) not in known]
            if not missing:
                arguments = [known[id(t)] for t in node.input_tensors]
                results = self._apply(operation, node, arguments, sizes)
                known.update((id(t), signal) for t, signal in zip(node.output_tensors, results))
            waiting.extend(missing)
        return [known[id(tensor)] for tensor in model.outputs]

    def _apply(
        self, operation: Any, node: Any, arguments: list[Signal], sizes: dict[int, tuple]
    ) -> list[Signal]:
        """The outputs of one call of an operation."""
        shapes = _output_shapes(operation, node, sizes)
        sizes.update((id(t), shape) for t, shape in zip(node.output_tensors, shapes))
        if isinstance(operation, keras.Model):
            self.look_at(operation)
            inner = [sizes[id(t)] for t in node.input_tensors]
            return self.outputs(operation, arguments, inner)
        if isinstance(operation, keras.layers.Masking):
            raise ValueError(refusal(operation, "it makes a mask, which is not known here"))
        data = [one for one in (signal.data() for signal in arguments) if one is not None]
        if len(data) == len(arguments) and _acts_on_data(operation):
            return [_on_data(operation, node, data, shape, k) for k, shape in enumerate(shapes)]
        call = Call(operation, node, shapes[0], self._settings)
        rule, reason = registry.rule_of(operation)
        if rule is None:
            call.refuse(reason)
        if any(borrowed.get_mask(t) is not None for t in node.input_tensors):
            call.refuse("its input carries a mask, which is not known here")
        if getattr(operation, "data_format", None) == "channels_first":
            call.refuse("data_format must be 'channels_last'")
        try:
            result = rule(call, *arguments)
        except pairs.UnrelatedError as error:
            call.refuse(str(error), error)
        if not isinstance(result, Signal):
            raise TypeError(f"the rule for {type(operation).__name__} must return a signal")
        return [result]

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


def _on_data(
    operation: Any, node: Any, parents: list[Data], shape: tuple[int, ...], output: int
) -> Signal:
    """What Keras's own operation makes of data."""
    training = {"training": False} if getattr(operation, "_call_has_training_arg", False) else {}

    def function(*tensors: tf.Tensor) -> tf.Tensor:
        cast = (tf.cast(x, getattr(operation, "compute_dtype", x.dtype)) for x in tensors)
        known = {id(symbol): value for symbol, value in zip(node.input_tensors, cast)}
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
