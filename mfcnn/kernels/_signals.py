"""Random signals inside a network of infinite width, and what layers do to their covariances.

A `Signal` stands for the channels of one layer's output. It is laid out as `geometry.mix` wants it:
positions first, inputs last.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mfcnn.activations import dual as dual_lib
from mfcnn.activations import dual_numerical
from mfcnn.kernels import _blocks, _geometry
from mfcnn.kernels._recursion import inverse, safe_sqrt

__all__ = [
    "Signal",
    "activate",
    "add",
    "affine",
    "average_pool",
    "dual_of",
    "extremes",
    "from_data",
    "pad",
]

_ROUNDING = 1e-15  # gaps 1 - c below are those of equal signals


class Signal(NamedTuple):
    """Covariances of a layer's output.

    Attributes:
        rank: number of spatial axes.
        pairs: whether all pairs of positions are kept, or equal positions only.
        self1: kernel of each first input with itself, [*positions, n1].
        self2: the same of the second inputs, [*positions, n2].
        nngp: [*positions, n1, n2].
        ntk: likewise.
        same: whether first and second input are equal, [n1, n2].
        flat: whether the layer below was Flatten.
        terms: the layers of which it is a linear image, or None behind an activation.
        ancestors: all layers with weights on which it depends.
    """

    rank: int
    pairs: bool
    self1: tf.Tensor
    self2: tf.Tensor
    nngp: tf.Tensor
    ntk: tf.Tensor
    same: tf.Tensor
    flat: bool = False
    terms: frozenset | None = None
    ancestors: frozenset = frozenset()

    @property
    def kernels(self):
        """The four tensors that every layer changes."""
        return self.self1, self.self2, self.nngp, self.ntk

    def with_kernels(self, kernels):
        """The signal with other covariances."""
        return self._replace(**dict(zip(("self1", "self2", "nngp", "ntk"), kernels)))

    def map(self, function):
        """Applies a linear function to all four kernels."""
        return self.with_kernels(map(function, self.kernels))

    def sizes(self):
        """The image's size."""
        step = 2 if self.pairs else 1
        return [int(self.nngp.shape[step * axis]) for axis in range(self.rank)]

    def variances(self, kernel):
        """The kernel at equal positions, [*spatial, ...]."""
        if not self.pairs or not self.rank:
            return kernel
        letters = "abc"[: self.rank]
        return tf.einsum(f"{''.join(c + c for c in letters)}...->{letters}...", kernel)

    def independent_of(self, other):
        """Whether no product of the two has a mean: weights of zero mean that one alone has."""
        return self.terms is not None and self.terms.isdisjoint(other.ancestors)


def from_data(x1, x2, same, pairs):
    """The covariance over channels of inputs [n, *spatial, channels]."""
    rank = x1.shape.rank - 2
    first, second = "abc"[:rank], "abc"[:rank]
    if pairs:
        second = "uvw"[:rank]
    order = "".join(a + b for a, b in zip(first, second)) if pairs else first
    channels = x1.shape[-1]
    self1, self2 = (tf.einsum(f"i{first}z,i{second}z->{order}i", x, x) / channels for x in (x1, x2))
    nngp = tf.einsum(f"i{first}z,j{second}z->{order}ij", x1, x2) / channels
    return Signal(rank, pairs, self1, self2, nngp, tf.zeros_like(nngp), same)


def affine(signal, weight_variance, bias_variance, layer=None, convolution=None, trainable=True):
    """A linear layer with weights of its own: dense if convolution is None.

    Args:
        signal: a `Signal`; a flat one is read as one vector.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        layer: what the weights belong to, for `add`.
        convolution: a `geometry.Convolution`.
        trainable: whether the weights count in the NTK.
    """
    if convolution is not None:

        def mixed(kernel):
            return _geometry.mix(kernel, convolution, signal.rank, pairs=signal.pairs)
    else:
        if signal.flat:
            # The covariance over all positions and channels: the mean over equal positions.
            axes = list(range(signal.rank))
            signal = signal.map(lambda k: tf.reduce_mean(signal.variances(k), axes))
            signal = signal._replace(rank=0, flat=False)

        def mixed(kernel):
            return kernel

    self1, self2, nngp, ntk = (weight_variance * mixed(kernel) for kernel in signal.kernels)
    nngp = nngp + bias_variance
    ntk = ntk + nngp if trainable else ntk
    signal = signal.with_kernels((self1 + bias_variance, self2 + bias_variance, nngp, ntk))
    terms = frozenset() if layer is None else frozenset([layer])
    return signal._replace(terms=terms, ancestors=signal.ancestors | terms)


