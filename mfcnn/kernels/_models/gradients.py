"""Squared gradients by the nodes of a model at infinite width, backwards from its outputs.

Of a node it is the sum over channels of the squared gradient, by position and input, [*sizes, n].
Weights are new to the gradient that comes to them (the assumption of gradient independence, CNN
paper, section 2.1.5): a sum over paths has no cross terms where the paths come out of different
weights. Contributions are therefore kept by the weights that they come out of; where two of one
kind meet, or a map of positions reads one of them twice, nothing is known from there on.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mfcnn.activations import Activation
from mfcnn.kernels._models.nodes import Affine, Data, Depthwise, Law, Lookup, Node
from mfcnn.kernels._models.operations import (
    Elementwise,
    Gain,
    Moved,
    Normalized,
    Product,
    Reordered,
    Weighted,
)
from mfcnn.kernels._models.partial import Moments
from mfcnn.kernels._models.stack import Stack

__all__ = ["squared_gradients"]

_LAYERS = 2_000  # of a stack, each of which takes some quadratures

_Flow = dict[Any, np.ndarray]
_Edge = tuple[Node, _Flow]


class _UnknownError(Exception):
    """A gradient that no rule knows."""


def squared_gradients(
    order: Sequence[Node],
    starts: Iterable[tuple[Any, Node, np.ndarray]],
    unknown: Collection[Node],
    moments: Mapping[Node, Moments],
) -> dict[Node, np.ndarray]:
    """The squared gradient by each node for which it is known.

    Args:
        order: the nodes, parents first.
        starts: for each output a key, the node, and the squared cotangent [*sizes, n].
        unknown: nodes that go into something that is not known.
        moments: of the nodes, as far as they are known.
    """
    flows: dict[Node, _Flow] = {}
    lost = set(unknown)
    for key, node, squares in starts:
        _join(flows, lost, node, {key: squares})
    found = {}
    for node in reversed(order):
        flow = flows.pop(node, {})
        if node in lost:
            lost.update(node.parents)
        elif flow:
            found[node] = np.sum(list(flow.values()), axis=0)
            try:
                edges = list(_backward(node, flow, moments))
            except _UnknownError:
                lost.update(node.parents)
                continue
            for parent, part in edges:
                _join(flows, lost, parent, part)
    return found


def _join(flows: dict[Node, _Flow], lost: set[Node], node: Node, flow: _Flow) -> None:
    """Adds what comes over one more path."""
    known = flows.setdefault(node, {})
    if known.keys() & flow.keys():
        lost.add(node)
    known.update(flow)


def _backward(node: Node, flow: _Flow, moments: Mapping[Node, Moments]) -> Iterator[_Edge]:
    """What goes to each parent."""
    if isinstance(node, Affine):
        total = np.sum(list(flow.values()), axis=0)
        if isinstance(node, Stack):
            total = _to_first(node, total, _of(node, moments).first)
        for fraction, parent in zip(node.fractions, node.parents):
            if not isinstance(parent, Data):
                back = fraction * _through(node.law, total, parent, node.flat)
                yield parent, {node.law.key: back}
    elif isinstance(node, Depthwise):
        total = np.sum(list(flow.values()), axis=0)
        yield node.parents[0], {node.law.key: _through(node.law, total, node.parents[0], False)}
    elif isinstance(node, Weighted):
        for factor, parent in zip(node.factors, node.parents):
            yield parent, {key: factor**2 * g for key, g in flow.items()}
    elif isinstance(node, Product):
        yield from _product(node, flow, moments)
    elif not isinstance(node, (Data, Lookup)):
        yield node.parents[0], {key: _one(node, g, moments) for key, g in flow.items()}


def _through(law: Law, total: np.ndarray, parent: Node, flat: bool) -> np.ndarray:
    """Back through weights: sigma_w^2 times the taps' shares, transposed."""
    if flat:
        places = int(np.prod(parent.sizes, dtype=np.int64))
        return law.weight_variance * np.broadcast_to(
            total / places, (*parent.sizes, total.shape[-1])
        )
    if law.convolution is None:
        return law.weight_variance * total
    return law.weight_variance * _mixed(law, total, parent.sizes, "t,toi->io")


