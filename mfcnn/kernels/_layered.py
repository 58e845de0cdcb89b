"""Kernels of equal layers: depths, variances, and the dual maps of one activation by layer."""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mfcnn import activations, arguments
from mfcnn.activations import ranges
from mfcnn.borrowed import could_possibly_record
from mfcnn.kernels import _base, _blocks, _identity, _programs, _recursion

__all__ = ["LayeredKernel", "Layers", "inner_products", "symmetric"]

_DTYPES = ("float32", "float64", tf.float32, tf.float64, np.float32, np.float64)
# What reaches a compiled program as a tensor; all else in a kernel's config is part of it.
_TENSORS = ("depth", "weight_variance", "bias_variance")
_DEEP = 400  # layers from which XLA pays whatever their size
_SETTLES = 32  # layers from which a settled variance gets a table of its own


class Layers(NamedTuple):
    """A run of layers of one dual, as the data that a program takes.

    Attributes:
        table: of an activation without a closed form; else ().
        variance: that of all signals, or None.
        stop: as in `_recursion.Stage`.
        depths: likewise.
    """

    table: Any
    variance: Any
    stop: Any
    depths: Any


class LayeredKernel(_base.Kernel):
    """A kernel of `depth` equal layers and a readout, whose subclasses know an architecture."""

    _takes_log_scale = True

    def __init__(
        self, depth: Any, activation: Any, weight_variance: Any, bias_variance: Any, dtype: Any
    ):
        self.depth = arguments.depths(depth)
        depths = self.depth if isinstance(self.depth, tuple) else (self.depth,)
        self._depths = sorted(set(depths))
        ordered = list(depths) == self._depths
        self._places = None if ordered else np.searchsorted(self._depths, depths)
        self.activation = activations.get(activation)
        if not any(dtype is one or dtype == one for one in _DTYPES):
            raise ValueError(f"dtype must be float32 or float64. Received: dtype={dtype!r}")
        self.dtype = tf.as_dtype(dtype)
        self.weight_variance = _variance("weight_variance", weight_variance)
        self.bias_variance = _variance("bias_variance", bias_variance)
        self._closed_form = self.activation.closed_form

    @property
    def _parameters(self) -> tuple[tf.Tensor, tf.Tensor]:
        both = self.weight_variance, self.bias_variance
        # A cast of what is in float64 costs a small call a tenth of its time.
        weight, bias = (v if v.dtype == tf.float64 else tf.cast(v, tf.float64) for v in both)
        return weight, bias

    @functools.cached_property
    def _program_key(self) -> str:
        """All of the configuration that is part of a compiled program."""
        config = {k: _identity.describe(v) for k, v in self.config.items() if k not in _TENSORS}
        return json.dumps({"kernel": self._name, **config})

    def _evaluate(
        self, x1: tf.Tensor, x2: tf.Tensor | None, scaled: bool, run: _blocks.Run
    ) -> tuple[tf.Tensor, ...]:
        shape = [len(self.depth)] if isinstance(self.depth, tuple) else []
        if 0 in (x1.shape[0], (x1 if x2 is None else x2).shape[0]):
            empty = tf.zeros([*shape, x1.shape[0], (x1 if x2 is None else x2).shape[0]], self.dtype)
            return empty, empty, tf.zeros(shape, self.dtype)
        if not shape:
            return self._deep(x1, x2, scaled, run) if self.depth else self._shallow(x1, x2)
        parts: list[Sequence[Any]] = []
        if self._depths[0] == 0:
            parts.append([value[None] for value in self._shallow(x1, x2)])
        if self._depths[-1] > 0:
            parts.append(self._deep(x1, x2, scaled, run))
        values = parts[0]
        if len(parts) > 1:
            values = [None if any(v is None for v in p) else tf.concat(p, 0) for p in zip(*parts)]
        if self._places is None:
            return tuple(values)
        return tuple(v if v is None else tf.gather(v, self._places) for v in values)

    def _shallow(self, x1: tf.Tensor, x2: tf.Tensor | None) -> tuple[tf.Tensor, ...]:
        """(nngp, ntk, log_scale) at depth 0."""
        linear = tf.cast(self._linear(x1, x2), self.dtype)
        return linear, linear, tf.zeros([], self.dtype)

    def _linear(self, x1: tf.Tensor, x2: tf.Tensor | None) -> tf.Tensor:
        """The kernel [n1, n2] at depth 0."""
        raise NotImplementedError

    def _deep(self, x1: tf.Tensor, x2: tf.Tensor | None, scaled: bool, run: _blocks.Run) -> tuple:
        """(nngp [depths, n1, n2], ntk, log_scale [depths]) at positive depths, ascending.

        A kernel of one depth has no axis for depths.
        """
        raise NotImplementedError

    def _propagate(
        self,
        first: _recursion.First,
        parameters: tuple,
        layers: list,
        layout: Any,
        scaled: bool,
        close: bool,
    ) -> tuple[tf.Tensor, ...]:
        """Through all layers, inside of a program: [depths, ...], or of the one depth.

        With `close` by the dual maps for inputs that nearly coincide.
        """
        duals = [self._dual(run.table, run.variance) for run in layers]
        stages = [
            _recursion.Stage(dual.close if close else dual, run.stop, run.depths)
            for dual, run in zip(duals, layers)
        ]
        dtype = tf.float64 if close else self.dtype
        values = _recursion.propagate(
            first, stages, layout, parameters, dtype, scaled=scaled, close=close
        )
        values = tuple(tf.cast(value, self.dtype) for value in values)
        return values if isinstance(self.depth, tuple) else tuple(value[0] for value in values)

    def _run(
        self, kind: tuple, body: Callable, data: tuple, layers: list, pairs: float | None
    ) -> Any:
        """body(*data, parameters, layers) as a program; `kind` is what it is beside the config."""
        work = pairs
        if pairs is not None:
            work = np.inf if self._depths[-1] >= _DEEP else pairs * self._depths[-1]
        return _programs.run(
            (self._program_key, *kind), body, (*data, self._parameters, layers), work
        )

    def _dual(self, table: Any, variance: Any) -> Any:
        if self._closed_form is not None:
            return self._closed_form
        return table.dual(tf.float64, variance)

    def _layers(
        self, extremes: Callable[[], tuple[float, float]], shrinks: bool = False, share: float = 1.0
    ) -> list[Layers]:
        """The runs of layers, their depths as tensors where a program may serve all depths.

        Args:
            extremes: function to the smallest and largest variance after the first affine map.
            shrinks: whether images shrink: then each depth is a program of its own.
            share: the smallest sum of taps at a position (below 1 with zero padding).
        """
        # Gradients of a compiled loop need to know its length: integers are part of the program.
        known = shrinks or not tf.executing_eagerly() or could_possibly_record()
        if self._closed_form is None:
            layers = self._tabulated(extremes, share)
        elif known:
            layers = [self._one_run]
        else:
            return self._one_run_as_tensors
        return layers if known else [run if run.stop == 1 else _as_tensors(run) for run in layers]

    @functools.cached_property
    def _one_run(self) -> Layers:
        depths = [d for d in self._depths if d > 0]
        return Layers((), None, depths[-1], depths)

    @functools.cached_property
    def _one_run_as_tensors(self) -> list[Layers]:
        return [self._one_run if self._one_run.stop == 1 else _as_tensors(self._one_run)]

    def _tabulated(self, extremes: Callable[[], tuple[float, float]], share: float) -> list[Layers]:
        if not tf.executing_eagerly():
            raise ValueError(
                f"activation {self.activation.name!r} has no closed form, and its table is made "
                "for the variances of the inputs, which have no values inside a tf.function: call "
                "the kernel outside of it, or take an activation with closed form (erf, relu, "
                "gelu, ...)."
            )
        depth, bounds = self._depths[-1], extremes()
        weight, bias = map(float, self._parameters)
        first, rest = ranges.variance_ranges(self.activation, *bounds, depth, weight, bias, share)
        make = functools.partial(self.activation.table, dtype=self.dtype)
        runs: list[tuple[Any, np.ndarray | None, int]] = [(make(*first), None, 1)]
        if depth > 1:
            runs.append((make(*rest), None, depth))
        # At the edge of zero padding variances stay apart; and a gradient by them needs their maps.
        if depth > _SETTLES and share == 1 and not could_possibly_record():
            settled = ranges.settled_variance(self.activation, *bounds, depth - 16, weight, bias)
            if settled:
                layer, q = max(settled[0], 2), settled[1]
                runs[1:] = [(runs[1][0], None, layer), (make(q, q), np.array(q), depth)]
        below, layers = 0, []
        for table, variance, stop in runs:
            depths = [d for d in self._depths if below < d <= stop]
            layers.append(Layers(table, variance, stop, depths))
            below = stop
        return layers


