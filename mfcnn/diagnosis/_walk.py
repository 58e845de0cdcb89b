"""The layers of a model: which are looked at one by one, which end it, and how one is wrapped."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from mfcnn import borrowed
from mfcnn import layers as own

__all__ = ["OPAQUE", "has_inside", "inside", "leaves", "output_operations", "replaced"]

L = keras.layers
# Layers that call what is inside of them many times: looked at from outside.
OPAQUE = (L.RNN, L.Wrapper, own.Repeat, own.DeepConvolution, own.DeepDense)


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Gives one object another attribute for a while, behind the back of Keras's bookkeeping."""
    attributes = vars(owner)
    before, had = attributes.get(name), name in attributes
    attributes[name] = value
    try:
        yield
    finally:
        if had:
            attributes[name] = before
        else:
            del attributes[name]


def output_operations(model: keras.Model) -> set[int]:
    """Identities of the operations that make the outputs of a graph; none of other models."""
    found, waiting = set(), [model]
    while waiting:
        for tensor in getattr(waiting.pop(), "outputs", None) or ():
            operation = tensor._keras_history.operation
            found.add(id(operation))
            if isinstance(operation, keras.Model):
                waiting.append(operation)
    return found


def has_inside(layer: Any) -> bool:
    """Whether the layers inside of a layer are looked at one by one."""
    if isinstance(layer, OPAQUE) or not isinstance(layer, keras.Layer):
        return False
    return bool(inside(layer))


def inside(layer: Any) -> list[Any]:
    """The layers and operations that a layer holds itself."""
    if isinstance(layer, keras.Sequential):
        return list(layer.layers)
    if isinstance(layer, borrowed.Functional):
        return list(layer.operations)
    function = vars(layer).get("activation")  # a layer that only serves as one
    return [one for one in borrowed.inner_layers(layer) if one is not function]


def leaves(model: keras.Model, and_outer: bool = False) -> list[Any]:
    """The layers and operations of a model that are looked at, each once; no models.

    Args:
        model: any.
        and_outer: also layers whose inner layers are looked at.
    """
    found: dict[int, Any] = {}
    seen, waiting = set(), [model]
    while waiting:
        layer = waiting.pop()
        if id(layer) in seen or isinstance(layer, L.InputLayer):
            continue
        seen.add(id(layer))
        outer = has_inside(layer)
        if outer:
            waiting.extend(inside(layer))
        if not isinstance(layer, keras.Model) and (and_outer or not outer):
            found[id(layer)] = layer
    return list(found.values())
