"""What the kernels of all architectures share: arguments, duals by layer, the answer's form."""

import functools
from collections import namedtuple

import numpy as np
import tensorflow as tf

from mfcnn import activations
from mfcnn.activations import dual as dual_lib
from mfcnn.activations import dual_numerical
from mfcnn.kernels import arguments, blocks, equal_norm

__all__ = ["Kernel", "identities"]

_DTYPES = (tf.float32, tf.float64)


class Kernel:
    """A kernel of equal layers, whose subclasses know an architecture."""

    def __init__(self, depth, activation, weight_variance, bias_variance, dtype):
        depths = list(depth) if np.iterable(depth) and not isinstance(depth, str) else [depth]
        whole = (isinstance(d, (int, np.integer)) and not isinstance(d, bool) for d in depths)
        if not depths or not all(whole) or min(depths) < 0:
            raise ValueError(
                "depth must be an integer of at least 0, or a sequence of them. Received: "
                f"depth={depth!r}"
            )
        self.depth = tuple(map(int, depths)) if np.iterable(depth) else int(depth)
        self._depths = sorted({int(d) for d in depths})
        self._places = None if self._depths == depths else np.searchsorted(self._depths, depths)
        self.activation = activations.get(activation)
        if dtype not in ("float32", "float64", *_DTYPES, np.float32, np.float64):
            raise ValueError(f"dtype must be float32 or float64. Received: dtype={dtype!r}")
        self.dtype = tf.as_dtype(dtype)
        self.weight_variance = _variance("weight_variance", weight_variance)
        self.bias_variance = _variance("bias_variance", bias_variance)
        self._closed_form = dual_lib.closed_form_dual(self.activation)

    def __call__(
        self,
        x1,
        x2=None,
        get=("nngp", "ntk"),
        *,
        log_scale=False,
        progress=False,
        output_dir=None,
    ):
        """Evaluates the kernel on all pairs of inputs.

        Args:
            x1: inputs, [n1, ...].
            x2: inputs, [n2, ...]; None is x1, at half the cost.
            get: "nngp", "ntk", or a tuple of them.
            log_scale: True returns the NTK divided by exp(log_scale), with log_scale as a further
                field: finite in the chaotic phase at any depth.
            progress: True writes a progress bar to stdout.
            output_dir: a directory that keeps finished blocks; a second call goes on from them.

        Returns:
            A namedtuple of the fields asked for, [n1, n2] each in the kernel's dtype (and
            log_scale, a scalar); the bare tensor if `get` is a string and log_scale is False. A
            kernel of several depths puts them in front: [depths, n1, n2], log_scale [depths].

        Raises:
            ValueError: for inputs of a wrong shape, an unknown field, or non-finite inputs.
            OverflowError: if the result is not finite in this dtype.
        """
        fields = arguments.fields(get)
        x1 = self._inputs("x1", x1)
        x2 = None if x2 is None else self._inputs("x2", x2)
        if x2 is not None and x1.shape[1:] != x2.shape[1:]:
            raise ValueError(
                f"x1 and x2 must have inputs of one shape. Received: {x1.shape} and {x2.shape}"
            )
        run = blocks.Run(self._fingerprint(log_scale), progress, output_dir)
        values = self._evaluate(x1, x2, bool(log_scale), run)
        if not isinstance(self.depth, tuple):
            values = [value[0] for value in values]
        elif self._places is not None:
            values = [tf.gather(value, self._places) for value in values]
        nngp, ntk, scale = values
        values = {"nngp": nngp, "ntk": ntk}
        for field in fields:
            if tf.executing_eagerly() and not np.all(
                np.isfinite([np.min(values[field]), np.max(values[field])])
            ):
                growth = {
                    "ntk": "it grows exponentially with depth in the chaotic phase. Ask for "
                    "log_scale=True, or for float64, or for fewer layers.",
                    "nngp": "the variance of the signal has no fixed point at this "
                    "weight_variance. Ask for float64, for fewer layers, or a smaller variance.",
                }
                raise OverflowError(
                    f"the {field} at depth {self.depth} is not finite in {self.dtype.name}: "
                    + growth[field]
                )
        if isinstance(get, str) and not log_scale:
            return values[get]
        names = [*fields, "log_scale"] if log_scale else fields
        result = namedtuple("Kernels", names)
        return result(*(values[field] for field in fields), *([scale] if log_scale else []))

    def _inputs(self, name, x):
        # The first layer is always computed in float64: it costs one matrix product, and close
        # inputs keep their distance in float32 as well.
        x = arguments.inputs(name, x)
        if not self._check(x) or 0 in x.shape:
            raise ValueError(
                f"{name} must be {self._layout} and not empty. Received: {name}.shape={x.shape}"
            )
        return x

    def _parameters(self, dtype=None):
        dtype = dtype or self.dtype
        return tf.cast(self.weight_variance, dtype), tf.cast(self.bias_variance, dtype)

    def _evaluate(self, x1, x2, scaled, run):
        """(nngp [depths, n1, n2], ntk, log_scale [depths]) at depths in ascending order."""
        parts = []
        if self._depths[0] == 0:
            linear = tf.cast(self._linear(x1, x1 if x2 is None else x2), self.dtype)[None]
            parts.append((linear, linear, tf.zeros([1], self.dtype)))
        if self._depths[-1] > 0:
            parts.append(self._deep(x1, x2, scaled, run))
        return parts[0] if len(parts) == 1 else [tf.concat(p, 0) for p in zip(*parts)]

    def _stages(self, extremes, share=1.0):
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
        if depths[-1] > 32 and share == 1 and not equal_norm.recording():
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

    def _fingerprint(self, log_scale):
        return (
            type(self).__name__,
            self.depth,
            self.activation.name,
            *(repr(float(p)) if tf.executing_eagerly() else p.name for p in self._parameters()),
            self.dtype.name,
            log_scale,
        )


def _variance(name, value):
    try:
        tensor = tf.convert_to_tensor(value, None if tf.is_tensor(value) else tf.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a number. Received: {name}={value!r}") from error
    if tensor.shape.rank != 0:
        raise ValueError(f"{name} must be a scalar. Received: shape={tensor.shape}")
    if tf.executing_eagerly() and not (np.isfinite(tensor) and tensor >= 0):
        raise ValueError(f"{name} must be finite and not negative. Received: {float(tensor)}")
    return tensor


def identities(x1, x2):
    """Numbers that are equal for equal inputs: int32 [n1] and [n2]."""
    rows = x1 if x2 is None else tf.concat([x1, x2], 0)
    rows = tf.reshape(rows, [tf.shape(rows)[0], -1]) + 0.0
    if tf.executing_eagerly():
        # Sums of bits that all differ show in no time that there are no equal inputs.
        bits = rows.numpy().view(np.int64 if rows.dtype == tf.float64 else np.int32)
        factors = np.random.default_rng(0).integers(2**62, size=bits.shape[1])
        if np.unique(np.einsum("ij,j->i", bits, factors)).size == len(bits):
            ids = tf.range(len(bits))
            return ids[: x1.shape[0]], ids[0 if x2 is None else x1.shape[0] :]
    _, ids = tf.raw_ops.UniqueV2(x=tf.stop_gradient(rows), axis=[0])
    ids1 = ids[: x1.shape[0]]
    return ids1, ids1 if x2 is None else ids[x1.shape[0] :]
