"""Whole kernels from their blocks: filled in memory, or put together where a tape records."""

import math
import threading
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["Filled", "Recorded"]


class Filled:
    """Kernels that are filled block by block: nothing else of their size is ever held."""

    def __init__(self, n1: int, n2: int, wanted: tuple[bool, ...]):
        self._sizes, self._wanted, self._lock = (n1, n2), wanted, threading.Lock()
        self._kernels: list[np.ndarray | None] = []
        self._scales: list[tuple[tuple, np.ndarray]] = []

    def put(self, place: tuple, parts: list[tf.Tensor], scale: tf.Tensor) -> None:
        """Takes the parts [..., *place] of both kernels, divided by exp(scale)."""
        with self._lock:
            if not self._kernels:
                shape = [*scale.shape, *self._sizes]
                dtype = parts[0].dtype.as_numpy_dtype
                self._kernels = [_aligned(shape, dtype) if w else None for w in self._wanted]
            self._scales.append((place, scale.numpy()))
        for kernel, part in zip(self._kernels, parts):
            if kernel is not None:
                kernel[(..., *place)] = part.numpy()

    def result(self) -> tuple[Any, Any, tf.Tensor]:
        """Both kernels, None for what was not asked for, and the scale that they share."""
        largest = np.max([scale for _, scale in self._scales], axis=0)
        nngp, ntk = self._kernels
        for place, scale in self._scales:
            if ntk is not None and np.any(scale != largest):
                rank = np.ndim(ntk[(..., *place)]) - np.ndim(scale)
                ntk[(..., *place)] *= np.exp(scale - largest).reshape([*scale.shape, *[1] * rank])
        return _as_tensor(nngp), _as_tensor(ntk), tf.constant(largest)


class Recorded:
    """The same as operations that a gradient tape records."""

    def __init__(self, n1: int, n2: int, wanted: tuple[bool, ...]):
        del wanted
        self._sizes = n1, n2
        self._parts: list[tuple[np.ndarray, list[tf.Tensor], tf.Tensor]] = []

    def put(self, place: tuple, parts: list[tf.Tensor], scale: tf.Tensor) -> None:
        """As `Filled.put`."""
        grid = np.arange(self._sizes[0] * self._sizes[1]).reshape(self._sizes)
        self._parts.append((grid[place], parts, scale))

    def result(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """As `Filled.result`."""
        largest = tf.reduce_max(tf.stack([scale for *_, scale in self._parts]), 0)
        order = np.argsort(np.concatenate([np.ravel(index) for index, *_ in self._parts]))
        kernels = []
        for field in range(2):
            vectors = []
            for _, parts, scale in self._parts:
                vector = tf.reshape(parts[field], [*scale.shape, -1])
                factor = tf.exp(scale - largest)[..., None] if field else 1.0
                vectors.append(vector * factor)
            kernel = tf.gather(tf.concat(vectors, -1), order, axis=-1)
            kernels.append(tf.reshape(kernel, [*largest.shape, *self._sizes]))
        return kernels[0], kernels[1], largest


def _aligned(shape: list[int], dtype: Any) -> np.ndarray:
    """An array whose memory a tensor may share."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def _as_tensor(array: np.ndarray | None) -> tf.Tensor | None:
    """The array as a tensor in the same memory: it is written no more."""
    if array is None:
        return None
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
