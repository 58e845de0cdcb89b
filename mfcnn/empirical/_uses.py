"""How a weight is used: the operations of a traced graph that it enters linearly.

A weight t of a dense layer enters z = a t, one of a convolution z = patches(a) t, a bias z = a + t.
The path from the variable to t may reshape, negate, cast, scale or transpose it, or add to it what
does not depend on the example. Every edge of the graph from the weight on is followed; if one of
them is of no known form the weight has no known use, and its Jacobian is taken row by row. The
operations are found in the traced graph, so this serves every layer, of whatever class, that is
made of them. The first axis of a tensor is taken to be the batch wherever it has the batch's
length, and an example's output must depend on no other example: `_verification` checks both.
"""

import math
from typing import Any, NamedTuple

import tensorflow as tf

__all__ = ["Path", "Use", "find_uses"]

_VIEWS = ("Identity", "Reshape", "ExpandDims", "Squeeze", "Cast")
_SUMS = ("AddV2", "Add", "Sub")
_WITHOUT_DERIVATIVE = ("Shape", "ShapeN", "Rank", "Size", "ZerosLike", "OnesLike", "StopGradient")


class Path(NamedTuple):
    """What happened to a weight on its way to an operation.

    Attributes:
        factor: None, or a tensor that multiplies the weight's entries, in the shape that the
            weight has at this place or a scalar.
        transposed: whether the matrix was transposed.
    """

    factor: tf.Tensor | None = None
    transposed: bool = False


class Use(NamedTuple):
    """One operation that a weight enters linearly.

    Attributes:
        kind: "product" (a t), "convolution" (patches(a) t), "transposed" (its transpose),
            "lookup" (rows of t), "shift" (a + t) or "scale" (a * t, elementwise).
        input: the tensor a, for a lookup the indices.
        output: the result z.
        shape: of the weight at this operation.
        path: from the variable to the operation.
        options: of the kind: the windows of a convolution, the labels of an Einsum.
        groups: blocks of the weight of which each sees its own channels.
    """

    kind: str
    input: tf.Tensor
    output: tf.Tensor
    shape: tuple[int, ...]
    path: Path
    options: dict[str, Any] = {}
    groups: int = 1


_DIRECT = Path()


def find_uses(weight: tf.Tensor, n: int, path: Path = _DIRECT) -> list[Use] | None:
    """The uses of a weight in its graph, or None if one of them is of no known form.

    Args:
        weight: a symbolic tensor.
        n: batch size, static.
        path: what happened to it so far.
    """
    uses = []
    for op in dict.fromkeys(weight.consumers()):
        if op.type in _WITHOUT_DERIVATIVE:
            continue
        for position, tensor in enumerate(op.inputs):
            if tensor is not weight:
                continue
            if not all(t.shape.is_fully_defined() for t in (*op.inputs, *op.outputs)):
                return None
            further = _next_path(op, position, n, path)
            if further is not None:
                found = find_uses(op.outputs[0], n, further)
            else:
                use = _use(op, position, n, path)
                found = None if use is None else [use]
            if found is None:
                return None
            uses.extend(found)
    return uses


def _next_path(op: Any, position: int, n: int, path: Path) -> Path | None:
    """The path after an operation whose result is again a linear function of the weight alone."""
    weight, result = op.inputs[position], op.outputs[0]
    if op.type in _VIEWS and position == 0 and result.dtype.is_floating:
        if op.type == "Identity" or result.shape == weight.shape:
            return path
        return None if path.transposed else path._replace(factor=_like(path.factor, result))
    if op.type == "Neg":
        return _times(path, -tf.ones([], weight.dtype))
    if op.type == "Transpose" and position == 0 and weight.shape.rank == 2:
        permutation = tf.get_static_value(op.inputs[1])
        if permutation is not None and list(permutation) == [1, 0]:
            factor = path.factor
            factor = tf.transpose(factor) if factor is not None and factor.shape.rank else factor
            return Path(factor, not path.transposed)
    if op.type not in (*_SUMS, "Mul", "RealDiv") or result.shape != weight.shape:
        return None
    other = op.inputs[1 - position]
    if n in other.shape.as_list():
        return None
    if op.type in _SUMS:
        negative = op.type == "Sub" and position == 1
        return _times(path, -tf.ones([], weight.dtype)) if negative else path
    if op.type == "Mul":
        return _times(path, _spread(other, weight))
    return _times(path, _spread(1 / other, weight)) if position == 0 else None


def _times(path: Path, factor: tf.Tensor) -> Path:
    before = path.factor
    return path._replace(
        factor=factor if before is None else tf.cast(before, factor.dtype) * factor
    )


def _like(factor: tf.Tensor | None, result: tf.Tensor) -> tf.Tensor | None:
    scalar = factor is None or factor.shape.rank == 0
    return factor if scalar else tf.reshape(factor, result.shape)


