"""Traces of models: what an analysis of the graph found, and the programs made from it.

They are kept with the model, for the last few shapes of inputs, and thrown away when the model is
not what it was: another activation, another layer, another variable.
"""

import collections
import math
import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from mfcnn.empirical import _contraction, _functional, _identity, _inputs, _uses

__all__ = ["Trace", "traced", "trace_of"]

# A prime that no layer has as a width, so that an axis which has the batch's length by chance is
# not taken for the batch.
_PROBE = 7919
_KEPT_TRACES, _KEPT_PROGRAMS = 8, 16
_VIEWS = ("Identity", "Reshape", "Squeeze", "ExpandDims", "Placeholder", "StopGradient")


def traced(
    model: keras.Model, weights: list[tf.Tensor], x: Any, unknown: tuple[int, ...] = ()
) -> tuple[tf.Tensor, dict[int, list[_uses.Use]], tuple[int, ...]]:
    """The outputs [n, k] with the sorted weights: uses of the known, indices of the others."""
    y = _functional.evaluate(model, weights, x)
    _functional.check_deterministic(y.graph)
    n = _inputs.length(x)
    found = [None if i in unknown else _uses.find_uses(w, n) for i, w in enumerate(weights)]
    known = {i: uses for i, uses in enumerate(found) if uses}
    for i, uses in list(known.items()):
        if len(uses) > 1 and not all(_adds_up(use) for use in uses):
            found[i] = None
            del known[i]
    # A weight without any use has the derivative zero; one inside a loop or call is unknown.
    return y, known, tuple(i for i, uses in enumerate(found) if uses is None)


def _adds_up(use: _uses.Use) -> bool:
    """Whether the use's Jacobian is formed at no great cost, to be added to others'."""
    return use.kind != "lookup" or math.prod(use.shape) < 2**16


class Trace:
    """The analysis of a model for one shape of inputs; its graph is not run.

    Attributes:
        sizes: of every use, `_contraction.Size`, by the index of its variable.
        unknown: indices of the variables whose Jacobian is formed row by row.
        outputs: k.
        activations: floating numbers of the forward pass for each example.
        largest: of the tensors among them.
        loops: whether the graph holds loops.
        parameters: of all trainable variables.
        verified: what `_verification` found, by its arguments.
    """

    def __init__(self, model: keras.Model, x: Any):
        _inputs.check_inference(model)
        variables = model.trainable_variables
        found: list = []

        @tf.function(autograph=False)
        def probe(x: Any) -> None:
            found[:] = traced(model, [tf.identity(v.value) for v in variables], x)

        concrete = probe.get_concrete_function(_inputs.specs(x, _PROBE))
        y, known, self.unknown = found
        if y.shape.rank != 2 or y.shape[0] != _PROBE or y.shape[1] is None:
            raise ValueError(
                "model must have an output [n, ...] of known size for inputs [n, ...]. "
                f"Received: an output {y.shape} for {_PROBE} inputs"
            )
        self.outputs = int(y.shape[1])
        self.sizes = {
            i: [_contraction.size_of(use, _PROBE) for use in uses] for i, uses in known.items()
        }
        self.loops = any("While" in kind for kind in _functional.operation_types(y.graph))
        steps = max((size for leaf in keras.tree.flatten(x) for size in leaf.shape[1:2]), default=1)
        numbers = list(_activations(y.graph, steps))
        self.activations, self.largest = sum(numbers), max(numbers, default=0)
        self.parameters = sum(math.prod(v.shape) for v in variables)
        self.verified: dict[tuple, Any] = {}
        self._programs: collections.OrderedDict[tuple, Any] = collections.OrderedDict()
        self._plans: collections.OrderedDict[tuple, Any] = collections.OrderedDict()
        del concrete  # The graph had to live until here.

    def program(self, key: tuple, make: Callable[[], Any]) -> Any:
        """The program of a key; the last few are kept."""
        return _kept(self._programs, key, make, _KEPT_PROGRAMS)

    def plans(self, key: tuple, make: Callable[[], Any]) -> Any:
        """The plans of a key, likewise."""
        return _kept(self._plans, key, make, _KEPT_PROGRAMS)


def _activations(graph: Any, steps: int) -> Any:
    """Numbers for each example of the tensors that a forward pass makes, loops' times `steps`."""
    for op in graph.get_operations():
        if op.type in _VIEWS:
            continue
        for tensor in op.outputs:
            shape = tensor.shape
            if tensor.dtype.is_floating and shape.is_fully_defined() and _PROBE in shape.as_list():
                numbers = shape.num_elements() // _PROBE
                yield numbers * (8 * steps if "While" in op.type else 1)


def _kept(store: collections.OrderedDict, key: Any, make: Callable[[], Any], count: int) -> Any:
    if key not in store:
        value = make()
        while len(store) >= count:
            store.popitem(last=False)
        store[key] = value
    store.move_to_end(key)
    return store[key]


class _Model:
    """The traces of one model, as it is."""

    def __init__(self) -> None:
        self._state: Any = None
        self._contents: dict[tuple, tuple] = {}
        self._traces: collections.OrderedDict[tuple, Trace] = collections.OrderedDict()

    def trace(self, model: keras.Model, x: Any) -> Trace:
        attributes, key = _identity.Attributes(model), _inputs.signature(x)
        if attributes.state != self._state:
            self._state = attributes.state
            self._traces.clear()
            self._contents.clear()
        elif attributes.foreign and key in self._traces:
            if _content(model, x) != self._contents[key]:
                del self._traces[key]
        made = key not in self._traces
        trace = _kept(self._traces, key, lambda: Trace(model, x), _KEPT_TRACES)
        if attributes.foreign and made:
            self._contents[key] = _content(model, x)
        return trace


def _content(model: keras.Model, x: Any) -> tuple:
    """The digest of the vector-Jacobian product: also custom gradients count."""

    @tf.function(autograph=False)
    def product(x: Any) -> list[tf.Tensor]:
        weights = _functional.initial_values(model)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            y = _functional.evaluate(model, weights, x)
        return tape.gradient(y, weights, unconnected_gradients="zero")

    return _identity.graph_content(product.get_concrete_function(_inputs.specs(x, 2)).graph)


_MODELS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def trace_of(model: keras.Model, x: Any) -> Trace:
    """The `Trace` of a model, as it is at this moment, for inputs like x."""
    return _MODELS.setdefault(model, _Model()).trace(model, x)
