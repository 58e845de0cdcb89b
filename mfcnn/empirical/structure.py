"""Kernel contributions of weights from the structure of the operations that use them.

A weight that enters a product z = a w (dense layer) or z = patches(a) w (convolution) has the
Jacobian sum_p a[p] delta[p], with the input a and the cotangents delta = d output / d z, both much
smaller than the Jacobian. The kernel is then, with positions p and p',

    sum_{p, p'} <a1[p], a2[p']> <delta1[p], delta2[p']>,

or the product of the two Jacobians, whichever costs less. The operations are found in the traced
graph, so this serves every layer, of whatever class, that is made of them. The first axis of a
tensor is taken to be the batch wherever it has the batch's length, and an example's output must
depend on no other example.
"""

import math
from typing import NamedTuple

import tensorflow as tf

__all__ = [
    "Factors",
    "Use",
    "bias_of",
    "contract",
    "explicit",
    "factors",
    "find_uses",
    "floating_operations",
]

_RESHAPES = ("Identity", "Reshape", "ExpandDims", "Squeeze")


class Use(NamedTuple):
    """One operation that a weight enters linearly.

    Attributes:
        kind: "product" (a w), "convolution", "shift" (a + w) or "scale" (a * w elementwise).
        input: the tensor a.
        output: the result z.
        constants: scalars, or for a vector vectors, that multiplied the weight on its way here.
        options: of `tf.image.extract_patches`, for a convolution.
    """

    kind: str
    input: tf.Tensor
    output: tf.Tensor
    constants: tuple
    options: dict


class Factors(NamedTuple):
    """Inputs a [n, positions, d] and cotangents delta [n, k, positions, o] of one use.

    Shift and scale have no input (None): delta [n, k, 1, o] is already their Jacobian.
    """

    a: tf.Tensor
    delta: tf.Tensor


def find_uses(weight, n, constants=()):
    """The uses of a weight in its graph, or None if one of them is of no known form.

    Args:
        weight: a symbolic tensor.
        n: batch size, static.
        constants: factors met before.

    Returns:
        A list of `Use`.
    """
    uses = []
    for op in weight.consumers():
        if op.type in _RESHAPES and op.inputs[0] is weight:
            further = find_uses(op.outputs[0], n, constants)
        elif _is_constant_combination(op, weight):
            factor = _other(op, weight) if op.type == "Mul" else tf.ones([], weight.dtype)
            if op.type == "Sub" and op.inputs[1] is weight:
                factor = -factor
            further = find_uses(op.outputs[0], n, (*constants, factor))
        else:
            use = _use(op, weight, n, constants)
            further = None if use is None else [use]
        if further is None:
            return None
        uses.extend(further)
    return uses


def _other(op, weight):
    return op.inputs[0] if op.inputs[1] is weight else op.inputs[1]


def _is_constant_combination(op, weight):
    """Whether a weight is scaled by a scalar, or is a vector combined with another vector."""
    if op.type not in ("Mul", "AddV2", "Sub"):
        return False
    shape = _other(op, weight).shape
    vectors = weight.shape.rank == 1 and shape == weight.shape
    return vectors or (op.type == "Mul" and shape.rank == 0)


def _use(op, weight, n, constants):
    a, z = op.inputs[0], op.outputs[0]
    kind, options = None, {}
    if any(t.shape.rank is None or not t.shape.is_fully_defined() for t in (*op.inputs, z)):
        return None
    if op.type in ("MatMul", "BatchMatMulV2") and op.inputs[1] is weight and weight.shape.rank == 2:
        flags = ("transpose_a", "transpose_b") if op.type == "MatMul" else ("adj_x", "adj_y")
        if not any(op.get_attr(flag) for flag in flags) and _batch_first(a, n):
            kind = "product"
    elif op.type == "Conv2D" and op.inputs[1] is weight and a.shape[0] == n:
        plain = op.get_attr("data_format") == b"NHWC" and op.get_attr("padding") != b"EXPLICIT"
        if plain and weight.shape[2] == a.shape[3]:
            kind = "convolution"
            options = {
                "sizes": [1, *weight.shape[:2], 1],
                "strides": op.get_attr("strides"),
                "rates": op.get_attr("dilations"),
                "padding": op.get_attr("padding").decode(),
            }
    elif op.type in ("BiasAdd", "AddV2", "Mul") and z.shape[0] == n and z.shape.rank > 1:
        other = _other(op, weight)
        vector = weight.shape.rank > 0 and math.prod(weight.shape) == weight.shape[-1]
        if vector and other.shape[:1] == [n] and other.shape.rank == z.shape.rank:
            if weight.shape[-1] == z.shape[-1]:
                kind, a = ("scale" if op.type == "Mul" else "shift"), other
    return None if kind is None else Use(kind, a, z, constants, options)


def _batch_first(a, n):
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


