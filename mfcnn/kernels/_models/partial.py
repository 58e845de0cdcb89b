"""Reads a model as far as its layers are known; where one is not, what is behind it stays unknown.

`from_keras` refuses a model with a layer that has no rule. Here such a layer, and all that depends
on its outputs, is None, with the reason beside it.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mfcnn import borrowed
from mfcnn.kernels import _base
from mfcnn.kernels._models import covariance, pairs, reading
from mfcnn.kernels._models.nodes import Affine, Node
from mfcnn.kernels._models.operations import Elementwise, Normalized
from mfcnn.kernels._models.signals import Part, Signal
from mfcnn.kernels._models.stack import Stack

__all__ = ["Moments", "Reading", "Record", "evaluate", "read"]

_LARGEST = 2**23  # entries of a covariance, 64 MiB a tensor


class Record(NamedTuple):
    """One call of a layer.

    Attributes:
        operation: the layer, or one of Keras's operations.
        arguments: what comes in; None is not known.
        signal: its pre-activations where it has weights and an activation, else its output.
        output: its output.
        reason: why it is not known; empty where it is.
    """

    operation: Any
    arguments: list[Signal | None]
    signal: Signal | None
    output: Signal | None
    reason: str


class Reading(NamedTuple):
    """The calls of a model in the order in which Keras runs them, and its outputs' signals."""

    records: list[Record]
    outputs: list[Signal | None]


class Moments(NamedTuple):
    """What is known of a node on a batch of n inputs.

    Attributes:
        mean: [*sizes, n]; None is zero, NaN not known.
        variance: E[z^2], [*sizes, n].
        covariance: E[z(x) z(x')] at equal positions, the mean over them, [n, n].
        deviation: of a normalization, what it divides by, [*sizes, n].
        first: of a stack of layers, the variance at the first of them, [*sizes, n].
    """

    mean: np.ndarray | None
    variance: np.ndarray
    covariance: np.ndarray
    deviation: np.ndarray | None = None
    first: np.ndarray | None = None


def read(
    model: keras.Model,
    shapes: Sequence[Sequence[int]],
    linear: Collection[int] = (),
    unknown: Callable[[Any], str] = lambda operation: "",
) -> Reading:
    """Reads a model, for inputs of these shapes [n, ...].

    Args:
        model: a built model; of one that is no graph nothing is known.
        shapes: of its inputs.
        linear: identities of layers whose activation is left out.
        unknown: why an operation is not to be read, though it has a rule; "" if it is.
    """
    settings = reading.Settings(model, standard=True, sampled=False)
    # Only of kernels and biases are gradients asked: what else is trained, the scale of a
    # normalization or a depthwise filter, is to the signals a weight as any.
    settings.trained = {
        id(v) for v in model.trainable_variables if v.name in ("kernel", "bias", "embeddings")
    }
    reader = _PartialReader(settings, linear, unknown)
    try:
        reader.look_at(model)
    except ValueError:
        return Reading([], [])
    inputs = [
        Signal([Part(shape[-1], reading._input(index, shape))])
        if len(shape) > 1
        else None  # a number for each input: Keras's layers add the axis themselves
        for index, shape in enumerate(shapes)
    ]
    return Reading(reader.records, reader.outputs(model, inputs, shapes))


