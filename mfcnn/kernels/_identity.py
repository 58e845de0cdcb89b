"""What identifies a result: the whole configuration of the kernel, and the data themselves.

`describe` turns the value of a constructor's argument into plain data (None, booleans, numbers,
strings, lists, dictionaries) that differ wherever the kernels differ. Functions have no identity of
their own, two lambdas of two users least of all: they are described by their values on a grid.
"""

import functools
import hashlib
import json
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import activations

__all__ = ["describe", "describe_array", "difference", "short"]

# Dense near zero, and out to where floats overflow; not symmetric, so that no zero is special.
_GRID = np.concatenate([np.linspace(-9.7, 10.3, 4001), -np.logspace(-9, 9, 73), np.logspace(-8, 8)])
_NAMING = ("name", "keras_history", "input_layers", "output_layers")  # keys with names of layers
_LONG = 16  # entries up to which an array is written out


def describe(value: Any) -> Any:
    """Plain data that identify a value.

    Args:
        value: an argument of a kernel's constructor: None, a boolean, a number, a string, a dtype,
            an array or eager tensor, an `Activation`, a function of one array, a `keras.Model`, or
            a list, tuple or dictionary of these.

    Raises:
        TypeError: for anything else, and for a symbolic tensor: it has no value yet.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (tf.DType, np.dtype)):
        return value.name
    if isinstance(value, (float, np.generic)) or tf.is_tensor(value) or hasattr(value, "__array__"):
        return _numbers(value)
    if isinstance(value, (list, tuple)):
        return [describe(entry) for entry in value]
    if isinstance(value, Mapping):
        return {str(key): describe(entry) for key, entry in value.items()}
    if isinstance(value, activations.Activation):
        return _activation(value)
    if isinstance(value, keras.Model):
        return _model(value)
    if callable(value):
        return _function(value)
    raise TypeError(f"a {type(value).__name__} does not identify a kernel. Received: {value!r}")


def describe_array(value: Any) -> dict[str, Any]:
    """Shape, dtype and a digest of the bytes."""
    array = np.ascontiguousarray(value)
    shape, dtype = list(array.shape), array.dtype.name
    digest = hashlib.sha256(f"{dtype} {shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)  # no copy of a large array
    return {"shape": shape, "dtype": dtype, "sha256": digest.hexdigest()}


def short(value: Any) -> str:
    """The description on one line, for a repr."""
    if tf.is_tensor(value) and not hasattr(value, "numpy"):
        return "symbolic"
    described = describe(value)
    if isinstance(value, keras.Model):
        return f"<{type(value).__name__} {value.name!r}>"
    if isinstance(described, dict) and "values" in described:
        return f"<{described['name']} {described['values'][:8]}>"
    if isinstance(described, dict) and "sha256" in described:
        return f"<{described['dtype']} {described['shape']} {described['sha256'][:8]}>"
    return repr(described)


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Sentences that name where two descriptions differ: "padding is 'same', not 'valid'"."""
    absent = object()

    def shown(value: Any) -> str:
        text = "absent" if value is absent else json.dumps(value)
        return text if len(text) < 120 else text[:117] + "..."

    pairs = ((name, one.get(name, absent), other.get(name, absent)) for name in {**one, **other})
    return [f"{name} is {shown(a)}, not {shown(b)}" for name, a, b in pairs if a != b]


def _numbers(value: Any) -> Any:
    """A number, a short array as nested lists, or a digest."""
    if tf.is_tensor(value) and not hasattr(value, "numpy"):
        raise TypeError(f"a symbolic tensor has no value to identify a kernel by: {value!r}")
    array = np.asarray(value)
    if array.dtype.kind in "fiub" and array.size <= _LONG:
        return array.tolist()
    return describe_array(array)


def _on_grid(*functions: Callable[[tf.Tensor], Any]) -> str:
    with tf.init_scope():  # values, also while a function of the user's is traced
        grid = tf.constant(_GRID)
        values = [np.asarray(function(grid), np.float64) for function in functions]
    return describe_array(np.stack([np.broadcast_to(v, _GRID.shape) for v in values]))["sha256"]


def _remembered(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Computes once for each object, as long as it lives."""
    known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def remembering(value: Any) -> Any:
        try:
            if value not in known:
                known[value] = function(value)
            return known[value]
        except TypeError:  # an object without weak references or a hash
            return function(value)

    return remembering


def _activation(activation: activations.Activation) -> Any:
    """The name of one of the library's own, which no user can give another meaning; else values."""
    if activation.of_library:
        return activation.name
    return {"name": activation.name, "values": activation.identity.removeprefix("function ")}


@_remembered
def _function(function: Callable[[tf.Tensor], Any]) -> dict[str, str]:
    return {"name": getattr(function, "__name__", "function"), "values": _on_grid(function)}


def _model(model: keras.Model) -> dict[str, Any]:
    """Architecture, functions by their values, what is trained, and weights that act on data.

    The weights of dense layers and convolutions stand for random ones: they leave no trace.
    """
    functions = [
        (index, describe(layer.activation))
        for index, layer in enumerate(_layers(model))
        if callable(getattr(layer, "activation", None))
    ]
    return {
        "architecture": hashlib.sha256(_architecture(model).encode()).hexdigest(),
        "functions": functions,
        "trainable": [bool(weight.trainable) for weight in model.weights],
        "statistics": [describe_array(weight) for weight in _statistics(model)],
    }


def _architecture(model: keras.Model) -> str:
    """The model's JSON with layers numbered: Keras's names count the layers made before."""
    numbers: dict[str, int] = {}

    def numbered(value: Any, naming: bool = False) -> Any:
        if isinstance(value, dict):
            return {
                key: entry if key == "dtype" else numbered(entry, key in _NAMING)
                for key, entry in value.items()
                if key != "shared_object_id"
            }
        if isinstance(value, list):
            return [numbered(entry, naming) for entry in value]
        if naming and isinstance(value, str):
            return numbers.setdefault(value, len(numbers))
        return value

    return json.dumps(numbered(json.loads(model.to_json())))


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _statistics(model: keras.Model) -> list[Any]:
    """Weights that stand for themselves, not for random ones: those of Normalization, say."""
    kept = []
    for layer in _layers(model):
        if not hasattr(layer, "kernel") and not isinstance(layer, keras.layers.MultiHeadAttention):
            kept += layer.weights
    return kept
