"""What a model is at this moment, so that a trace of it is used only while it is the same.

A model made of the layers and functions of Keras and of this package is known by their attributes:
numbers by value, arrays by content, functions and objects by identity. One that holds code of a
user's (a layer, an activation, a Lambda) may depend on anything, also on globals: it is traced
anew, forward and backward, and the graph's content decides.
"""

import functools
import hashlib
import inspect
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

__all__ = ["Attributes", "graph_content"]

_TRUSTED = ("keras", "mfcnn", "tensorflow", "numpy", "builtins", "functools")
# Changed by calls, fits and compilations; no trace depends on them.
_PASSING = {
    "_called",
    "_compile_config",
    "_compile_loss",
    "_compile_metrics",
    "_compiled_trainable_state",
    "_eval_epoch_iterator",
    "_inbound_nodes",
    "_jit_compile",
    "_loss_ids",
    "_losses",
    "_losses_override",
    "_loss_tracker",
    "_metrics",
    "_outbound_nodes",
    "_steps_seen",
    "compiled",
    "history",
    "loss",
    "optimizer",
    "predict_function",
    "stop_predicting",
    "stop_training",
    "test_function",
    "train_function",
}


class _Reference:
    """An object by identity, which a new object at the same address does not pass for."""

    def __init__(self, value: Any):
        self._get: Callable[[], Any]
        try:
            self._get = weakref.ref(value)
        except TypeError:
            self._get = lambda: value

    def __eq__(self, other: object) -> bool:
        mine = self._get()
        return isinstance(other, _Reference) and mine is not None and mine is other._get()

    def __hash__(self) -> int:
        return 0


class Attributes:
    """The attributes of a model and of all layers in it.

    Attributes:
        state: a nested tuple to compare.
        foreign: whether code that is neither Keras's nor this package's belongs to the model.
    """

    def __init__(self, model: keras.Model):
        self.foreign = False
        self._seen: dict[int, int] = {}
        variables = tuple(_Reference(v) for v in model.trainable_variables)
        self.state = (variables, keras.config.dtype_policy().name, self._layer(model))

    def _layer(self, layer: Any) -> Any:
        if id(layer) in self._seen:
            return self._seen[id(layer)]
        self._seen[id(layer)] = len(self._seen)
        self._trust(type(layer).__module__)
        items = [
            (name, value)
            for name, value in vars(layer).items()
            if name not in _PASSING and not name.startswith("_self_")
        ]
        return _Reference(layer), *((name, self._atom(value)) for name, value in items)

    def _trust(self, module: str | None) -> None:
        if (module or "builtins").split(".")[0] not in _TRUSTED:
            self.foreign = True

    def _atom(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            return type(value).__name__, value if value == value else "nan"
        if isinstance(value, keras.layers.Layer):
            return self._layer(value)
        if isinstance(value, np.ndarray):
            return value.shape, value.dtype.str, hashlib.sha256(value.tobytes()).digest()
        if isinstance(value, dict):
            return tuple((str(key), self._atom(entry)) for key, entry in value.items())
        if isinstance(value, (list, tuple)):
            return tuple(self._atom(entry) for entry in value)
        if isinstance(value, types.MethodType):
            return self._atom(value.__func__), _Reference(value.__self__)
        if isinstance(value, functools.partial):
            return self._atom(value.func), self._atom(value.args), self._atom(value.keywords)
        if callable(value) and not isinstance(value, keras.Variable):
            self._trust(getattr(value, "__module__", None) or type(value).__module__)
            held = getattr(value, "__dict__", {}).values()
            return _Reference(value), *(self._atom(f) for f in held if inspect.isfunction(f))
        return _Reference(value)


def graph_content(graph: Any) -> tuple:
    """A digest of what a graph computes, and what it captures, by identity.

    Names of functions carry counters that differ between equal traces; nodes are named by their
    order, functions by their content.
    """
    definition = graph.as_graph_def()
    functions = {f.signature.name: f for f in definition.library.function}
    known: dict[str, bytes] = {}

    def digest_of(name: str) -> bytes:
        if name not in known:
            known[name] = b""  # A function that calls itself.
            if name in functions:
                f = functions[name]
                arguments = [argument.name for argument in f.signature.input_arg]
                known[name] = _nodes(f.node_def, arguments, digest_of)
        return known[name]

    captured = tuple(_Reference(external) for external, _ in graph.captures)
    return _nodes(definition.node, [], digest_of), captured


def _nodes(nodes: Iterable[Any], arguments: list[str], digest_of: Any) -> bytes:
    number = {name: i for i, name in enumerate(arguments)}
    digest = hashlib.sha256()
    for node in nodes:
        number[node.name] = len(number)
    for node in nodes:
        digest.update(node.op.encode())
        for source in node.input:
            name, _, rest = source.lstrip("^").partition(":")
            digest.update(f"{source[:1] == '^'} {number.get(name)} {rest};".encode())
        for name, value in sorted(node.attr.items()):
            if name.startswith("_"):
                continue
            digest.update(name.encode())
            called = [value.func.name] if value.HasField("func") else []
            called += [f.name for f in value.list.func]
            for function in called:
                digest.update(digest_of(function))
            if not called:
                digest.update(value.SerializeToString(deterministic=True))
    return digest.digest()
