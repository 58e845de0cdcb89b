"""How an architecture lays out pairs of positions, and how its affine maps mix them.

Signals of a batch of b inputs are [*spatial, b], batch last: then a shift over positions moves
whole contiguous blocks. A kernel over pairs is laid out as

    fully connected     [b1, b2]
    CNN with flatten    [*spatial, b1, b2], equal positions only: the readout asks for no others
    CNN with pooling    [h, h', w, w', pairs], all pairs of positions of a list of pairs

`first` and `second` bring a signal, with any further axes in front, to the layout of the pairs.

A convolution adds, for both positions shifted together, over its taps (NTK paper, equation 29).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

__all__ = ["Convolution", "FullyConnected", "Flatten", "Pool", "mix", "product_terms"]

# From this size of an axis on, a matrix over its pairs of positions costs more than its shifts.
_SHIFTS_FROM = 40


def product_terms(profile: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """A variance profile as a sum of products: a list of tuples of one vector per axis."""
    if profile.ndim == 1:
        return [(profile,)]
    rows = profile.reshape(profile.shape[0], -1)
    left, singular, right = np.linalg.svd(rows, full_matrices=False)
    keep = np.flatnonzero(singular > 1e-15 * singular[0])
    return [
        (left[:, k] * singular[k], *rest)
        for k in keep
        for rest in product_terms(right[k].reshape(profile.shape[1:]))
    ]


class Averaging(Protocol):
    """What `mix` asks of a convolution."""

    def terms(self) -> list[tuple[np.ndarray, ...]]:
        """The shares of the taps as a sum of products; see `product_terms`."""

    def shifts(self, axis: int, size: int) -> np.ndarray:
        """For each tap of an axis the 0-1 matrix [outputs, size] from input to output positions."""


class Convolution(NamedTuple):
    """Taps of a convolution: one factor per spatial axis if the variance profile is a product.

    Attributes:
        profile: variances v_beta of the taps, [k] * rank, with sum one.
        padding: "circular", "same" or "valid".
        strides: one integer per spatial axis.
    """

    profile: np.ndarray
    padding: str
    strides: tuple[int, ...]

    def terms(self) -> list[tuple[np.ndarray, ...]]:
        """See `product_terms`."""
        return product_terms(self.profile)

    def margins(self, axis: int, size: int) -> tuple[int, int]:
        """Positions added before and after an axis; an odd one at the end, as TensorFlow does."""
        if self.padding == "valid":
            return 0, 0
        taps, stride = self.profile.shape[axis], self.strides[axis]
        total = max((-(-size // stride) - 1) * stride + taps - size, 0)
        return total // 2, total - total // 2

    def shifts(self, axis: int, size: int) -> np.ndarray:
        """For each tap of an axis the 0-1 matrix [outputs, size] from input to output positions."""
        taps, stride = self.profile.shape[axis], self.strides[axis]
        before, after = self.margins(axis, size)
        outputs = (size + before + after - taps) // stride + 1
        matrices = np.zeros([taps, outputs, size])
        for tap in range(taps):
            for output in range(outputs):
                position = output * stride + tap - before
                if self.padding == "circular":
                    position %= size
                if 0 <= position < size:
                    matrices[tap, output, position] += 1.0
        return matrices

    def patches(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The values under each tap, exactly: what a product with a matrix of zeros might round.

        Args:
            x: [channels, *spatial, ...].

        Returns:
            ([channels * taps, *outputs, ...], the share of each in the weight variance).
        """
        channels = x.shape[0]
        for axis in range(self.profile.ndim):
            matrices = self.shifts(axis, x.shape[1 + axis])
            taps, outputs, size = matrices.shape
            # Positions outside of the image are read from zeros behind its end.
            positions = np.where(matrices.any(2), matrices.argmax(2), size)
            margins = [[0, int(k == 1 + axis)] for k in range(x.shape.rank)]
            x = tf.gather(tf.pad(x, margins), positions.ravel(), axis=1 + axis)
            *shape, last = sizes(x)
            order = list(range(x.shape.rank + 1))
            order.insert(1, order.pop(1 + axis))
            parted = [*shape[: 1 + axis], taps, outputs, *shape[2 + axis :], last]
            x = tf.transpose(tf.reshape(x, parted), order)
            shape[1 + axis] = outputs
            x = tf.reshape(x, [shape[0] * taps, *shape[1:], last])
        return x, tf.constant(np.tile(self.profile.ravel() / channels, channels))


def sizes(x: tf.Tensor) -> list[Any]:
    """The shape: integers where they are known, else tensors."""
    return [tf.shape(x)[k] if size is None else size for k, size in enumerate(x.shape)]


