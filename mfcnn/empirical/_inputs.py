"""Models and inputs as Keras takes them: one array or a structure, of any real dtype."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments, borrowed

__all__ = [
    "check_inference",
    "check_model",
    "convert",
    "length",
    "same_shape",
    "signature",
    "specs",
    "symbols",
    "take",
]


def check_model(model: Any) -> None:
    """Raises a clear error unless the model is a built Keras model with trainable weights."""
    if not isinstance(model, keras.Model):
        raise arguments.ArgumentTypeError(
            f"model must be a keras.Model. Received: model={type(model).__name__}"
        )
    if not model.built:
        raise ValueError(
            f"model must be built, so that it has weights: call model.build(input_shape) or "
            f"model(x) first. Received: the unbuilt model {model.name!r}"
        )
    if not model.trainable_variables:
        raise ValueError(f"model must have trainable weights. Received: {model.name!r} with none")
    dtypes = sorted({v.dtype for v in model.trainable_variables})
    if len(dtypes) > 1:
        raise ValueError(f"model must have weights of one dtype. Received: {dtypes}")
    outputs = getattr(model, "outputs", None) or ()
    if len(outputs) > 1:
        names = ", ".join(getattr(model, "output_names", [])) or len(outputs)
        raise ValueError(
            "model must have one output: take keras.Model(model.inputs, output) for each. "
            f"Received: {model.name!r} with the outputs {names}"
        )


def check_inference(model: keras.Model) -> None:
    """Raises ValueError if a functional model calls a layer with training=True.

    Keras lets `model(x, training=False)` override it, and `model(x)` not: neither is what is meant.
    """
    if _symbolic_config(model):
        training = sorted(set(_in_training(model.get_config())))
        if training:
            raise ValueError(
                "model must run in inference mode: a layer runs in training mode. "
                f"Received: {model.name!r}, which calls {', '.join(training)} with training=True"
            )


def _symbolic_config(model: keras.Model) -> bool:
    return type(model) in (keras.Model, keras.Sequential, borrowed.Functional)


def _in_training(config: Any, name: str = "") -> Iterator[str]:
    if isinstance(config, (list, tuple)):
        for entry in config:
            yield from _in_training(entry, name)
    elif isinstance(config, dict):
        name = config.get("name") or name
        if isinstance(config.get("kwargs"), dict) and config["kwargs"].get("training") is True:
            yield str(name)
        for entry in config.values():
            yield from _in_training(entry, name)


def convert(model: keras.Model, x: Any, name: str) -> Any:
    """The inputs as tensors, cast as Keras casts them: in the structure of the model's inputs.

    Args:
        model: a built model.
        x: one array (a tensor, a NumPy array, nested lists of numbers), or for models of several
            inputs a list or dict of them; of any real dtype.
        name: for messages.

    Raises:
        ArgumentTypeError: for what is no array of real numbers.
        ValueError: for shapes that do not fit the model, NaN and infinite numbers, and symbolic
            tensors.
    """
    if not tf.executing_eagerly():
        raise RuntimeError(
            f"{name} must be given outside of a tf.function: the measurement makes programs of its "
            "own, runs and verifies them. Compute it first and pass the result in"
        )
    symbolic = symbols(model)
    expected = keras.tree.flatten(symbolic)
    if symbolic is None:
        leaves = x if _is_structure(x) else [x]
        result = keras.tree.map_structure(lambda leaf: _leaf(leaf, model, None, name), leaves)
        result = result if _is_structure(x) else result[0]
    elif len(expected) == 1 and not isinstance(x, dict):
        only = x[0] if _is_structure(x) and len(x) == 1 else x
        leaf = _leaf(only, model, expected[0], name)
        result = keras.tree.pack_sequence_as(symbolic, [leaf])
    else:
        leaves = [
            _leaf(leaf, model, e, name) for leaf, e in zip(_named(symbolic, x, name), expected)
        ]
        result = keras.tree.pack_sequence_as(symbolic, leaves)
    sizes = {leaf.shape[0] for leaf in keras.tree.flatten(result)}
    if len(sizes) != 1:
        raise ValueError(f"{name} must hold inputs of one length. Received: {sorted(sizes)}")
    return result


def symbols(model: keras.Model) -> Any:
    """The symbolic inputs of a functional or Sequential model, None for a subclassed one."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0]
    return model.input if getattr(model, "inputs", None) else None


