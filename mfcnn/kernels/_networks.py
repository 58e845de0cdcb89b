"""Kernels of infinitely wide fully connected and convolutional networks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn import arguments, profiles
from mfcnn.kernels import _base, _blocks, _equal_norm, _geometry, _layered, _programs, _recursion

__all__ = ["convolutional", "fully_connected"]

# Pairs from which an interpolation over the correlation pays for inputs of equal norm.
_INTERPOLATE_FROM = 2**14


def fully_connected(
    depth: int | Sequence[int],
    activation: Any,
    weight_variance: Any,
    bias_variance: Any,
    dtype: Any = "float64",
) -> _base.Kernel:
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
        `mfcnn.kernels.Kernel` for its further arguments.

    Raises:
        ValueError: for arguments outside these ranges.

    Source: NTK paper, equations 2 and 6.
    """
    return _FullyConnectedKernel(depth, activation, weight_variance, bias_variance, dtype)


def convolutional(
    depth: int | Sequence[int],
    activation: Any,
    weight_variance: Any,
    bias_variance: Any,
    kernel_size: int | Sequence[int] = 3,
    readout: str = "flatten",
    padding: str = "circular",
    variance_profile: Any = None,
    dtype: Any = "float64",
) -> _base.Kernel:
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
        variance_profile: share of the weight variance of each tap: None (uniform), a name such as
            "delta" (all at the centre), or an array [k, k] (images) or [k] (sequences) of sum one;
            see `mfcnn.profiles.parse`.
        dtype: "float64" or "float32".

    Returns:
        A callable kernel(x1, x2=None, get=("nngp", "ntk")) of images [n, height, width, channels]
        or sequences [n, length, channels]; see `mfcnn.kernels.Kernel` for its further arguments.

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
    if not tf.executing_eagerly() or _equal_norm.recording():
        return tf.matmul(a, b, transpose_b=True)
    first = a.numpy()  # one array twice is a symmetric product, at half the cost
    return tf.constant(first @ (first if a is b else b.numpy()).T)


@tf.function(jit_compile=True, autograph=False)
def _first_gap(q1, q2, product, bias_variance):
    root = _recursion.safe_sqrt(q1)[:, None] * _recursion.safe_sqrt(q2)[None, :]
    return tf.clip_by_value((root - product - bias_variance) * _recursion.inverse(root), 0, 2)


class _FullyConnectedKernel(_layered.LayeredKernel):
    _name, _block = "fully_connected", 256

    @property
    def sees_angles_only(self) -> bool:
        """Whether there is one depth: a function of norms and angles."""
        return not isinstance(self.depth, tuple)

    def _check(self, name: str, x: tf.Tensor) -> None:
        if x.shape.rank != 2 or 0 in x.shape:
            raise ValueError(
                f"{name} must be [batch, features] and not empty. Received: {name}.shape={x.shape}"
            )

    def _linear(self, x1, x2):
        weight_variance, bias_variance = self._parameters(tf.float64)
        return weight_variance * _products(x1, x2) / x1.shape[1] + bias_variance

    def _deep(self, x1, x2, scaled, run):
        weight_variance, bias_variance = self._parameters(tf.float64)
        features = x1.shape[1]
        second = x1 if x2 is None else x2
        ids1, ids2 = _base.identities(x1, x2)

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

        stages = self._stages(lambda: _blocks.extremes(q1, q2))
        work = x1.shape[0] * second.shape[0]
        function = _programs.compiled(self, stages, scaled, _geometry.FullyConnected(), work)

        n1, n2 = x1.shape[0], None if x2 is None else x2.shape[0]
        if not scaled and n1 * second.shape[0] >= _INTERPOLATE_FROM and _equal_norm.applies(q1, q2):
            result = self._interpolate(run, n1, n2, q1[0], first_layer, (ids1, ids2), stages)
            if result is not None:
                return result

        def block(rows, columns):
            ids = tf.gather(ids1, rows), tf.gather(ids2, columns)
            return function(first_layer(rows, columns), ids)

        return run.grid(block, n1, n2, self._block)

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
        function = _programs.compiled(self, stages, False, _geometry.FullyConnected(), np.inf)

        def evaluate(nodes):
            one = tf.reshape(q, [1])
            gap = tf.constant(nodes[None, :], self.dtype)
            # The last node is the pair of an input with itself.
            apart = tf.zeros([1], tf.int32), tf.constant([1] * (nodes.size - 1) + [0], tf.int32)
            same = tf.repeat(one, nodes.size)
            nngp, ntk, _ = function((one, same, gap), apart)
            return tf.concat([nngp[:, 0], ntk[:, 0]], 0)

        found = _equal_norm.Interpolation.find(gaps.values(), evaluate)
        if found is None:
            return None

        def block(rows, columns):
            kernels = tf.cast(found(*gaps[rows[0], columns[0]]), self.dtype)
            nngp, ntk = tf.split(kernels, 2)
            return nngp, ntk, tf.zeros(nngp.shape[:1], self.dtype)

        return run.grid(block, n1, n2, size, route="equal norms")