class _PartialReader(reading._Reader):
    """Walks a graph in Keras's order and goes on behind what it cannot read."""

    def __init__(
        self, settings: reading.Settings, linear: Collection[int], unknown: Callable[[Any], str]
    ) -> None:
        super().__init__(settings)
        self.records: list[Record] = []
        self._linear, self._unknown = linear, unknown

    def outputs(self, model: keras.Model, inputs: Sequence[Any], shapes: Sequence[Any]) -> list:
        """The signals of a functional graph's outputs; None is not known."""
        known = {id(t): signal for t, signal in zip(model.inputs, inputs)}
        sizes = {id(t): tuple(shape) for t, shape in zip(model.inputs, shapes)}
        for node in borrowed.graph_nodes(model):
            if any(id(t) not in sizes for t in node.input_tensors):
                continue  # Keras does not run it either
            arguments = [known.get(id(t)) for t in node.input_tensors]
            results = self._apply(node.operation, node, arguments, sizes)
            known.update((id(t), signal) for t, signal in zip(node.output_tensors, results))
        return [known.get(id(tensor)) for tensor in model.outputs]

    def _apply(self, operation: Any, node: Any, arguments: list, sizes: dict) -> list:
        shapes = reading._output_shapes(operation, node, sizes)
        sizes.update((id(t), shape) for t, shape in zip(node.output_tensors, shapes))
        nothing: list[Signal | None] = [None] * len(shapes)
        if isinstance(operation, keras.Model):
            try:
                self.look_at(operation)
            except ValueError as error:
                self.records.append(Record(operation, arguments, None, None, str(error)))
                return nothing
            return self.outputs(operation, arguments, [sizes[id(t)] for t in node.input_tensors])
        signal, results, reason = None, nothing, self._unknown(operation)
        if reason:
            pass
        elif any(one is None for one in arguments):
            reason = "what comes before it is not known"
        elif id(operation) in self._linear and isinstance(operation, keras.layers.Softmax):
            signal, results = arguments[0], list(arguments)
        else:
            signal, results, reason = self._read(operation, node, arguments, sizes, nothing)
        self.records.append(Record(operation, arguments, signal, results[0], reason))
        return results

    def _read(
        self, operation: Any, node: Any, arguments: list, sizes: dict, nothing: list
    ) -> tuple[Signal | None, list, str]:
        """The pre-activations, the outputs, and why they are not known."""
        has_activation = callable(vars(operation).get("activation"))
        reason = ""
        if id(operation) not in self._linear:
            try:
                results = super()._apply(operation, node, arguments, sizes)
                return _before_activation(operation, results[0]), results, ""
            except ValueError as error:
                reason = str(error)
        if not has_activation or isinstance(operation, keras.layers.Activation):
            return None, nothing, reason
        # What the layer is without its activation.
        attributes = vars(operation)
        function, attributes["activation"] = attributes["activation"], keras.activations.linear
        try:
            results = super()._apply(operation, node, arguments, sizes)
        except ValueError as error:
            return None, nothing, str(error)
        finally:
            attributes["activation"] = function
        return results[0], nothing if reason else results, reason


def _before_activation(operation: Any, output: Signal) -> Signal:
    """The pre-activations of a layer with weights and an activation of its own."""
    if isinstance(operation, keras.layers.Activation) or not vars(operation).get("activation"):
        return output
    return output.each(lambda node: node.parents[0] if isinstance(node, Elementwise) else node)


def evaluate(nodes: Sequence[Node], inputs: Sequence[tf.Tensor]) -> dict[Node, Moments]:
    """Moments of nodes, and of all below them, on a batch; of data none.

    Where the pairs of positions that an average asks for are too many, the nodes from there on are
    left out.

    Args:
        nodes: any, each once.
        inputs: a tensor [n, ...] of float64 for each input of the model.
    """
    order = pairs.ordered(list(nodes))
    n = int(inputs[0].shape[0])
    asks = any(node.asks_pairs for node in order)
    if asks and max(pairs.entries(node, True) for node in order) * n**2 > _LARGEST:
        order, asks = _without_averages(order), False
    rows = tf.concat([tf.reshape(x, [n, -1]) for x in inputs], 1)
    ids, _ = _base.identities(rows, None)
    same = tf.equal(ids[:, None], ids[None, :])
    evaluation = pairs.Evaluation([(x, x) for x in inputs], same, asks, {})
    found: dict[Node, Moments] = {}

    def visit(node: Node) -> None:
        found[node] = _moments(evaluation, node)

    try:
        evaluation.run(order, [], visit)
    except (ValueError, tf.errors.InvalidArgumentError):
        pass  # a variance that overflows: what comes behind it is not known
    return found


def _without_averages(order: Sequence[Node]) -> list[Node]:
    """The nodes that no average over positions goes into."""
    kept: dict[Node, None] = {}
    for node in order:
        if not node.asks_pairs and all(parent in kept for parent in node.parents):
            kept[node] = None
    return list(kept)


def _moments(evaluation: pairs.Evaluation, node: Node) -> Moments:
    value, layout = evaluation.own(node), evaluation.layout(node)
    try:
        mean = evaluation.mean(node)
        average = None if mean is None else np.asarray(mean[0])
    except ValueError:  # not known
        average = np.full(1, np.nan)
    equal = covariance.variances(value.nngp, layout)
    deviation = first = None
    variance = covariance.variances(value.self1, layout)
    if isinstance(node, Normalized):
        deviation = np.asarray(node.statistics(evaluation, 0)[1] + tf.zeros_like(variance))
    if isinstance(node, Stack):
        value = Affine.combine(node, evaluation, [evaluation.own(p) for p in node.parents])
        first = np.asarray(covariance.variances(value.self1, layout))
    return Moments(
        average,
        np.asarray(variance),
        np.asarray(tf.reduce_mean(equal, list(range(layout.rank)))),
        deviation,
        first,
    )
