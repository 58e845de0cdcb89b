"""Kernels of equal layers: depths, variances, and the dual maps of one activation by layer."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn import activations
from mfcnn import arguments as rules
from mfcnn.activations import dual as dual_lib
from mfcnn.activations import dual_numerical
from mfcnn.kernels import _base, _equal_norm

__all__ = ["LayeredKernel"]

_DTYPES = ("float32", "float64", tf.float32, tf.float64, np.float32, np.float64)


class LayeredKernel(_base.Kernel):
    """A kernel of `depth` equal layers and a readout, whose subclasses know an architecture."""

    _takes_log_scale = True

    def __init__(
        self, depth: Any, activation: Any, weight_variance: Any, bias_variance: Any, dtype: Any
    ):
        self.depth = rules.depths(depth)
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
        self._closed_form = dual_lib.closed_form_dual(self.activation)

    def _parameters(self, dtype=None):
        dtype = dtype or self.dtype
        return tf.cast(self.weight_variance, dtype), tf.cast(self.bias_variance, dtype)

    def _evaluate(self, x1, x2, scaled, run):
        parts = []
        if self._depths[0] == 0:
            linear = tf.cast(self._linear(x1, x1 if x2 is None else x2), self.dtype)[None]
            parts.append((linear, linear, tf.zeros([1], self.dtype)))
        if self._depths[-1] > 0:
            parts.append(self._deep(x1, x2, scaled, run))
        values = parts[0] if len(parts) == 1 else [tf.concat(p, 0) for p in zip(*parts)]
        if not isinstance(self.depth, tuple):
            return [value[0] for value in values]
        return values if self._places is None else [tf.gather(v, self._places) for v in values]

    def _linear(self, x1: tf.Tensor, x2: tf.Tensor) -> tf.Tensor:
        """The kernel [n1, n2] at depth 0."""
        raise NotImplementedError

    def _deep(self, x1, x2, scaled, run):
        """(nngp [depths, n1, n2], ntk, log_scale [depths]) at positive depths, ascending."""
        raise NotImplementedError

    def _stages(self, extremes: Callable[[], tuple[float, float]], share: float = 1.0) -> list:
        """What `recursion.propagate` needs of the activation: runs of layers of one dual.

        Args:
            extremes: function to the smallest and largest variance after the first affine map.
            share: the smallest sum of taps at a position (below 1 with zero padding).

        Returns:
            A list of (table, variance, stop, depths): `table` is () for a closed form, `variance`
            is None, or that of all signals.
        """
        depths = [d for d in self._depths if d > 0]
        if self._closed_form is not None:
            return [((), None, depths[-1], depths)]
        extremes, parameters = extremes(), [float(p) for p in self._parameters(tf.float64)]
        first, rest = dual_numerical.variance_ranges(
            self.activation, *extremes, depths[-1], *parameters, share
        )
        make = functools.partial(dual_numerical.build_table, self.activation, dtype=self.dtype)
        stages = [(make(*first), None, 1)]
        if depths[-1] > 1:
            stages.append((make(*rest), None, depths[-1]))
        # At the edge of zero padding variances stay apart; and a gradient by them needs their maps.
        if depths[-1] > 32 and share == 1 and not _equal_norm.recording():
            settled = dual_numerical.settled_variance(
                self.activation, *extremes, depths[-1] - 16, *parameters
            )
            if settled:
                layer, q = max(settled[0], 2), settled[1]
                stages[1:] = [
                    (stages[1][0], None, layer),
                    (make(q, q), np.array(q), depths[-1]),
                ]
        below, result = 0, []
        for table, variance, stop in stages:
            result.append((table, variance, stop, [d for d in depths if below < d <= stop]))
            below = stop
        return result


def _variance(name: str, value: Any) -> tf.Tensor:
    """A variance as a scalar tensor: the caller's own, where it is one to differentiate by."""
    if tf.is_tensor(value) or isinstance(value, tf.Variable):
        tensor = tf.convert_to_tensor(value)
        if tensor.shape.rank != 0 or not tensor.dtype.is_floating:
            raise ValueError(
                f"{name} must be a scalar of real numbers. Received: shape={tensor.shape}, "
                f"dtype={tensor.dtype.name}"
            )
        if tf.executing_eagerly():
            rules.variance(name, tensor)
        return tensor
    return tf.constant(rules.variance(name, value), tf.float64)
