"""Checks of arguments that several of the kernels' public functions take."""

import numpy as np
import tensorflow as tf

__all__ = ["fields", "inputs", "matrix", "number"]

_FIELDS = ("nngp", "ntk")


def fields(get):
    """The fields asked for, as a tuple."""
    names = (get,) if isinstance(get, str) else get
    known = isinstance(names, (tuple, list)) and all(name in _FIELDS for name in names)
    if not known or not names or len(set(names)) < len(names):
        raise ValueError(f"get must be of {_FIELDS} or a tuple of them. Received: get={get!r}")
    return tuple(names)


def inputs(name, x):
    """Inputs of a network as a float64 tensor."""
    try:
        tensor = tf.convert_to_tensor(x)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array of numbers. Received: {name}={x!r}") from error
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
        raise TypeError(f"{name} must be an array of real numbers. Received: {tensor.dtype.name}")
    tensor = tf.cast(tensor, tf.float64)
    if tf.executing_eagerly() and not np.isfinite(np.sum(tensor)):
        raise ValueError(f"{name} must be finite. Received NaN or infinite values.")
    return tensor


def matrix(name, value):
    """An array of finite real numbers in float64."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name} must be an array of real numbers. Received: {array.dtype}")
    array = array.astype(np.float64)
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite. Received NaN or infinite entries.")
    return array


def number(name, value, accepted, holds):
    """A real number for which `holds`; `accepted` says what that is."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = np.nan
    if not holds(result):
        raise ValueError(f"{name} must be {accepted}. Received: {name}={value!r}")
    return result
