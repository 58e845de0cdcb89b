"""Compiled programs: one for each configuration and shape, in a cache of bounded size.

A program is a graph, made in a tenth of XLA's time; XLA compiles it where its work pays for that.
The work alone decides: the two differ in the last bits, and a run that goes on after a kill must
not find other bits than one that was not. Graphs that leave the cache leave memory; what XLA
compiles stays with TensorFlow for good (2 to 15 MB a shape).
"""

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn.borrowed import call_with_tensors, could_possibly_record, function_executor_type

__all__ = ["clear_cache", "run"]

# Layers times pairs of positions from which XLA's compilation, seconds, pays for itself.
_COMPILE_FROM = 25_000
_ARRAYS = (np.ndarray, tf.Tensor)
_ARRAY = object()  # where one stands among what is part of a program
_SIZE = 20  # programs that are kept: up to 10 MB each


class _Cache:
    """The programs used last."""

    def __init__(self, size: int):
        self._size, self._lock = size, threading.Lock()
        self._programs: collections.OrderedDict[Hashable, Callable] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._programs)

    def clear(self) -> None:
        """Forgets all programs."""
        with self._lock:
            self._programs.clear()

    def find(self, key: Hashable, make: Callable[[], Callable]) -> Callable:
        """The program of a key, made by `make` if it is new."""
        with self._lock:
            if key not in self._programs:
                self._programs[key] = make()
            self._programs.move_to_end(key)
            while len(self._programs) > self._size:
                self._programs.popitem(last=False)
            return self._programs[key]


_CACHE = _Cache(_SIZE)


def clear_cache() -> None:
    """Forgets the compiled programs of all kernels; the next calls make them anew.

    Example:
        >>> mfcnn.kernels.clear_cache()
    """
    _CACHE.clear()


def run(key: Hashable, body: Callable, arguments: Any, work: float | None) -> Any:
    """body(*arguments), by a compiled program where none is being traced.

    Args:
        key: all that decides what `body` computes, beside the arguments.
        body: a function of tensors.
        arguments: a tuple that may hold arrays, tensors, and what is part of the program (None,
            integers, ...), in any nesting.
        work: layers times pairs of positions; None for a graph that XLA never compiles.
    """
    if not tf.executing_eagerly():
        return body(*arguments)
    leaves = tf.nest.flatten(arguments)
    tensors = [
        a if isinstance(a, tf.Tensor) else tf.convert_to_tensor(a)
        for a in leaves
        if isinstance(a, _ARRAYS)
    ]
    static = tuple(_ARRAY if isinstance(a, _ARRAYS) else a for a in leaves)
    shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)
    recorded = could_possibly_record()
    # The gradient of a loop reads what XLA does not hand out.
    compiled = not recorded and work is not None and work > _COMPILE_FROM

    def make() -> Callable:
        def flat(*tensors: tf.Tensor) -> Any:
            remaining = iter(tensors)
            filled = [next(remaining) if a is _ARRAY else a for a in static]
            return body(*tf.nest.pack_sequence_as(arguments, filled))

        function = tf.function(flat, jit_compile=compiled, autograph=False)
        # One trace: a program of other shapes is another function, and TensorFlow does not warn.
        return function.get_concrete_function(*(tf.TensorSpec(*each) for each in shapes))

    # Structures are compared by their leaves and by the key, which names the architecture.
    name = (key, static, shapes, recorded, compiled)
    if recorded:
        return _CACHE.find(name, make)(*tensors)
    # Where XLA does not pay, the queue of a parallel executor costs a fifth of the call.
    small = not compiled and work is not None
    with function_executor_type("SINGLE_THREADED_EXECUTOR" if small else None):
        return call_with_tensors(_CACHE.find(name, make), tensors)
