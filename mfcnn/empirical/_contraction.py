"""Kernel contributions of weights from the factors of their Jacobians.

A weight that enters z = a t (dense layer) or z = patches(a) t (convolution) has the Jacobian
sum_p a[p] delta[p], with the input a and the cotangents delta = d output / d z, both much smaller
than the Jacobian. The kernel is then, with positions p and p',

    sum_{p, p'} <a1[p], a2[p']> <delta1[p], delta2[p']>,

or the product of the two Jacobians, whichever costs less.
"""

import math
from typing import Any, NamedTuple

import tensorflow as tf

from mfcnn.empirical._uses import Use

__all__ = ["Factors", "Size", "bias_of", "contract", "explicit", "factors", "size_of", "weighted"]


class Factors(NamedTuple):
    """The Jacobian of one use as sum_p a[p] delta[p].

    Attributes:
        a: [n, positions, groups, d]; of a lookup the indices [n, positions]; None where delta is
            the Jacobian itself.
        delta: [n, k, positions, groups, o]; where a is None [n, k, p], p entries of the weight.
        rows: of a lookup, the number of rows of the weight.
        factor: None, or what multiplies the Jacobian's entries [p].
        bias: whether the last of d is the bias that is added to the product.
        layout: None, or (shape, axes): the entries (d, groups, o) in this shape, transposed by
            these axes, are the weight's.
    """

    a: Any
    delta: tf.Tensor
    rows: int = 0
    factor: tf.Tensor | None = None
    layout: tuple | None = None
    bias: bool = False


class Size(NamedTuple):
    """Numbers of one use for each example: the sizes of its factors."""

    positions: int
    groups: int
    d: int
    o: int
    parameters: int
    kind: str

    @property
    def multiplications(self) -> int:
        """Of the forward pass."""
        linear = self.kind in ("product", "convolution", "transposed")
        return self.positions * self.groups * self.d * self.o if linear else 0

    @property
    def explicit(self) -> bool:
        """Whether only the Jacobian serves."""
        return self.groups > 1 or self.kind in ("shift", "scale")

    def costs(self, n1: int, n2: int, k: int, outputs: str) -> tuple[int, int]:
        """Multiplications of the contraction: (by Jacobians, by pairs of positions)."""
        pairs_of_outputs = k if outputs == "trace" else k * k
        weight = self.groups * self.d * self.o
        by_jacobian = (n1 + n2) * k * self.positions * weight + n1 * n2 * pairs_of_outputs * weight
        if self.kind == "lookup":
            inner = 1
        else:
            inner = self.d
        by_positions = n1 * n2 * self.positions**2 * (inner + pairs_of_outputs * self.o)
        return by_jacobian, by_positions

    def by_jacobian(self, n1: int, n2: int, k: int, outputs: str) -> bool:
        """Whether the contraction goes by the Jacobians."""
        by_jacobian, by_positions = self.costs(n1, n2, k, outputs)
        return self.explicit or (self.positions > 1 and by_jacobian <= by_positions)