def _apply(x: tf.Tensor, matrices: list[np.ndarray]) -> tf.Tensor:
    """Applies one matrix to each leading axis of x [n_1, n_2, ..., m], one product if small."""
    if np.prod([m.shape[1] for m in matrices]) <= 128:
        matrices = [functools.reduce(np.kron, matrices)]
    shape = [m.shape[1] for m in matrices]
    x = tf.reshape(x, [*shape, -1])
    first = tf.constant(matrices[0], x.dtype)
    x = tf.matmul(first, tf.reshape(x, [shape[0], -1]))
    for axis, matrix in enumerate(matrices[1:], 1):
        done = [m.shape[0] for m in matrices[:axis]]
        x = tf.reshape(x, [math.prod(done), shape[axis], -1])
        x = tf.einsum("ij,njm->nim", tf.constant(matrix, x.dtype), x)
    return x


def shifted(x: tf.Tensor, factors: np.ndarray, shifts: np.ndarray, axes: list[int]) -> tf.Tensor:
    """The sum over taps of x shifted along all of some axes together, in the memory of x."""
    paddings = [[0, 1] if axis in axes else [0, 0] for axis in range(x.shape.rank)]
    x = tf.pad(x, paddings)  # what an index beyond the end reads
    total = 0.0
    for factor, shift in zip(factors, shifts):
        if factor:
            index = np.where(shift.any(axis=1), shift.argmax(axis=1), shift.shape[1])
            term = x
            for axis in axes:
                term = tf.gather(term, index, axis=axis)
            total = total + factor * term
    return total


def mix(x: tf.Tensor, convolution: Averaging, rank: int, *, pairs: bool) -> tf.Tensor:
    """Averages over the taps of a convolution with its variance profile.

    As products with small dense matrices: on a CPU they are several times faster than shifted
    slices, in a compiled loop, and compile in a tenth of the time.

    Args:
        x: [*spatial, ...]; with pairs, [h, h', w, w', ...], whose two positions shift together.
        convolution: a `Convolution`, or other taps.
        rank: number of spatial axes.
        pairs: whether x has pairs of positions.

    Returns:
        The tensor at the output positions.
    """
    copies = 2 if pairs else 1
    positions = [x.shape[copies * axis] for axis in range(rank)]
    shifts = [convolution.shifts(axis, size) for axis, size in enumerate(positions)]
    if pairs and max(positions, default=0) >= _SHIFTS_FROM:
        total = 0.0
        for factors in convolution.terms():
            term = x
            for axis in range(rank):
                term = shifted(term, factors[axis], shifts[axis], [2 * axis, 2 * axis + 1])
            total = total + term
        return total
    if pairs:
        shifts = [np.stack([np.kron(m, m) for m in matrices]) for matrices in shifts]
    total = sum(
        _apply(x, [np.tensordot(f, m, 1) for f, m in zip(factors, shifts)])
        for factors in convolution.terms()
    )
    outputs = [convolution.shifts(axis, size).shape[1] for axis, size in enumerate(positions)]
    outputs = [size for size in outputs for _ in range(copies)]
    return tf.reshape(total, [*outputs, *sizes(x)[copies * rank :]])


def _norm(root: tf.Tensor, rank: int) -> tf.Tensor:
    """A power of 16 near the norm of a whole image: a scale that images of like size share.

    Shared scales keep equal pixels of different images equal; the kernel does not depend on them.
    """
    power = tf.reduce_mean(root * root, axis=list(range(rank)), keepdims=True)
    exponent = tf.round(tf.math.log(tf.maximum(power, 1e-30)) / math.log(256.0))
    return tf.stop_gradient(tf.exp(exponent * math.log(16.0)))


class FullyConnected:
    """Kernels [b1, b2] of signals [b]."""

    shrinks = False
    own_norm = True  # each signal is normalised to one

    def first(self, a: tf.Tensor) -> tf.Tensor:
        """Lays a signal of the first inputs out along its axes of a pair."""
        return a[..., None]

    def second(self, a: tf.Tensor) -> tf.Tensor:
        """Lays a signal of the second inputs out along its axes of a pair."""
        return a[..., None, :]

    def mix_signal(self, a: tf.Tensor) -> tf.Tensor:
        """The average over the taps, of a signal."""
        return a

    mix_pair = readout = mix_signal

    def beyond_edge(self, square1: tf.Tensor, square2: tf.Tensor) -> Any:
        """What positions outside the image add to a squared distance: nothing here."""
        return 0.0

    def norm(self, root: tf.Tensor) -> tf.Tensor:
        """The scale of a signal: here its own norm, so that every signal is normalised to one."""
        return root

    def coincide(self, same: tf.Tensor, spatial: Any = ()) -> tf.Tensor:
        """The pairs known to be equal, of positions, from those of inputs."""
        del spatial
        return same


