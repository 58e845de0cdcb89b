"""The kernel of a fully connected network: whole in one program, in blocks, or interpolated."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn.borrowed import could_possibly_record
from mfcnn.kernels import (
    _blocks,
    _equal_norm,
    _first_layer,
    _geometry,
    _layered,
    _programs,
    _recursion,
)

__all__ = ["FullyConnectedKernel"]

# Pairs from which an interpolation over the correlation pays for inputs of equal norm.
_INTERPOLATE_FROM = 2**14


class FullyConnectedKernel(_layered.LayeredKernel):
    """See `fully_connected`."""

    _name, _block = "fully_connected", 256
    _layout = _geometry.FullyConnected()

    @property
    def sees_angles_only(self) -> bool:
        """Whether there is one depth: a function of norms and angles."""
        return not isinstance(self.depth, tuple)

    def _check(self, name: str, x: tf.Tensor) -> None:
        if x.shape.rank != 2 or not x.shape[1]:
            raise ValueError(
                f"{name} must be [batch, features] with at least one feature. Received: "
                f"{name}.shape={x.shape}"
            )

    def _linear(self, x1: tf.Tensor, x2: tf.Tensor | None) -> tf.Tensor:
        weight_variance, bias_variance = self._parameters
        products = _layered.inner_products(x1, x1 if x2 is None else x2)
        return weight_variance * products / x1.shape[1] + bias_variance

    def _deep(self, x1: tf.Tensor, x2: tf.Tensor | None, scaled: bool, run: _blocks.Run) -> tuple:
        n1, n2 = x1.shape[0], (x1 if x2 is None else x2).shape[0]
        if not tf.executing_eagerly():
            return self._whole(x1, x2, scaled)[:3]
        if not scaled and n1 * n2 >= _INTERPOLATE_FROM and not could_possibly_record():
            start = _Start(x1, x2, self)
            if _equal_norm.applies(start.q1, start.q2):
                result = self._interpolated(start, run)
                if result is not None:
                    return result
        begin = functools.partial(_Start, x1, x2, self)
        if max(n1, n2) > self._block:
            return self._in_blocks(begin(), scaled, run)

        def block(*_: Any) -> tuple:
            *values, close = self._whole(x1, x2, scaled)
            if not close:
                return tuple(values)
            accurate = self._in_blocks(begin(), scaled, _blocks.Run())
            return accurate if x2 is not None else _layered.symmetric(accurate)

        return run.grid(block, n1, None if x2 is None else n2, self._block)

    def _whole(self, x1: tf.Tensor, x2: tf.Tensor | None, scaled: bool) -> tuple:
        """The kernels in one program, from the inputs on, and whether some inputs are close.

        A program that is traced, not run, takes care of close inputs itself; else they are so rare
        that a second way through it would cost more to compile than it ever saves.
        """
        second, whole = x1 if x2 is None else x2, not tf.executing_eagerly()
        layers = self._layers(
            lambda: _blocks.extremes(
                *(_first_layer.variance(x, self._parameters) for x in (x1, second))
            )
        )

        def body(x1: tf.Tensor, x2: tf.Tensor | None, parameters: tuple, layers: list) -> tuple:
            first = _first_layer.fully_connected(x1, x2, parameters)
            close = tf.reduce_any(_first_layer.suspects(first.gap, first.same))
            if whole:
                second = x1 if x2 is None else x2
                first = _first_layer.close_gaps(x1, second, first, self._layout, parameters)
            values = self._propagate(first, parameters, layers, self._layout, scaled, whole)
            return (*(values if x2 is not None else _layered.symmetric(values)), close)

        pairs = (x1.shape[0] or 0) * (second.shape[0] or 0)
        return self._run(("whole", scaled), body, (x1, x2), layers, pairs)

    def _in_blocks(self, start: "_Start", scaled: bool, run: _blocks.Run) -> tuple:
        layers = self._layers(lambda: _blocks.extremes(start.q1, start.q2))
        pairs = start.n1 * (start.n2 or start.n1)

        def body(close: bool, first: _recursion.First, parameters: tuple, layers: list) -> tuple:
            return self._propagate(first, parameters, layers, self._layout, scaled, close)

        def block(rows: np.ndarray, columns: np.ndarray) -> tuple:
            first, close = start.block(rows, columns)
            return self._run(("block", scaled), body, (close, first), layers, pairs)

        return run.grid(block, start.n1, start.n2, self._block)

    def _interpolated(self, start: "_Start", run: _blocks.Run) -> tuple | None:
        """The kernels by `_equal_norm`, or None if they are not resolved."""
        layers = self._layers(lambda: _blocks.extremes(start.q1, start.q2))
        size = 1024  # one pass over a block: there is nothing to keep in cache
        parts = _blocks.grid_parts(start.n1, start.n2, size)
        # A few blocks are kept from the first pass to the second; many would fill the memory.
        first_layer = functools.cache(start.block_at) if len(parts) <= 4 else start.block_at

        def body(first: _recursion.First, parameters: tuple, layers: list) -> tuple:
            return self._propagate(first, parameters, layers, self._layout, False, True)

        def evaluate(nodes: np.ndarray) -> tf.Tensor:
            q1 = start.q1[:1]
            # The last node is the pair of an input with itself.
            same = np.arange(nodes.size) == nodes.size - 1
            gap = tf.constant(nodes[None, :])
            equal = tf.zeros_like(gap)  # q1 - q2
            signals = q1, tf.repeat(q1, nodes.size)
            first = _recursion.First(*signals, gap, tf.constant(same[None, :]), equal)
            # Compiled by XLA at any depth: some dozens of nodes would be all overhead.
            nngp, ntk, _ = self._run(("nodes",), body, (first,), layers, np.inf)
            return tf.concat([tf.reshape(kernel, [-1, nodes.size]) for kernel in (nngp, ntk)], 0)

        firsts = (first_layer(*map(_span, part))[0] for part in parts)
        found = _equal_norm.Interpolation.find(
            ((first.gap, first.same) for first in firsts), evaluate
        )
        if found is None:
            return None

        def block(rows: np.ndarray, columns: np.ndarray) -> tuple:
            first, _ = first_layer(_span(rows), _span(columns))
            nngp, ntk = tf.split(tf.cast(found(first.gap, first.same), self.dtype), 2)
            if isinstance(self.depth, tuple):
                return nngp, ntk, tf.zeros(nngp.shape[:1], self.dtype)
            return nngp[0], ntk[0], tf.zeros([], self.dtype)

        return run.grid(block, start.n1, start.n2, size, route="equal norms")


class _Start:
    """The first layer of many inputs, by blocks."""

    def __init__(self, x1: tf.Tensor, x2: tf.Tensor | None, kernel: FullyConnectedKernel):
        self._x1, self._x2 = x1, x1 if x2 is None else x2
        self._kernel, self._symmetric = kernel, x2 is None
        self.n1, self.n2 = x1.shape[0], None if x2 is None else x2.shape[0]
        self.q1 = _first_layer.variance(x1, kernel._parameters)
        self.q2 = self.q1 if x2 is None else _first_layer.variance(x2, kernel._parameters)

    def block_at(self, rows: tuple[int, int, int], columns: tuple[int, int, int]) -> Any:
        """As `block`, of the spans of indices."""
        return self.block(*(np.minimum(np.arange(k, k + n), end) for k, n, end in (rows, columns)))

    def block(self, rows: np.ndarray, columns: np.ndarray) -> tuple[_recursion.First, bool]:
        """The signals and gaps of some rows and columns, and whether some inputs are close."""
        x1 = _rows(self._x1, rows)
        again = self._symmetric and rows[0] == columns[0] and len(rows) == len(columns)
        x2 = x1 if again else _rows(self._x2, columns)
        products = _layered.inner_products(x1, x2)
        q1, q2 = tf.gather(self.q1, rows), tf.gather(self.q2, columns)
        same = tf.constant(self._symmetric & np.equal.outer(rows, columns))
        parameters = self._kernel._parameters
        features = self._x1.shape[1]
        signals = q1, q2, products, same, features, parameters
        gap, any_close = _programs.run("gaps", _gaps, signals, np.inf)
        first = _recursion.First(q1, q2, gap, same)
        close = could_possibly_record() or bool(any_close)
        if close:
            data = x1, x2, first, parameters
            first = _programs.run("close gaps", _close_gaps, data, None)
        return first, close


def _span(indices: np.ndarray) -> tuple[int, int, int]:
    """(first, number, last) of indices that are a range whose last one may be repeated."""
    return int(indices[0]), len(indices), int(indices[-1])


def _rows(x: tf.Tensor, rows: np.ndarray) -> tf.Tensor:
    """Some rows: x itself where they are all of it, a slice, which copies nothing, of a range."""
    if len(rows) == x.shape[0]:
        return x
    first, count, last = _span(rows)
    return x[first : last + 1] if last - first + 1 == count else tf.gather(x, rows)


def _gaps(
    q1: tf.Tensor,
    q2: tf.Tensor,
    products: tf.Tensor,
    same: tf.Tensor,
    features: int,
    parameters: tuple[tf.Tensor, tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    gap = _first_layer.gap_of_products(q1, q2, products, features, parameters)
    return gap, tf.reduce_any(_first_layer.suspects(gap, same))


def _close_gaps(
    x1: tf.Tensor, x2: tf.Tensor, first: _recursion.First, parameters: tuple[tf.Tensor, tf.Tensor]
) -> _recursion.First:
    return _first_layer.close_gaps(x1, x2, first, _geometry.FullyConnected(), parameters)