def size_of(use: Use, n: int) -> Size:
    """The sizes of a use, traced with n examples."""
    parameters = math.prod(use.shape)
    outputs = math.prod(use.output.shape[1:])
    if use.kind in ("shift", "scale"):
        return Size(outputs // max(parameters, 1) or 1, 1, 1, parameters, parameters, use.kind)
    if use.kind == "lookup":
        positions = math.prod(use.input.shape[1:])
        return Size(positions, 1, use.shape[0], use.shape[1], parameters, use.kind)
    if use.kind == "transposed":
        positions = math.prod(use.input.shape[1:-1])
        d = use.shape[-1]
        return Size(positions, 1, d, parameters // d, parameters, use.kind)
    if "labels" in use.options:
        other, mine, result = use.options["labels"]
        sizes = dict(zip(mine, use.shape))
        d = math.prod(size for label, size in sizes.items() if label not in result)
        kept = math.prod(size for label, size in sizes.items() if label not in other)
        positions = math.prod(
            size for label, size in zip(other[1:], use.input.shape[1:]) if label not in mine
        )
        return Size(positions, use.groups, d, kept, parameters, use.kind)
    o = use.output.shape[-1]
    positions = math.prod(use.output.shape[:-1]) // n
    d = parameters // o
    return Size(positions, use.groups, d, o // use.groups, parameters, use.kind)


def bias_of(product: Use, uses: list[Use], n: int) -> Use | None:
    """The shift among `uses` that does nothing but add a bias to a product without positions.

    Both have the same cotangents, so that the bias is one more input, of value 1.
    """
    z = product.output
    plain = product.kind == "product" and z.shape.rank == 2 and z.shape[0] == n
    if not plain or product.groups > 1 or not _scalar(product.path.factor):
        return None
    for use in uses:
        if use.kind == "shift" and use.input is z and len(z.consumers()) == 1:
            if _scalar(use.path.factor) and math.prod(use.shape) == z.shape[-1]:
                return use
    return None


def _scalar(factor: tf.Tensor | None) -> bool:
    return factor is None or factor.shape.rank == 0


def factors(use: Use, delta: tf.Tensor, n: int, dtype: tf.DType, bias: Use | None) -> Factors:
    """The factors of a use.

    Args:
        use: how a weight is used.
        delta: cotangents [k, *use.output.shape].
        n: batch size.
        dtype: of the result.
        bias: a use to include, see `bias_of`.
    """
    delta, k = tf.cast(delta, dtype), delta.shape[0]
    factor = None if use.path.factor is None else tf.cast(use.path.factor, dtype)
    if use.kind in ("shift", "scale"):
        jacobian = _elementwise_jacobian(use, delta, dtype)
        return Factors(None, jacobian if factor is None else jacobian * tf.reshape(factor, [-1]))
    if use.kind == "lookup":
        indices = tf.reshape(use.input, [n, -1])
        delta = tf.transpose(tf.reshape(delta, [k, n, indices.shape[1], 1, -1]), [1, 0, 2, 3, 4])
        rows, layout = use.shape[0], None
        if _scalar(factor):
            delta, factor = delta if factor is None else delta * factor, None
        return Factors(indices, delta, rows, None if factor is None else _flat(factor), layout)
    a, delta, layout = _FACTORS[use.kind](use, tf.cast(use.input, dtype), delta, n)
    if _scalar(factor):
        a, factor = a if factor is None else a * factor, None
    if use.path.transposed and layout is None:
        layout = (use.shape, (1, 0))
    if bias is not None:
        one = tf.ones([n, 1, 1, 1], dtype)
        scale = bias.path.factor
        a = tf.concat([a, one if scale is None else one * tf.cast(scale, dtype)], 3)
    if factor is not None and use.path.transposed:
        factor = tf.transpose(tf.reshape(factor, use.shape))
    flat = None if factor is None else _flat(factor)
    return Factors(a, delta, 0, flat, layout, bias is not None)


def _flat(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, [-1])


def _elementwise_jacobian(use: Use, delta: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Summed over the axes along which the weight was broadcast: [n, k, p]."""
    if use.kind == "scale":
        delta = delta * tf.cast(use.input, dtype)
    rank = use.output.shape.rank
    shape = (1,) * (rank - len(use.shape)) + use.shape
    sizes = use.output.shape
    axes = [axis + 1 for axis in range(1, rank) if shape[axis] == 1 and sizes[axis] != 1]
    delta = tf.reduce_sum(delta, axes) if axes else delta
    return tf.transpose(tf.reshape(delta, [delta.shape[0], delta.shape[1], -1]), [1, 0, 2])


def _product(use: Use, a: tf.Tensor, delta: tf.Tensor, n: int) -> tuple:
    k = delta.shape[0]
    if "labels" in use.options:
        return _einsum(use, a, delta)
    # A transposed matrix [o, d] gives the same factors; only its entries lie otherwise.
    a = tf.reshape(a, [n, -1, 1, a.shape[-1]])
    delta = tf.reshape(delta, [k, n, -1, 1, delta.shape[-1]])
    return a, tf.transpose(delta, [1, 0, 2, 3, 4]), None


def _einsum(use: Use, a: tf.Tensor, delta: tf.Tensor) -> tuple:
    other, mine, result = use.options["labels"]
    size = dict(zip(mine, use.shape)) | dict(zip(other, use.input.shape))
    summed = [label for label in mine if label not in result]
    kept = [label for label in mine if label not in other]
    both = [label for label in mine if label in other and label in result]
    places = [label for label in other[1:] if label not in mine]
    n, k = a.shape[0], delta.shape[0]
    p, g, d, o = (math.prod(size[i] for i in part) for part in (places, both, summed, kept))
    order = [other.index(label) for label in (other[0], *places, *both, *summed)]
    a = tf.reshape(tf.transpose(a, order), [n, p, g, d])
    order = [1 + result.index(label) for label in (other[0], *places, *both, *kept)]
    delta = tf.transpose(delta, [order[0], 0, *order[1:]])
    entries = (*summed, *both, *kept)
    layout = tuple(size[label] for label in entries), tuple(entries.index(i) for i in mine)
    return a, tf.reshape(delta, [n, k, p, g, o]), layout


def _convolution(use: Use, a: tf.Tensor, delta: tf.Tensor, n: int) -> tuple:
    groups, channels, k = use.groups, a.shape[-1], delta.shape[0]
    patches = _patches(a, use.options)
    window = math.prod(use.options["sizes"])
    patches = tf.reshape(patches, [n, -1, window, groups, channels // groups])
    a = tf.reshape(tf.transpose(patches, [0, 1, 3, 2, 4]), [n, patches.shape[1], groups, -1])
    delta = tf.reshape(delta, [k, n, a.shape[1], groups, -1])
    return a, tf.transpose(delta, [1, 0, 2, 3, 4]), None


def _patches(a: tf.Tensor, options: dict) -> tf.Tensor:
    if a.shape.rank == 5:
        return tf.extract_volume_patches(
            a, options["sizes"], options["strides"], options["padding"]
        )
    return tf.image.extract_patches(a, **options)


def _transposed(use: Use, a: tf.Tensor, delta: tf.Tensor, n: int) -> tuple:
    """The transpose of a convolution: windows of the cotangent meet the input's positions."""
    k, channels = delta.shape[0], a.shape[-1]
    windows = _patches(tf.reshape(delta, [k * n, *delta.shape[2:]]), use.options)
    a = tf.reshape(a, [n, -1, 1, channels])
    windows = tf.reshape(windows, [k, n, a.shape[1], 1, windows.shape[-1]])
    layout = (channels, windows.shape[-1]), (1, 0)
    return a, tf.transpose(windows, [1, 0, 2, 3, 4]), layout


_FACTORS = {"product": _product, "convolution": _convolution, "transposed": _transposed}


def explicit(f: Factors) -> tf.Tensor:
    """The Jacobian [n, k, p] of one use, in the order of the weight's entries."""
    if f.a is None:
        return f.delta
    n, k = f.delta.shape[:2]
    a = _one_hot(f)
    if a.shape[2] == 1:
        jacobian = tf.matmul(a[:, None, :, 0], f.delta[:, :, :, 0], transpose_a=True)
    else:
        jacobian = tf.einsum("npgd,nkpgo->nkdgo", a, f.delta)
    return _ordered(tf.reshape(jacobian, [n, k, -1]), f)


def _one_hot(f: Factors) -> tf.Tensor:
    return tf.one_hot(f.a, f.rows, dtype=f.delta.dtype)[:, :, None] if f.rows else f.a


def _ordered(jacobian: tf.Tensor, f: Factors) -> tf.Tensor:
    if f.layout is not None:
        before, (shape, axes) = jacobian.shape[:-1], f.layout
        jacobian = tf.reshape(jacobian, [*before, *shape])
        first = len(before)
        jacobian = tf.transpose(jacobian, [*range(first), *(first + axis for axis in axes)])
        jacobian = tf.reshape(jacobian, [*before, -1])
    return jacobian if f.factor is None else jacobian * f.factor


def weighted(f: Factors, m: tf.Tensor) -> list[tf.Tensor]:
    """sum_i m[i] J[i, 0], the first output's Jacobian weighted over the examples: [p].

    Returns:
        It, and where the factors hold a bias that of the bias.
    """
    if f.a is None:
        return [tf.einsum("n,np->p", m, f.delta[:, 0])]
    delta = f.delta[:, 0] * m[:, None, None, None]
    if f.rows:
        flat = tf.reshape(delta, [-1, delta.shape[-1]])
        entries = tf.math.unsorted_segment_sum(flat, _flat(f.a), f.rows)
    else:
        entries = tf.einsum("npgd,npgo->dgo", f.a, delta)
    weight = entries[:-1] if f.bias else entries
    biases = [_flat(entries[-1])] if f.bias else []
    return [_ordered(_flat(weight)[None], f)[0], *biases]


def contract(f1: Factors, f2: Factors, outputs: str) -> tf.Tensor:
    """The kernel of one weight with one use, from the factors of the two batches.

    Returns:
        [n1, n2] (sum over outputs) for "trace"; [n1, k, n2, k] for "full".
    """
    if f1.a is None or f1.factor is not None or f1.delta.shape[3] > 1 or _cheaper(f1, f2, outputs):
        return contract_jacobians(explicit(f1), explicit(f2), outputs)
    delta1, delta2 = f1.delta[:, :, :, 0], f2.delta[:, :, :, 0]
    if delta1.shape[2] == 1 and not f1.rows:
        inner = tf.matmul(f1.a[:, 0, 0], f2.a[:, 0, 0], transpose_b=True)
        product = contract_jacobians(delta1[:, :, 0], delta2[:, :, 0], outputs)
        return product * (inner if outputs == "trace" else inner[:, None, :, None])
    if f1.rows:
        same = tf.equal(f1.a[:, :, None, None], f2.a[None, None])
        inner = tf.cast(same, delta1.dtype)
    else:
        inner = tf.tensordot(f1.a[:, :, 0], f2.a[:, :, 0], [[2], [2]])
    if outputs == "trace":
        delta1, delta2 = (tf.transpose(delta, [0, 2, 1, 3]) for delta in (delta1, delta2))
        product = tf.tensordot(delta1, delta2, [[2, 3], [2, 3]])
        return tf.reduce_sum(product * inner, [1, 3])
    product = tf.tensordot(delta1, delta2, [[3], [3]])
    return tf.reduce_sum(product * inner[:, None, :, :, None], [2, 5])


def _cheaper(f1: Factors, f2: Factors, outputs: str) -> bool:
    """Whether the Jacobians are the cheaper way."""
    n1, k, positions, groups, o = f1.delta.shape
    d = f1.rows or f1.a.shape[3]
    size = Size(positions, groups, d, o, d * o, "lookup" if f1.rows else "product")
    return size.by_jacobian(n1, f2.delta.shape[0], k, outputs)


def contract_jacobians(jacobian1: tf.Tensor, jacobian2: tf.Tensor, outputs: str) -> tf.Tensor:
    """The kernel of two Jacobians [n, k, p], in the layout of `contract`."""
    (n1, k1, _), (n2, k2, _) = jacobian1.shape, jacobian2.shape
    rows = (n1, n2) if outputs == "trace" else (n1 * k1, n2 * k2)
    matrices = (tf.reshape(j, [r, -1]) for j, r in zip((jacobian1, jacobian2), rows))
    product = tf.matmul(*matrices, transpose_b=True)
    return product if outputs == "trace" else tf.reshape(product, [n1, k1, n2, k2])