def _is_structure(x: Any) -> bool:
    """Whether it is a dict, or a list of arrays: not a list of numbers, nor of lists of them."""
    if isinstance(x, dict):
        return True
    return isinstance(x, (list, tuple)) and any(hasattr(leaf, "shape") for leaf in x)


def _named(structure: Any, x: Any, name: str) -> list:
    """The inputs in the model's order."""
    leaves = keras.tree.flatten(structure)
    names = [symbol.name for symbol in leaves]
    if isinstance(x, dict):
        keys = sorted(structure) if isinstance(structure, dict) else names
        if set(keys) != set(x):
            raise ValueError(f"{name} must have the keys {keys}. Received: {sorted(x)}")
        return [x[key] for key in keys]
    if not isinstance(x, (list, tuple)) or len(x) != len(leaves):
        count = len(x) if isinstance(x, (list, tuple)) else type(x).__name__
        raise arguments.ArgumentTypeError(
            f"{name} must be a list or dict of {len(leaves)} arrays, {names}. Received: {count}"
        )
    return list(x)


def _leaf(x: Any, model: keras.Model, expected: Any, name: str) -> tf.Tensor:
    if not tf.is_tensor(x):
        try:
            x = np.asarray(x)
        except (TypeError, ValueError) as error:
            raise arguments.ArgumentTypeError(
                f"{name} must be an array of real numbers. Received: {type(x).__name__}"
            ) from error
        if x.dtype.kind not in "fiub" and x.dtype.name != "bfloat16":
            raise arguments.ArgumentTypeError(
                f"{name} must be an array of real numbers. Received: {name}.dtype={x.dtype}"
            )
    if isinstance(x, (tf.RaggedTensor, tf.SparseTensor)):
        raise arguments.ArgumentTypeError(
            f"{name} must be dense. Received: {type(x).__name__}: call its to_tensor"
        )
    x = tf.convert_to_tensor(x)
    if not (x.dtype.is_floating or x.dtype.is_integer or x.dtype.is_bool):
        raise arguments.ArgumentTypeError(
            f"{name} must be an array of real numbers. Received: {name}.dtype={x.dtype.name}"
        )
    if x.shape.rank < 1:
        raise ValueError(f"{name} must be [n, ...]. Received: {name}.shape={x.shape}")
    if expected is not None:
        shape = tf.TensorShape([None, *expected.shape[1:]])
        if not shape.is_compatible_with(x.shape):
            raise ValueError(
                f"{name} must be of the model's input shape {tuple(expected.shape)}. "
                f"Received: {name}.shape={tuple(x.shape)}"
            )
        x = tf.cast(x, expected.dtype)
    elif x.dtype.is_floating:
        x = tf.cast(x, model.compute_dtype)
    if x.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(x))):
        raise ValueError(f"{name} must be finite. Received: NaN or infinite entries")
    return x


def length(x: Any) -> int:
    """The number of examples."""
    return keras.tree.flatten(x)[0].shape[0]


def take(x: Any, indices: Any) -> Any:
    """Some of the examples."""
    return keras.tree.map_structure(lambda leaf: tf.gather(leaf, indices), x)


def same_shape(x1: Any, x2: Any) -> None:
    """Raises ValueError unless both hold inputs of one shape and dtype."""
    if signature(x1) != signature(x2):
        shapes = [[tuple(leaf.shape) for leaf in keras.tree.flatten(x)] for x in (x1, x2)]
        raise ValueError(
            f"x1 and x2 must hold inputs of one shape and dtype. Received: {shapes[0]}, {shapes[1]}"
        )


def signature(x: Any) -> tuple:
    """What a trace depends on: structure, shapes of the examples, dtypes."""
    leaves = keras.tree.flatten(x)
    structure = str(keras.tree.map_structure(lambda leaf: 0, x))
    return structure, *((tuple(leaf.shape[1:]), leaf.dtype.name) for leaf in leaves)


def specs(x: Any, n: int | None) -> Any:
    """What traces with n examples."""
    return keras.tree.map_structure(lambda leaf: tf.TensorSpec([n, *leaf.shape[1:]], leaf.dtype), x)