class _ConvolutionalKernel(_layered.LayeredKernel):
    _name = "convolutional"

    def __init__(
        self,
        depth: Any,
        activation: Any,
        weight_variance: Any,
        bias_variance: Any,
        kernel_size: Any,
        readout: Any,
        padding: Any,
        variance_profile: Any,
        dtype: Any,
    ):
        super().__init__(depth, activation, weight_variance, bias_variance, dtype)
        self.readout = arguments.choice("readout", readout, ("flatten", "pool"))
        self.padding = arguments.choice("padding", padding, ("circular", "same", "valid"))
        # Copies: what the caller changes later does not change this kernel.
        self.kernel_size, self.variance_profile = _own(kernel_size), _own(variance_profile)
        try:
            self._profile(1)  # of sequences
        except ValueError:
            self._profile(2)  # of images: one of the two must be right

    def _profile(self, rank: int) -> np.ndarray:
        return profiles.parse(self.variance_profile, self.kernel_size, rank)

    def _check(self, name: str, x: tf.Tensor) -> None:
        if x.shape.rank not in (3, 4) or 0 in x.shape:
            raise ValueError(
                f"{name} must be [batch, height, width, channels] or [batch, length, channels] and "
                f"not empty. Received: {name}.shape={x.shape}"
            )

    def _deep(self, x1, x2, scaled, run):
        rank = x1.shape.rank - 2
        profile = self._profile(rank)
        convolution = _geometry.Convolution(profile, self.padding, (1,) * rank)
        kind = _geometry.Flatten if self.readout == "flatten" else _geometry.Pool
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
        ids1, ids2 = _base.identities(x1, x2)
        stages = self._stages(
            lambda: self._range(x1, second, architecture), self._share(architecture, shape)
        )
        work = x1.shape[0] * second.shape[0] * int(np.prod(shape)) ** (1 + (self.readout == "pool"))
        function = _programs.compiled(self, stages, scaled, architecture, work)
        order = [rank + 1, *range(1, rank + 1), 0]
        signals1, signals2 = tf.transpose(x1, order), tf.transpose(second, order)

        def block(first, other):
            images = tf.gather(signals1, first, axis=-1), tf.gather(signals2, other, axis=-1)
            ids = tf.gather(ids1, first), tf.gather(ids2, other)
            return function(images, ids)

        positions = int(np.prod(shape))
        if self.readout == "flatten":
            size = max(1, math.isqrt(65536 // positions))
            return run.grid(block, n1, n2, size)
        size = max(1, 65536 // positions**2)
        return run.pairs(block, n1, n2, size)

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
        return _blocks.extremes(
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


def _own(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else np.array(value).tolist()