class Flatten:
    """Kernels [*spatial, b1, b2] of signals [*spatial, b]; the readout is the mean."""

    own_norm = False

    def __init__(self, convolution: Convolution) -> None:
        self.convolution, self._rank = convolution, convolution.profile.ndim
        self.shrinks = convolution.padding == "valid" or max(convolution.strides) > 1

    def first(self, a: tf.Tensor) -> tf.Tensor:
        """Lays a signal of the first inputs out along its axes of a pair."""
        return a[..., None]

    def second(self, a: tf.Tensor) -> tf.Tensor:
        """Lays a signal of the second inputs out along its axes of a pair."""
        return a[..., None, :]

    def mix_signal(self, a: tf.Tensor) -> tf.Tensor:
        """The average over the taps, of a signal."""
        return mix(a, self.convolution, self._rank, pairs=False)

    mix_pair = mix_signal

    def beyond_edge(self, square1: tf.Tensor, square2: tf.Tensor) -> Any:
        """Nothing: both positions of a pair leave the image together."""
        return 0.0

    def readout(self, a: tf.Tensor) -> tf.Tensor:
        """The readout of pairs of positions to pairs of inputs."""
        return tf.reduce_mean(a, axis=list(range(self._rank)))

    def norm(self, root: tf.Tensor) -> tf.Tensor:
        """The scale of a whole image."""
        return _norm(root, self._rank)

    def patches(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What each output position sees; see `Convolution.patches`."""
        return self.convolution.patches(x)

    def equal_positions(self, a: tf.Tensor) -> tf.Tensor:
        """Of pairs of positions those of a position with itself, [*spatial, ...]."""
        return a

    def coincide(self, same: tf.Tensor, spatial: Any) -> tf.Tensor:
        """The pairs known to be equal, of positions, from those of inputs."""
        del spatial
        return same


class Pool:
    """Kernels [h, h', w, w', pairs] of two signals [h, w, pairs]; the readout is the mean."""

    own_norm = False

    def __init__(self, convolution: Convolution) -> None:
        self.convolution, self._rank = convolution, convolution.profile.ndim
        self.shrinks = convolution.padding == "valid" or max(convolution.strides) > 1

    def first(self, a: tf.Tensor) -> tf.Tensor:
        """Lays a signal of the first inputs out along its axes of a pair."""
        return self._spread(a, lambda size: (size, 1))

    def second(self, a: tf.Tensor) -> tf.Tensor:
        """Lays a signal of the second inputs out along its axes of a pair."""
        return self._spread(a, lambda size: (1, size))

    def _spread(self, a: tf.Tensor, axes: Callable[[int], tuple[int, int]]) -> tf.Tensor:
        *leading, pairs = a.shape
        spatial = [leading.pop() for _ in range(self._rank)][::-1]
        count = -1 if pairs is None else pairs
        return tf.reshape(a, [*leading, *(s for size in spatial for s in axes(size)), count])

    def mix_signal(self, a: tf.Tensor) -> tf.Tensor:
        """The average over the taps, of a signal."""
        return mix(a, self.convolution, self._rank, pairs=False)

    def mix_pair(self, a: tf.Tensor) -> tf.Tensor:
        """The average over the taps, of pairs."""
        return mix(a, self.convolution, self._rank, pairs=True)

    def beyond_edge(self, square1: tf.Tensor, square2: tf.Tensor) -> Any:
        """Squared distances at taps where one position is outside, in the zeros, and one inside."""
        if self.convolution.padding != "same":
            return 0.0
        # A ring of zeros around the image, wide enough for every tap; then it is VALID.
        sizes = square1.shape[: self._rank]
        paddings = [self.convolution.margins(axis, size) for axis, size in enumerate(sizes)]
        paddings.append((0, 0))
        outside = 1 - tf.pad(tf.ones_like(square1[..., :1]), paddings)
        distance = self.first(tf.pad(square1, paddings)) * self.second(outside)
        distance += self.first(outside) * self.second(tf.pad(square2, paddings))
        valid = self.convolution._replace(padding="valid")
        return mix(distance, valid, self._rank, pairs=True)

    def readout(self, a: tf.Tensor) -> tf.Tensor:
        """The readout of pairs of positions to pairs of inputs."""
        return tf.reduce_mean(a, axis=list(range(2 * self._rank)))

    def norm(self, root: tf.Tensor) -> tf.Tensor:
        """The scale of a whole image."""
        return _norm(root, self._rank)

    def patches(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What each output position sees; see `Convolution.patches`."""
        return self.convolution.patches(x)

    def equal_positions(self, a: tf.Tensor) -> tf.Tensor:
        """Of pairs of positions those of a position with itself, [*spatial, ...]."""
        letters = "abc"[: self._rank]
        return tf.einsum(f"{''.join(c + c for c in letters)}...->{letters}...", a)

    def coincide(self, same: tf.Tensor, spatial: Any) -> tf.Tensor:
        """The pairs known to be equal, of positions, from those of inputs."""
        # Equal positions of equal images; other equal pixels are found by their values.
        positions = np.ones([])
        for size in spatial:
            positions = np.multiply.outer(positions, np.eye(size))
        return tf.logical_and(tf.constant(positions[..., None] > 0), same)
