"""Kernels of infinitely wide fully connected and convolutional networks."""

import functools
import math
from collections import namedtuple

import numpy as np
import tensorflow as tf

from mfcnn import activations
from mfcnn.activations import dual as dual_lib
from mfcnn.activations import dual_numerical
from mfcnn.kernels import blocks, equal_norm, geometry, recursion

__all__ = ["convolutional", "fully_connected"]

_FIELDS = ("nngp", "ntk")


class _Kernel:
    """What both architectures share: arguments, duals by layer, the answer's form."""

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
        self.dtype = tf.as_dtype(dtype)
        if self.dtype not in (tf.float32, tf.float64):
            raise ValueError(f"dtype must be float32 or float64. Received: dtype={dtype!r}")
        self.weight_variance = _variance("weight_variance", weight_variance)
        self.bias_variance = _variance("bias_variance", bias_variance)
        self._closed_form = dual_lib.closed_form_dual(self.activation)

    def __call__(
        self,
        x1,
        x2=None,
        get=_FIELDS,
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
            progress: True writes a progress bar to stderr.
            output_dir: a directory that keeps finished blocks; a second call goes on from them.

        Returns:
            A namedtuple of the fields asked for, [n1, n2] each in the kernel's dtype (and
            log_scale, a scalar); the bare tensor if `get` is a string and log_scale is False. A
            kernel of several depths puts them in front: [depths, n1, n2], log_scale [depths].

        Raises:
            ValueError: for inputs of a wrong shape, an unknown field, or non-finite inputs.
            OverflowError: if the result is not finite in this dtype.
        """
        fields = (get,) if isinstance(get, str) else tuple(get)
        if not fields or any(field not in _FIELDS for field in fields):
            raise ValueError(f"get must be of {_FIELDS} or a tuple of them. Received: get={get!r}")
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
        x = tf.cast(tf.convert_to_tensor(x), tf.float64)
        if not self._check(x) or 0 in x.shape:
            raise ValueError(
                f"{name} must be {self._layout} and not empty. Received: {name}.shape={x.shape}"
            )
        if tf.executing_eagerly() and not np.isfinite(np.sum(x)):
            raise ValueError(f"{name} must be finite. Received NaN or infinite values.")
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
                layer, q = max(settled[0], 2), np.array(settled[1])
                stages[1:] = [(stages[1][0], None, layer), (make(q, q), q, depths[-1])]
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
    value = tf.convert_to_tensor(value, None if tf.is_tensor(value) else tf.float64)
    if value.shape.rank != 0:
        raise ValueError(f"{name} must be a scalar. Received: shape={value.shape}")
    if tf.executing_eagerly() and not (np.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and not negative. Received: {float(value)}")
    return value


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


def fully_connected(depth, activation, weight_variance, bias_variance, dtype="float64"):
    """The NNGP and NTK of an infinitely wide fully connected network.

    Args:
        depth: number of hidden layers; 0 is the linear model. A sequence of depths gives all their
            kernels in one pass, stacked in front.
        activation: a name or a `mfcnn.activations.Activation`.
        weight_variance: sigma_w^2, a float, or a scalar tensor to differentiate by.
        bias_variance: sigma_b^2, likewise.
        dtype: "float64" or "float32".

    Returns:
        A callable kernel(x1, x2=None, get=("nngp", "ntk")) of inputs [n, features]; see
        `_Kernel.__call__` for its further arguments.

    Raises:
        ValueError: for arguments outside these ranges.

    Source: NTK paper, equations 2 and 6.
    """
    return _FullyConnectedKernel(depth, activation, weight_variance, bias_variance, dtype)


def convolutional(
    depth,
    activation,
    weight_variance,
    bias_variance,
    kernel_size=3,
    readout="flatten",
    padding="circular",
    variance_profile=None,
    dtype="float64",
):
    """The NNGP and NTK of a convolutional network with infinitely many channels.

    Args:
        depth: number of convolutions, each followed by the activation; then the linear readout. A
            sequence of depths gives all their kernels in one pass, stacked in front.
        activation: a name or a `mfcnn.activations.Activation`.
        weight_variance: sigma_w^2, a float, or a scalar tensor to differentiate by.
        bias_variance: sigma_b^2, likewise.
        kernel_size: taps in each direction, an integer or one per spatial axis.
        readout: "flatten" (CNN-F) or "pool" (global average, CNN-P).
        padding: "circular", "same" (zeros) or "valid" (none).
        variance_profile: share of the weight variance of each tap, an array [k, k] (images) or [k]
            (sequences) with sum one, or "delta" for all at the centre; None is uniform.
        dtype: "float64" or "float32".

    Returns:
        A callable kernel(x1, x2=None, get=("nngp", "ntk")) of images [n, height, width, channels]
        or sequences [n, length, channels]; see `_Kernel.__call__` for its further arguments.

    Raises:
        ValueError: for arguments outside these ranges.

    Source: NTK paper, equations 18, 27 to 31; profile: CNN paper, section 2.1.6.
    """
    return _ConvolutionalKernel(
        depth,
        activation,
        weight_variance,
        bias_variance,
        kernel_size,
        readout,
        padding,
        variance_profile,
        dtype,
    )


def _products(a, b):
    """Inner products [n1, n2] of rows; by numpy's BLAS, twice as fast, where no tape listens."""
    if not tf.executing_eagerly() or equal_norm.recording():
        return tf.matmul(a, b, transpose_b=True)
    first = a.numpy()  # one array twice is a symmetric product, at half the cost
    return tf.constant(first @ (first if a is b else b.numpy()).T)