def add(signals):
    """The sum of signals, or None if two of them may be correlated."""
    for index, one in enumerate(signals):
        for other in signals[:index]:
            if not (one.independent_of(other) or other.independent_of(one)):
                return None
    linear = all(signal.terms is not None for signal in signals)
    return (
        signals[0]
        .with_kernels(tf.add_n(parts) for parts in zip(*(signal.kernels for signal in signals)))
        ._replace(
            terms=frozenset().union(*(s.terms for s in signals)) if linear else None,
            ancestors=frozenset().union(*(s.ancestors for s in signals)),
        )
    )


def pad(signal, margins):
    """Zeros around the image, `margins` [rank, 2] of them."""
    spatial = [list(m) for m in margins for _ in range(2 if signal.pairs else 1)]
    return signal.map(lambda k: tf.pad(k, spatial + [[0, 0]] * (k.shape.rank - len(spatial))))


def average_pool(signal, window, strides, padding):
    """Averages over windows at both positions of a pair; positions outside do not count."""
    uniform = np.full(window, 1 / np.prod(window))
    convolution = _geometry.Convolution(uniform, padding, strides)
    matrices = []
    for axis, size in enumerate(signal.sizes()):
        matrix = convolution.shifts(axis, size).sum(axis=0)
        matrices.append(matrix / matrix.sum(axis=1, keepdims=True))

    def pool(kernel):
        for axis, matrix in enumerate(matrices):
            for position in (2 * axis, 2 * axis + 1):
                moved = tf.tensordot(tf.constant(matrix), kernel, [[1], [position]])
                order = list(range(1, kernel.shape.rank))
                order.insert(position, 0)
                kernel = tf.transpose(moved, order)
        return kernel

    return signal.map(pool)


def dual_of(activation, signal):
    """The dual of an activation for the variances of a signal."""
    dual = dual_lib.closed_form_dual(activation)
    if dual is None:
        table = dual_numerical.build_table(activation, *extremes(signal))
        dual = dual_numerical.TabulatedDual(table, tf.float64)
    return dual


def extremes(signal):
    """Smallest and largest variance."""
    return _blocks.extremes(*(signal.variances(k) for k in (signal.self1, signal.self2)))


def activate(signal, dual):
    """An activation, given by its dual maps, on all kernels.

    Pairs are brought to a matrix [first position and input, second position and input], so that
    a dual broadcasts rows against columns whatever the image's rank.
    """
    q1, q2 = (signal.variances(k) for k in (signal.self1, signal.self2))
    n1, n2 = signal.nngp.shape[-2:]
    sizes = signal.sizes()
    positions = int(np.prod(sizes))
    rank = signal.rank

    def maps(kernel, left, right, same):
        root = safe_sqrt(left) * safe_sqrt(right)
        gap = tf.clip_by_value((root - kernel) * inverse(root), 0, 2)
        gap = tf.where(tf.logical_or(same, gap < _ROUNDING), tf.zeros_like(gap), gap)
        output_gap, slope = dual.pair(dual.side(left), dual.side(right), gap)
        scale = safe_sqrt(dual.moments(left)[0]) * safe_sqrt(dual.moments(right)[0])
        return scale * (1 - output_gap), slope

    if not signal.pairs or not rank:

        def matrix(kernel):
            return tf.reshape(kernel, [-1, n1, n2])

        def back(kernel):
            return tf.reshape(kernel, signal.nngp.shape)

        sides = tf.reshape(q1, [-1, n1, 1]), tf.reshape(q2, [-1, 1, n2])
        selves = [dual.moments(q)[0] for q in (q1, q2)]
        same = signal.same
    else:
        first, second = (list(range(start, 2 * rank, 2)) for start in (0, 1))
        order = [*first, 2 * rank, *second, 2 * rank + 1]

        def matrix(kernel):
            return tf.reshape(tf.transpose(kernel, order), [positions * n1, positions * n2])

        def back(kernel):
            return tf.transpose(tf.reshape(kernel, [*sizes, n1, *sizes, n2]), np.argsort(order))

        def own(kernel, q, n):
            """The kernel of each input with itself, over pairs of positions."""
            order = [2 * rank, *first, *second]
            square = tf.reshape(tf.transpose(kernel, order), [n, positions, positions])
            q = tf.transpose(tf.reshape(q, [positions, n]))
            square, _ = maps(square, q[:, :, None], q[:, None, :], np.eye(positions) > 0)
            return tf.transpose(tf.reshape(square, [n, *sizes, *sizes]), np.argsort(order))

        sides = tf.reshape(q1, [-1, 1]), tf.reshape(q2, [1, -1])
        selves = [own(k, q, n) for k, q, n in ((signal.self1, q1, n1), (signal.self2, q2, n2))]
        equal = tf.reshape(tf.eye(positions, dtype=tf.bool), [positions, 1, positions, 1])
        same = tf.reshape(
            tf.logical_and(equal, signal.same[None, :, None, :]), [-1, positions * n2]
        )
    nngp, slope = maps(matrix(signal.nngp), *sides, same)
    return signal.with_kernels((*selves, back(nngp), back(slope) * signal.ntk))._replace(terms=None)