def _mixed(law: Law, values: np.ndarray, sizes: Sequence[int], to: str) -> np.ndarray:
    """The mean over taps, from images of these sizes ("t,toi->oi") or back to them."""
    result: Any = 0.0
    for vectors in law.convolution.terms():
        term = values
        for axis, vector in enumerate(vectors):
            shifts = law.convolution.shifts(axis, sizes[axis])
            term = _along(np.einsum(to, vector, shifts), term, axis)
        result = result + term
    return result


def _to_first(node: Stack, total: np.ndarray, first: np.ndarray | None) -> np.ndarray:
    """From the last pre-activations of a stack back to the first."""
    if first is None or node.depth > _LAYERS:
        raise _UnknownError
    q, law, slopes = first, node.law, []
    for _ in range(node.depth - 1):
        second = q
        if node.function is not None:
            slopes.append(_moment(node.function, "derivative_second_moment", 1, q))
            second = _moment(node.function, "second_moment", 0, q)
        if law.convolution is not None:
            second = _mixed(law, second, node.sizes, "t,toi->oi")
        q = law.weight_variance * second + law.bias_variance
    for layer in reversed(range(node.depth - 1)):
        total = _through(law, total, node, False)
        total = total * slopes[layer] if slopes else total
    return total


def _along(matrix: np.ndarray, values: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(np.tensordot(matrix, values, ((1,), (axis,))), 0, axis)


def _of(node: Node, moments: Mapping[Node, Moments]) -> Moments:
    if node not in moments:
        raise _UnknownError
    return moments[node]


def _product(node: Product, flow: _Flow, moments: Mapping[Node, Moments]) -> Iterator[_Edge]:
    one, other = node.parents
    if one.sizes != other.sizes:  # a sum over positions, whose gradients are correlated
        raise _UnknownError
    for parent, factor in ((one, _of(other, moments)), (other, _of(one, moments))):
        yield parent, {key: factor.variance * g for key, g in flow.items()}


def _one(node: Node, g: np.ndarray, moments: Mapping[Node, Moments]) -> np.ndarray:
    """Back through a function of one parent."""
    (parent, *_) = node.parents
    if isinstance(node, Elementwise):
        variance = _of(parent, moments).variance
        return g * _moment(node.function, "derivative_second_moment", 1, variance)
    if isinstance(node, Gain):
        return node.factor**2 * g
    if isinstance(node, Normalized):
        deviation = _of(node, moments).deviation
        assert deviation is not None
        return g / deviation**2
    if isinstance(node, Reordered):
        shape = [parent.sizes[axis] for axis in node.order]
        image = g.reshape([*shape, *([1] * (len(parent.sizes) - len(shape))), g.shape[-1]])
        rest = range(len(shape), image.ndim)
        return np.transpose(image, np.argsort([*node.order, *rest]))
    if isinstance(node, Moved):
        for axis, matrix in enumerate(node.matrices()):
            if matrix is not None:
                if np.any(np.count_nonzero(matrix, axis=0) > 1):
                    raise _UnknownError
                g = _along(matrix.T**2, g, axis)
        return g
    raise _UnknownError


def _moment(function: Activation, name: str, at_zero: int, variance: np.ndarray) -> np.ndarray:
    """E[phi(z)^2] (0) or E[phi'(z)^2] (1) at each variance."""
    values, places = np.unique(variance, return_inverse=True)
    positive, zero = values > 0, function.at_zero()
    found = np.full(values.shape, (zero[0] ** 2, zero[1])[at_zero])
    if positive.any():
        found[positive] = getattr(function, name)(values[positive])
    return found[places].reshape(variance.shape)