@tf.function(jit_compile=True, autograph=False)
def _first_gap(q1, q2, product, bias_variance):
    root = recursion.safe_sqrt(q1)[:, None] * recursion.safe_sqrt(q2)[None, :]
    return tf.clip_by_value((root - product - bias_variance) * recursion.inverse(root), 0, 2)


class _FullyConnectedKernel(_Kernel):
    _layout, _block = "[batch, features]", 256

    def _check(self, x):
        return x.shape.rank == 2

    def _linear(self, x1, x2):
        weight_variance, bias_variance = self._parameters(tf.float64)
        return weight_variance * _products(x1, x2) / x1.shape[1] + bias_variance

    def _deep(self, x1, x2, scaled, run):
        weight_variance, bias_variance = self._parameters(tf.float64)
        features = x1.shape[1]
        second = x1 if x2 is None else x2
        ids1, ids2 = identities(x1, x2)

        def variance(x):
            return weight_variance * tf.reduce_sum(x * x, 1) / features + bias_variance

        q1 = variance(x1)
        q2 = q1 if x2 is None else variance(x2)

        products = _products(x1, second)

        def first_layer(rows, columns):
            p1, p2 = tf.gather(q1, rows), tf.gather(q2, columns)
            product = products
            if product.shape != (len(rows), len(columns)):
                product = tf.gather(tf.gather(products, rows), columns, axis=1)
            return p1, p2, _first_gap(p1, p2, product * (weight_variance / features), bias_variance)

        stages = self._stages(lambda: blocks.extremes(q1, q2))
        work = x1.shape[0] * second.shape[0]
        function = _compiled(self, stages, scaled, geometry.FullyConnected(), work)

        n1, n2 = x1.shape[0], None if x2 is None else x2.shape[0]
        if not scaled and n1 * second.shape[0] >= _INTERPOLATE_FROM and equal_norm.applies(q1, q2):
            result = self._interpolate(run, n1, n2, q1[0], first_layer, (ids1, ids2), stages)
            if result is not None:
                return result

        def block(rows, columns):
            ids = tf.gather(ids1, rows), tf.gather(ids2, columns)
            return function(first_layer(rows, columns), ids)

        return run.grid(block, n1, n2, self._block, [x1, second])

    def _interpolate(self, run, n1, n2, q, first_layer, ids, stages):
        """The kernels by `equal_norm`, or None if they are not resolved."""
        gaps = {}

        def first_gaps(rows, columns):
            gap = first_layer(rows, columns)[2]
            gaps[rows[0], columns[0]] = (
                gap,
                tf.equal(tf.gather(ids[0], rows)[:, None], tf.gather(ids[1], columns)[None, :]),
            )
            return None

        size = 1024  # one pass over a block: there is nothing to keep in cache
        run.visit(first_gaps, n1, n2, size)
        # Compiled by XLA at any depth: some dozens of nodes would be all overhead.
        function = _compiled(self, stages, False, geometry.FullyConnected(), np.inf)

        def evaluate(nodes):
            one = tf.reshape(q, [1])
            gap = tf.constant(nodes[None, :], self.dtype)
            # The last node is the pair of an input with itself.
            apart = tf.zeros([1], tf.int32), tf.constant([1] * (nodes.size - 1) + [0], tf.int32)
            same = tf.repeat(one, nodes.size)
            nngp, ntk, _ = function((one, same, gap), apart)
            return tf.concat([nngp[:, 0], ntk[:, 0]], 0)

        found = equal_norm.Interpolation.find(gaps.values(), evaluate)
        if found is None:
            return None

        def block(rows, columns):
            kernels = tf.cast(found(*gaps[rows[0], columns[0]]), self.dtype)
            nngp, ntk = tf.split(kernels, 2)
            return nngp, ntk, tf.zeros(nngp.shape[:1], self.dtype)

        return run.grid(block, n1, n2, size, [])


