"""Kernels of infinitely wide fully connected and convolutional networks."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn import arguments, profiles
from mfcnn.borrowed import could_possibly_record
from mfcnn.kernels import (
    _base,
    _blocks,
    _equal_norm,
    _first_layer,
    _geometry,
    _layered,
    _programs,
    _recursion,
)

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

    Example:
        >>> kernel = mfcnn.kernels.fully_connected(3, "relu", 2.0, 0.0)
        >>> kernel([[1.0, 1.0], [2.0, 0.0]], [[1.0, 1.0]], get="ntk").numpy()
        array([[8.        ],
               [6.31679339]])

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

    Example:
        >>> kernel = mfcnn.kernels.convolutional(2, "relu", 2.0, 0.0, readout="pool")
        >>> images = np.ones([2, 4, 4, 3])
        >>> kernel(images, get="ntk").numpy()
        array([[6., 6.],
               [6., 6.]])

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


def _products(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Inner products [n1, n2] of rows; by numpy's BLAS, twice as fast, where no tape listens."""
    if not tf.executing_eagerly() or could_possibly_record():
        return tf.matmul(a, b, transpose_b=True)
    first = np.asarray(a)  # the tensor's own memory, which .numpy() copies
    # One array twice is a symmetric product, at half the cost.
    return tf.constant(first @ (first if a is b else np.asarray(b)).T)


class _FullyConnectedKernel(_layered.LayeredKernel):
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
        products = _products(x1, x1 if x2 is None else x2)
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
            return accurate if x2 is not None else _symmetric(accurate)

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
            return (*(values if x2 is not None else _symmetric(values)), close)

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
            first = _recursion.First(q1, tf.repeat(q1, nodes.size), gap, tf.constant(same[None, :]))
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

    def __init__(self, x1: tf.Tensor, x2: tf.Tensor | None, kernel: _FullyConnectedKernel):
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
        products = _products(x1, x2)
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


def _symmetric(values: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
    """Kernels and scale without the rounding that depends on the order of two inputs."""
    *matrices, scale = values
    return *((kernel + tf.linalg.matrix_transpose(kernel)) / 2 for kernel in matrices), scale


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
        if x.shape.rank not in (3, 4) or not all(x.shape[1:]):
            raise ValueError(
                f"{name} must be [batch, height, width, channels] or [batch, length, channels] of "
                f"known sizes, none of them 0. Received: {name}.shape={x.shape}"
            )
        profile = self._profile(x.shape.rank - 2)
        if self.padding == "valid":
            for size, taps in zip(x.shape[1:-1], profile.shape):
                if size - self._depths[-1] * (taps - 1) < 1:
                    raise ValueError(
                        f"padding='valid' leaves nothing of {size} positions after "
                        f"{self._depths[-1]} layers with {taps} taps. Received: depth={self.depth}"
                    )

    def _linear(self, x1: tf.Tensor, x2: tf.Tensor | None) -> tf.Tensor:
        weight_variance, bias_variance = self._parameters
        axes = list(range(1, x1.shape.rank - 1))

        def features(x: tf.Tensor) -> tf.Tensor:
            x = tf.reduce_mean(x, axes) if self.readout == "pool" else x
            return tf.reshape(x, [-1, math.prod(x.shape[1:])])

        one = features(x1)
        products = _products(one, one if x2 is None else features(x2))
        return weight_variance * products / one.shape[1] + bias_variance

    def _architecture(self, rank: int) -> Any:
        convolution = _geometry.Convolution(self._profile(rank), self.padding, (1,) * rank)
        kind = _geometry.Flatten if self.readout == "flatten" else _geometry.Pool
        return kind(convolution)

    def _deep(self, x1: tf.Tensor, x2: tf.Tensor | None, scaled: bool, run: _blocks.Run) -> tuple:
        shape = x1.shape[1:-1]
        layout = self._architecture(len(shape))
        second = x1 if x2 is None else x2
        layers = self._layers(
            lambda: _blocks.extremes(*(self._variance(x, layout) for x in (x1, second))),
            layout.shrinks,
            self._share(layout, shape),
        )
        flat, positions = self.readout == "flatten", math.prod(shape)

        def body(
            accurate: bool, x1: tf.Tensor, x2: tf.Tensor | None, parameters: tuple, layers: list
        ) -> tuple:
            same = _first_layer.same_inputs(x1, x2, pairwise=flat)
            order = [len(shape) + 1, *range(1, len(shape) + 1), 0]
            one, two = (tf.transpose(x, order) for x in (x1, x1 if x2 is None else x2))
            first, close = _first_layer.convolutional(one, two, same, layout, parameters, accurate)
            values = self._propagate(first, parameters, layers, layout, scaled, accurate)
            return (*(values if x2 is not None else _symmetric(values)), close)

        def program(x1: tf.Tensor, x2: tf.Tensor | None, pairs: int) -> tuple:
            accurate = not tf.executing_eagerly()
            *values, close = self._run((scaled,), body, (accurate, x1, x2), layers, pairs)
            if not accurate and close:  # as for dense layers
                *values, _ = self._run((scaled,), body, (True, x1, x2), layers, pairs)
            return tuple(values)

        if not tf.executing_eagerly():
            return program(x1, x2, 0) if flat else _all_pairs(program, x1, second)
        n1, n2 = x1.shape[0], None if x2 is None else x2.shape[0]
        work = n1 * (n2 or n1) * positions ** (1 if flat else 2)

        def block(rows: np.ndarray, columns: np.ndarray) -> tuple:
            if flat and len(rows) == n1 and len(columns) == (n2 or n1):
                return program(x1, x2, work)
            return program(tf.gather(x1, rows), tf.gather(second, columns), work)

        if flat:
            return run.grid(block, n1, n2, max(1, math.isqrt(65536 // positions)))
        return run.pairs(block, n1, n2, max(1, 65536 // positions**2))

    def _variance(self, x: tf.Tensor, layout: Any) -> tf.Tensor:
        """Variances after the first convolution, [*spatial, n]."""
        weight_variance, bias_variance = self._parameters
        order = [*range(1, x.shape.rank - 1), 0]
        squares = tf.transpose(tf.reduce_mean(x * x, -1), order)
        return weight_variance * layout.mix_signal(squares) + bias_variance

    def _share(self, layout: Any, shape: Any) -> float:
        """The smallest sum of taps at a position: below one at the edge of zero padding."""
        if self.padding != "same" or self._closed_form is not None:
            return 1.0
        return float(tf.reduce_min(layout.mix_signal(tf.ones([*shape, 1], tf.float64))))


def _all_pairs(program: Any, x1: tf.Tensor, x2: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Pooled kernels of all pairs in one program, for batches of any size."""
    n1, n2 = _geometry.sizes(x1)[0], _geometry.sizes(x2)[0]
    copies = [n1] + [1] * (x2.shape.rank - 1)
    nngp, ntk, log_scale = program(tf.repeat(x1, n2, axis=0), tf.tile(x2, copies), 0)
    shape = [*log_scale.shape, n1, n2]
    return tf.reshape(nngp, shape), tf.reshape(ntk, shape), log_scale


def _own(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else np.array(value).tolist()