def _spread(other: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """A factor as a scalar, or in the weight's shape."""
    if other.shape.num_elements() == 1:
        return tf.reshape(other, [])
    return tf.broadcast_to(other, weight.shape)


def _use(op: Any, position: int, n: int, path: Path) -> Use | None:
    finder = _FINDERS.get(op.type)
    use = None if finder is None else finder(op, position, n, path)
    if use is None or (path.transposed and use.kind != "product"):
        return None
    return use


def _product(op: Any, position: int, n: int, path: Path) -> Use | None:
    a, weight, z = op.inputs[0], op.inputs[1], op.outputs[0]
    flags = ("transpose_a", "transpose_b") if op.type == "MatMul" else ("adj_x", "adj_y")
    if position != 1 or weight.shape.rank != 2 or op.get_attr(flags[0]) or not _batch_first(a, n):
        return None
    if op.get_attr(flags[1]):
        path = path._replace(transposed=not path.transposed)
    return Use("product", a, z, tuple(weight.shape), path)


def _batch_first(a: tf.Tensor, n: int) -> bool:
    """Whether a [..., d] has the batch first, or is a reshape of such a tensor to a matrix."""
    if a.shape[0] == n:
        return True
    source = a.op.inputs[0] if a.op.type == "Reshape" else None
    return (
        source is not None
        and source.shape.rank is not None
        and source.shape.rank > 2
        and source.shape[0] == n
        and source.shape[-1] == a.shape[-1]
    )


def _einsum(op: Any, position: int, n: int, path: Path) -> Use | None:
    """Of two operands, with each label of the weight in the other operand or in the result."""
    equation = op.get_attr("equation").decode()
    if len(op.inputs) != 2 or "." in equation or op.inputs[0] is op.inputs[1]:
        return None
    sides, result = equation.replace(" ", "").split("->")
    labels = sides.split(",")
    mine, other = labels[position], labels[1 - position]
    a, z = op.inputs[1 - position], op.outputs[0]
    plain = all(len(set(term)) == len(term) for term in (mine, other, result))
    batch = plain and other[0] == result[0] and other[0] not in mine and a.shape[0] == n
    if not batch or set(other) - set(mine) - set(result) or set(mine) - set(other) - set(result):
        return None
    shape = tuple(op.inputs[position].shape)
    groups = math.prod(
        size for label, size in zip(mine, shape) if label in other and label in result
    )
    return Use(
        "product",
        a,
        z,
        shape,
        path,
        {"labels": (other, mine, result)},
        groups,
    )


def _convolution(op: Any, position: int, n: int, path: Path) -> Use | None:
    a, weight, z = op.inputs[0], op.inputs[1], op.outputs[0]
    rank = weight.shape.rank - 2
    last = op.get_attr("data_format") in (b"NHWC", b"NDHWC")
    if position != 1 or not last or op.get_attr("padding") == b"EXPLICIT" or a.shape[0] != n:
        return None
    options = {
        "sizes": [1, *weight.shape[:rank], 1],
        "strides": list(op.get_attr("strides")),
        "rates": list(op.get_attr("dilations")),
        "padding": op.get_attr("padding").decode(),
    }
    if op.type == "DepthwiseConv2dNative":
        groups = a.shape[-1]
    else:
        groups = a.shape[-1] // weight.shape[-2]
    if rank == 3 and (groups > 1 or any(rate != 1 for rate in options["rates"])):
        return None
    return Use("convolution", a, z, tuple(weight.shape), path, options, groups)


def _transposed_convolution(op: Any, position: int, n: int, path: Path) -> Use | None:
    weight, a, z = op.inputs[1], op.inputs[2], op.outputs[0]
    plain = op.get_attr("data_format") == b"NHWC" and op.get_attr("padding") != b"EXPLICIT"
    if position != 1 or not plain or a.shape[0] != n or weight.shape[3] != a.shape[3]:
        return None
    options = {
        "sizes": [1, *weight.shape[:2], 1],
        "strides": list(op.get_attr("strides")),
        "rates": list(op.get_attr("dilations")),
        "padding": op.get_attr("padding").decode(),
    }
    return Use("transposed", a, z, tuple(weight.shape), path, options)


def _lookup(op: Any, position: int, n: int, path: Path) -> Use | None:
    weight, indices, axis = op.inputs[0], op.inputs[1], tf.get_static_value(op.inputs[2])
    plain = position == 0 and axis is not None and int(axis) == 0 and not op.get_attr("batch_dims")
    if not plain or indices.shape.rank == 0 or indices.shape[0] != n or weight.shape.rank != 2:
        return None
    return Use("lookup", indices, op.outputs[0], tuple(weight.shape), path)


def _elementwise(op: Any, position: int, n: int, path: Path) -> Use | None:
    if len(op.inputs) != 2:
        return None
    weight, other, z = op.inputs[position], op.inputs[1 - position], op.outputs[0]
    if op.type == "BiasAdd" and (position != 1 or op.get_attr("data_format") != b"NHWC"):
        return None
    shape = weight.shape
    of_example = z.shape.rank > 0 and z.shape[0] == n and other.shape[:1] == [n]
    if not of_example or other.shape.rank != z.shape.rank:
        return None
    if shape.rank == z.shape.rank and shape[0] != 1:
        return None
    kind = "scale" if op.type in ("Mul", "RealDiv") else "shift"
    if op.type == "RealDiv":
        if position == 1:
            return None
        other = 1 / other
    if op.type == "Sub" and position == 1:
        path = _times(path, -tf.ones([], weight.dtype))
    return Use(kind, other, z, tuple(shape), path)


_FINDERS = {
    "MatMul": _product,
    "BatchMatMulV2": _product,
    "Einsum": _einsum,
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "DepthwiseConv2dNative": _convolution,
    "Conv2DBackpropInput": _transposed_convolution,
    "GatherV2": _lookup,
    "BiasAdd": _elementwise,
    "AddV2": _elementwise,
    "Add": _elementwise,
    "Sub": _elementwise,
    "Mul": _elementwise,
    "RealDiv": _elementwise,
}
