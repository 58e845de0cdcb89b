"""Covariances of random signals over positions and inputs, and what maps do to them.

A tensor holds E[a(x, p) b(x', p')] of two channels a, b, positions p, p' and inputs x, x', laid out
as `geometry.mix` wants it: positions first, the two of one axis side by side, inputs last. Where no
layer asks for pairs of positions, equal ones alone are kept.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

__all__ = [
    "Covariance",
    "Layout",
    "activate",
    "add",
    "as_matrix",
    "from_data",
    "from_matrix",
    "move",
    "reorder",
    "variances",
]


class Covariance(NamedTuple):
    """All that is known of two signals a and b, for first inputs x1 and second inputs x2.

    Attributes:
        self1: E[a(x) b(x)] of each first input with itself, [*positions, n1].
        self2: the same of the second inputs, [*positions, n2].
        nngp: E[a(x1) b(x2)], [*positions, n1, n2].
        ntk: the inner product of their gradients by the weights, likewise.
    """

    self1: tf.Tensor
    self2: tf.Tensor
    nngp: tf.Tensor
    ntk: tf.Tensor

    def map(self, function: Callable[[tf.Tensor], tf.Tensor]) -> "Covariance":
        """Applies a linear function to all four."""
        return Covariance(*map(function, self))

    def scaled(self, factor: float) -> "Covariance":
        """All four times a number."""
        return self if factor == 1 else self.map(lambda kernel: factor * kernel)

    def with_gradients(self, ntk: tf.Tensor) -> "Covariance":
        """With more in the tangent kernel."""
        return self._replace(ntk=self.ntk + ntk)


class Layout(NamedTuple):
    """How positions are laid out.

    Attributes:
        rank: number of spatial axes.
        pairs: whether all pairs of positions are kept, or equal ones only.
    """

    rank: int
    pairs: bool

    @property
    def axes(self) -> int:
        """The number of axes in front of the inputs."""
        return self.rank * (2 if self.pairs else 1)

    def sided(self) -> list[int]:
        """The axes in the order: first positions, second positions."""
        return [*range(0, self.axes, 2), *range(1, self.axes, 2)]


def add(terms: Sequence[Covariance]) -> Covariance:
    """The sum of covariances."""
    if len(terms) == 1:
        return terms[0]
    return Covariance(*(tf.add_n(list(parts)) for parts in zip(*terms)))


def variances(kernel: tf.Tensor, layout: Layout) -> tf.Tensor:
    """A kernel at equal positions, [*spatial, ...]."""
    if not layout.pairs or not layout.rank:
        return kernel
    letters = "abc"[: layout.rank]
    return tf.einsum(f"{''.join(c + c for c in letters)}...->{letters}...", kernel)


def from_data(
    first_signal: tuple[tf.Tensor, tf.Tensor],
    second_signal: tuple[tf.Tensor, tf.Tensor],
    pairs: bool,
) -> Covariance:
    """The mean product over the channels of two signals [n, *spatial, channels] that are data."""
    (x1, x2), (y1, y2) = first_signal, second_signal
    rank = x1.shape.rank - 2
    first = second = "abc"[:rank]
    if pairs:
        second = "uvw"[:rank]
    order = "".join(a + b for a, b in zip(first, second)) if pairs else first
    channels = x1.shape[-1]
    self1, self2 = (
        tf.einsum(f"i{first}z,i{second}z->{order}i", x, y) / channels
        for x, y in ((x1, y1), (x2, y2))
    )
    nngp = tf.einsum(f"i{first}z,j{second}z->{order}ij", x1, y2) / channels
    return Covariance(self1, self2, nngp, tf.zeros_like(nngp))


def move(
    kernel: tf.Tensor, matrices: Sequence[np.ndarray | None], axes: Sequence[int]
) -> tf.Tensor:
    """Applies a matrix [out, in] along each of some axes; None leaves one as it is."""
    for matrix, axis in zip(matrices, axes):
        if matrix is not None:
            moved = tf.tensordot(tf.constant(matrix, kernel.dtype), kernel, [[1], [axis]])
            order = list(range(1, kernel.shape.rank))
            order.insert(axis, 0)
            kernel = tf.transpose(moved, order)
    return kernel


def reorder(
    kernel: tf.Tensor, layout: Layout, order: Sequence[int], sizes: Sequence[int]
) -> tf.Tensor:
    """Permutes the spatial axes, then reads the positions as an image of other sizes."""
    rest = [int(n) for n in kernel.shape[layout.axes :]]
    inputs = list(range(layout.axes, kernel.shape.rank))
    if not layout.pairs:
        return tf.reshape(tf.transpose(kernel, [*order, *inputs]), [*sizes, *rest])
    sided = [2 * axis for axis in order] + [2 * axis + 1 for axis in order]
    kernel = tf.reshape(tf.transpose(kernel, [*sided, *inputs]), [*sizes, *sizes, *rest])
    rank = len(sizes)
    interleaved = [axis + side for axis in range(rank) for side in (0, rank)]
    last = list(range(2 * rank, kernel.shape.rank))
    return tf.transpose(kernel, [*interleaved, *last])


def as_matrix(kernel: tf.Tensor, layout: Layout) -> tf.Tensor:
    """A kernel over pairs as a matrix [first positions and inputs, second positions and inputs]."""
    first, second = layout.sided()[: layout.rank], layout.sided()[layout.rank :]
    one, two = layout.axes, layout.axes + 1
    sides = math.prod(int(kernel.shape[axis]) for axis in (*first, one))
    return tf.reshape(tf.transpose(kernel, [*first, one, *second, two]), [sides, -1])


def from_matrix(matrix: tf.Tensor, shape: Sequence[int], layout: Layout) -> tf.Tensor:
    """The kernel of `shape` that `as_matrix` made a matrix of."""
    order = [*layout.sided()[: layout.rank], layout.axes, *layout.sided()[layout.rank :]]
    order.append(layout.axes + 1)
    return tf.transpose(tf.reshape(matrix, [shape[axis] for axis in order]), np.argsort(order))


def outer_of_two(a: tf.Tensor, b: tf.Tensor, layout: Layout) -> tf.Tensor:
    """Products a(x1, p) b(x2, p') of functions [*spatial, n1] and [*spatial, n2]."""
    if not layout.pairs:
        return a[..., :, None] * b[..., None, :]
    shape = [n for pair in zip(a.shape[:-1], b.shape[:-1]) for n in pair]
    product = tf.reshape(a, [-1, 1]) * tf.reshape(b, [1, -1])
    return from_matrix(product, [*shape, a.shape[-1], b.shape[-1]], layout)


def outer_of_one(a: tf.Tensor, b: tf.Tensor, layout: Layout) -> tf.Tensor:
    """Products a(x, p) b(x, p') of functions [*spatial, n]."""
    if not layout.pairs:
        return a * b
    inputs = a.shape[-1]
    product = tf.einsum("pn,qn->pqn", tf.reshape(a, [-1, inputs]), tf.reshape(b, [-1, inputs]))
    sided = tf.reshape(product, [*a.shape[:-1], *b.shape[:-1], inputs])
    rank = layout.rank
    interleaved = [axis + side for axis in range(rank) for side in (0, rank)]
    return tf.transpose(sided, [*interleaved, 2 * rank])


def activate(
    value: Covariance,
    variance1: tuple[tf.Tensor, tf.Tensor],
    variance2: tuple[tf.Tensor, tf.Tensor],
    layout: Layout,
    dual: Any,
    same: tf.Tensor | None,
    symmetric: bool = False,
) -> Covariance:
    """One activation of two Gaussian signals a and b.

    Args:
        value: their covariance.
        variance1: variances of a and of b at the first inputs, [*spatial, n1].
        variance2: likewise at the second inputs.
        layout: of the covariance.
        dual: the dual maps of the activation.
        same: where first and second inputs are equal, [n1, n2]; None if a and b are two signals.
        symmetric: whether the second inputs are the first, in their order.
    """
    (a1, b1), (a2, b2) = variance1, variance2
    n1, n2 = value.nngp.shape[-2:]
    if not layout.pairs or not layout.rank:
        left, right = tf.reshape(a1, [-1, n1, 1]), tf.reshape(b2, [-1, 1, n2])
        matrix = [tf.reshape(k, [-1, n1, n2]) for k in (value.nngp, value.ntk)]
        nngp, slope = dual.maps(left, right, matrix[0], same)
        shape = value.nngp.shape
        if same is not None:
            self1, self2 = (dual.moments(q)[0] for q in (a1, a2))
        else:
            self1 = dual.maps(a1, b1, value.self1)[0]
            self2 = dual.maps(a2, b2, value.self2)[0]
        return Covariance(
            self1, self2, tf.reshape(nngp, shape), tf.reshape(slope * matrix[1], shape)
        )
    equal = None if same is None else _coincident(value.nngp, layout, same)
    left, right = tf.reshape(a1, [-1, 1]), tf.reshape(b2, [1, -1])
    nngp, slope = dual.maps(left, right, as_matrix(value.nngp, layout), equal)
    shape = [int(n) for n in value.nngp.shape]
    nngp, slope = (from_matrix(k, shape, layout) for k in (nngp, slope))
    if symmetric:
        self1 = self2 = tf.linalg.diag_part(nngp)
    else:
        self1, self2 = (
            _own(dual, k, a, b, layout, same is not None)
            for k, a, b in ((value.self1, a1, b1), (value.self2, a2, b2))
        )
    return Covariance(self1, self2, nngp, slope * value.ntk)


def _coincident(kernel: tf.Tensor, layout: Layout, same: tf.Tensor) -> tf.Tensor:
    """Where `as_matrix` holds equal positions of equal inputs."""
    places = math.prod(int(kernel.shape[axis]) for axis in layout.sided()[: layout.rank])
    diagonal = tf.reshape(tf.eye(places, dtype=tf.bool), [places, 1, places, 1])
    shape = [places * n for n in same.shape]
    return tf.reshape(tf.logical_and(diagonal, same[None, :, None, :]), shape)


def _own(
    dual: Any, kernel: tf.Tensor, a: tf.Tensor, b: tf.Tensor, layout: Layout, same: bool
) -> tf.Tensor:
    """The activated kernel of each input with itself, over pairs of positions."""
    places = [math.prod(int(n) for n in q.shape[:-1]) for q in (a, b)]
    order = [layout.axes, *layout.sided()]
    transposed = tf.transpose(kernel, order)
    square = tf.reshape(transposed, [-1, *places])
    a, b = (tf.transpose(tf.reshape(q, [n, -1])) for q, n in zip((a, b), places))
    equal = np.eye(places[0]) > 0 if same else None
    square, _ = dual.maps(a[:, :, None], b[:, None, :], square, equal)
    return tf.transpose(tf.reshape(square, transposed.shape), np.argsort(order))