class _ConvolutionalKernel(_Kernel):
    _layout = "[batch, height, width, channels] or [batch, length, channels]"

    def __init__(
        self,
        depth,
        activation,
        weight_variance,
        bias_variance,
        kernel_size,
        readout,
        padding,
        variance_profile,
        dtype,
    ):
        super().__init__(depth, activation, weight_variance, bias_variance, dtype)
        for name, value, accepted in (
            ("readout", readout, ("flatten", "pool")),
            ("padding", padding, ("circular", "same", "valid")),
        ):
            if value not in accepted:
                raise ValueError(f"{name} must be one of {accepted}. Received: {name}={value!r}")
        self.readout, self.padding = readout, padding
        self.kernel_size, self.variance_profile = kernel_size, variance_profile

    def _check(self, x):
        return x.shape.rank in (3, 4)

    def _deep(self, x1, x2, scaled, run):
        rank = x1.shape.rank - 2
        profile = variance_profile(self.variance_profile, self.kernel_size, rank)
        convolution = geometry.Convolution(profile, self.padding, (1,) * rank)
        kind = geometry.Flatten if self.readout == "flatten" else geometry.Pool
        architecture = kind(convolution)
        second = x1 if x2 is None else x2
        n1, n2 = x1.shape[0], None if x2 is None else x2.shape[0]
        shape = x1.shape[1:-1]
        if self.padding == "valid":
            for axis, size in enumerate(shape):
                if size - self._depths[-1] * (profile.shape[axis] - 1) < 1:
                    raise ValueError(
                        f"padding='valid' leaves nothing of {size} positions after "
                        f"{self._depths[-1]} layers with {profile.shape[axis]} taps. Received: "
                        f"depth={self.depth}"
                    )
        ids1, ids2 = identities(x1, x2)
        stages = self._stages(
            lambda: self._range(x1, second, architecture), self._share(architecture, shape)
        )
        work = x1.shape[0] * second.shape[0] * int(np.prod(shape)) ** (1 + (self.readout == "pool"))
        function = _compiled(self, stages, scaled, architecture, work)
        order = [rank + 1, *range(1, rank + 1), 0]
        signals1, signals2 = tf.transpose(x1, order), tf.transpose(second, order)

        def block(first, other):
            images = tf.gather(signals1, first, axis=-1), tf.gather(signals2, other, axis=-1)
            ids = tf.gather(ids1, first), tf.gather(ids2, other)
            return function(images, ids)

        positions = int(np.prod(shape))
        if self.readout == "flatten":
            size = max(1, math.isqrt(65536 // positions))
            return run.grid(block, n1, n2, size, [x1, second])
        size = max(1, 65536 // positions**2)
        return run.pairs(block, n1, n2, size, [x1, second])

    def _linear(self, x1, x2):
        weight_variance, bias_variance = self._parameters(tf.float64)
        rank = x1.shape.rank - 2
        if self.readout == "pool":
            x1, x2 = (tf.reduce_mean(x, list(range(1, rank + 1))) for x in (x1, x2))
        x1, x2 = (tf.reshape(x, [x.shape[0], -1]) for x in (x1, x2))
        return weight_variance * _products(x1, x2) / x1.shape[1] + bias_variance

    def _range(self, x1, x2, architecture):
        """Smallest and largest variance after the first convolution."""
        weight_variance, bias_variance = self._parameters(tf.float64)
        rank = x1.shape.rank - 2
        order = [*range(1, rank + 1), 0]
        return blocks.extremes(
            *(
                weight_variance
                * architecture.mix_signal(tf.transpose(tf.reduce_mean(x * x, -1), order))
                + bias_variance
                for x in (x1, x2)
            )
        )

    @staticmethod
    def _share(architecture, shape):
        """The smallest sum of taps at a position: below one at the edge of zero padding."""
        if architecture.convolution.padding != "same":
            return 1.0
        return float(tf.reduce_min(architecture.mix_signal(tf.ones([*shape, 1], tf.float64))))


def variance_profile(profile, kernel_size, rank):
    """The variance profile as an array with `rank` axes and sum one."""
    sizes = np.broadcast_to(kernel_size, [rank])
    if np.any(sizes < 1) or np.any(sizes != np.round(sizes)):
        raise ValueError(
            f"kernel_size must be positive integers. Received: kernel_size={kernel_size!r}"
        )
    sizes = tuple(int(s) for s in sizes)
    if profile is None:
        return np.full(sizes, 1 / np.prod(sizes))
    if isinstance(profile, str):
        if profile != "delta":
            raise ValueError(f"variance_profile must be 'delta', an array or None: {profile!r}")
        delta = np.zeros(sizes)
        delta[tuple((s - 1) // 2 for s in sizes)] = 1.0
        return delta
    profile = np.asarray(profile, np.float64)
    if profile.ndim == 1 and rank == 2:
        profile = np.outer(profile, profile)
    if profile.shape != sizes or np.any(profile < 0) or abs(profile.sum() - 1) > 1e-6:
        raise ValueError(
            f"variance_profile must have shape {sizes}, no negative entry and sum one. Received: "
            f"shape {profile.shape}, sum {profile.sum()}"
        )
    return profile / profile.sum()


_FUNCTIONS = {}
# Layers times pairs of positions from which XLA's compilation, seconds, pays for itself.
_COMPILE_FROM = 2**22
_COMPILE_DEEP = 400
# Pairs from which an interpolation over the correlation pays for inputs of equal norm.
_INTERPOLATE_FROM = 2**14


def _compiled(kernel, stages, scaled, architecture, work):
    """The kernel of one block: one compiled function for all variances, depths and inputs.

    Args:
        kernel: a `_Kernel`.
        stages: those of `_Kernel._stages`.
        scaled: whether the NTK is divided by exp(log_scale).
        architecture: see `geometry`.
        work: number of pairs of positions.

    Returns:
        A function of (signals, ids) to (nngp, ntk, log_scale), where signals are (q1, q2, gap)
        after the first affine map of a fully connected network, or two images.
    """
    # Gradients of a compiled loop need to know its length: integers are part of the trace.
    if not (architecture.shrinks or equal_norm.recording() or not tf.executing_eagerly()):
        stages = [stage if stage[2] == 1 else _as_tensors(*stage) for stage in stages]
    leaves = tf.nest.flatten(stages)
    arrays = [tf.constant(a) for a in leaves if isinstance(a, (np.ndarray, tf.Tensor))]
    static = [None if isinstance(a, (np.ndarray, tf.Tensor)) else (a,) for a in leaves]
    layers = kernel._depths[-1]
    convolution = getattr(architecture, "convolution", None)
    profile = convolution and convolution.profile
    key = (
        kernel._closed_form,
        kernel.dtype,
        tuple(static),
        scaled,
        type(architecture),
        convolution and (profile.shape, profile.tobytes(), convolution.padding),
        work * layers > _COMPILE_FROM or layers >= _COMPILE_DEEP,
    )
    if key not in _FUNCTIONS:

        def arranged(arrays):
            arrays = iter(arrays)
            return tf.nest.pack_sequence_as(stages, [s[0] if s else next(arrays) for s in static])

        function = _block_function(
            kernel._closed_form, kernel.dtype, scaled, architecture, arranged
        )
        _FUNCTIONS[key] = tf.function(function, jit_compile=key[-1], autograph=False)
    parameters = kernel._parameters(tf.float64)
    return lambda signals, ids: _FUNCTIONS[key](signals, ids, parameters, arrays)


def _as_tensors(table, variance, stop, depths):
    depths = tf.constant(depths, tf.int32) if depths else []
    return table, variance, tf.constant(stop, tf.int32), depths


def _block_function(closed_form, dtype, scaled, architecture, arranged):
    def function(signals, ids, parameters, arrays):
        if len(signals) == 2:
            # The first layer in float64 whatever the dtype: it costs little and keeps close pixels.
            signals = recursion.start(*signals, architecture, ids, *parameters)
        q1, q2, gap = signals
        gap = tf.cast(gap, dtype)
        gap = tf.where(architecture.coincide(*ids, q1.shape[:-1]), tf.zeros_like(gap), gap)

        def dual(table, variance):
            return closed_form or dual_numerical.TabulatedDual(table, tf.float64, variance)

        stages = [(dual(table, variance), *when) for table, variance, *when in arranged(arrays)]
        return recursion.propagate(
            q1, q2, gap, ids, stages, architecture, parameters, scaled=scaled
        )

    return function