def bias_of(product, uses, n):
    """The shift among `uses` that does nothing but add a bias to a product without positions.

    Both have the same cotangents, so that the bias is one more input, of value 1.
    """
    z = product.output
    if product.kind == "product" and z.shape.rank == 2 and z.shape[0] == n:
        for use in uses:
            if use.kind == "shift" and use.input is z and len(z.consumers()) == 1:
                return use
    return None


def factors(use, delta, n, dtype, bias=None):
    """The factors of a use.

    Args:
        use: a `Use`.
        delta: cotangents [k, *use.output.shape].
        n: batch size.
        dtype: of the result.
        bias: a use to include, see `bias_of`.
    """
    k, o = delta.shape[0], use.output.shape[-1]
    if use.kind == "scale":
        delta = delta * use.input
    delta = tf.transpose(tf.reshape(tf.cast(delta, dtype), [k, n, -1, o]), [1, 0, 2, 3])
    if use.kind in ("shift", "scale"):
        delta = _scaled(delta, use.constants)
        return Factors(None, tf.reduce_sum(delta, 2, keepdims=True))
    a = use.input
    if use.kind == "convolution":
        a = tf.image.extract_patches(a, **use.options)
    a = _scaled(tf.reshape(tf.cast(a, dtype), [n, -1, a.shape[-1]]), use.constants)
    if bias is not None:
        a = tf.concat([a, _scaled(tf.ones([n, 1, 1], dtype), bias.constants)], 2)
    return Factors(a, delta)


def _scaled(x, constants):
    for constant in constants:
        x = x * tf.cast(constant, x.dtype)
    return x


def explicit(f):
    """The Jacobian [n, k, o * d] of one use."""
    n, k = f.delta.shape[:2]
    if f.a is None:
        return tf.reshape(f.delta, [n, k, -1])
    jacobian = tf.matmul(f.delta, f.a[:, None], transpose_a=True)
    return tf.reshape(jacobian, [n, k, -1])


def contract(f1, f2, outputs):
    """The kernel of one weight with one use, from the factors of the two batches.

    Returns:
        [n1, n2] (sum over outputs) for "trace"; [n1, k, n2, k] for "full".
    """
    positions = f1.delta.shape[2] if f1.a is not None else 1
    by_jacobian, by_positions = _costs(f1, f2, outputs)
    if f1.a is None or (positions > 1 and by_jacobian <= by_positions):
        return contract_jacobians(explicit(f1), explicit(f2), outputs)
    if positions == 1:
        return _contract_without_positions(f1, f2, outputs)
    inner = tf.tensordot(f1.a, f2.a, [[2], [2]])
    if outputs == "trace":
        delta1, delta2 = (tf.transpose(f.delta, [0, 2, 1, 3]) for f in (f1, f2))
        product = tf.tensordot(delta1, delta2, [[2, 3], [2, 3]])
        return tf.reduce_sum(product * inner, [1, 3])
    product = tf.tensordot(f1.delta, f2.delta, [[3], [3]])
    return tf.reduce_sum(product * inner[:, None, :, :, None], [2, 5])


def _contract_without_positions(f1, f2, outputs):
    inner = tf.matmul(f1.a[:, 0], f2.a[:, 0], transpose_b=True)
    product = contract_jacobians(f1.delta[:, :, 0], f2.delta[:, :, 0], outputs)
    return product * (inner if outputs == "trace" else inner[:, None, :, None])


def contract_jacobians(jacobian1, jacobian2, outputs):
    """The kernel of two Jacobians [n, k, p], in the layout of `contract`."""
    (n1, k, _), n2 = jacobian1.shape, jacobian2.shape[0]
    rows = (n1, n2) if outputs == "trace" else (n1 * k, n2 * k)
    matrices = (tf.reshape(j, [r, -1]) for j, r in zip((jacobian1, jacobian2), rows))
    product = tf.matmul(*matrices, transpose_b=True)
    return product if outputs == "trace" else tf.reshape(product, [n1, k, n2, k])


def _costs(f1, f2, outputs):
    if f1.a is None:
        return 0, 0
    (n1, k, positions, o), d = f1.delta.shape, f1.a.shape[2]
    return use_costs(n1, f2.delta.shape[0], k, positions, d, o, outputs)


def use_costs(n1, n2, k, positions, d, o, outputs):
    """Multiplications of the two forms of the contraction: (Jacobians, pairs of positions)."""
    pairs_of_outputs = k if outputs == "trace" else k * k
    by_jacobian = (n1 + n2) * k * positions * d * o + n1 * n2 * pairs_of_outputs * d * o
    by_positions = n1 * n2 * positions**2 * (d + pairs_of_outputs * o)
    return by_jacobian, by_positions


def floating_operations(use, batch_size):
    """Multiplications of a use in the forward pass, and (positions, d, o), per example."""
    o = use.output.shape[-1]
    if use.kind in ("shift", "scale"):
        return 0, (1, 1, o)
    d = use.input.shape[-1]
    if use.kind == "convolution":
        d *= math.prod(use.options["sizes"])
    positions = math.prod(use.output.shape[:-1]) // batch_size
    return positions * d * o, (positions, d, o)