def _as_tensors(run: Layers) -> Layers:
    depths = tf.constant(run.depths, tf.int32) if run.depths else []
    return run._replace(stop=tf.constant(run.stop, tf.int32), depths=depths)


def _variance(name: str, value: Any) -> tf.Tensor:
    """A variance as a scalar tensor: the caller's own, where it is one to differentiate by."""
    if tf.is_tensor(value) or isinstance(value, (tf.Variable, keras.Variable)):
        tensor = tf.convert_to_tensor(value)
        if tensor.shape.rank != 0 or not tensor.dtype.is_floating:
            raise ValueError(
                f"{name} must be a scalar of real numbers. Received: shape={tensor.shape}, "
                f"dtype={tensor.dtype.name}"
            )
        if tf.executing_eagerly():
            arguments.variance(name, tensor)
        return tensor
    return tf.constant(arguments.variance(name, value), tf.float64)


def inner_products(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Inner products [n1, n2] of rows; by numpy's BLAS, twice as fast, where no tape listens."""
    if not tf.executing_eagerly() or could_possibly_record():
        return tf.matmul(a, b, transpose_b=True)
    first = np.asarray(a)  # the tensor's own memory, which .numpy() copies
    # One array twice is a symmetric product, at half the cost.
    return tf.constant(first @ (first if a is b else np.asarray(b)).T)


def symmetric(values: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
    """Kernels and scale without the rounding that depends on the order of two inputs."""
    *matrices, scale = values
    return *((kernel + tf.linalg.matrix_transpose(kernel)) / 2 for kernel in matrices), scale
