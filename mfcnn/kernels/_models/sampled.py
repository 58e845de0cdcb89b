"""Monte Carlo where there is no closed form: a layer of finitely many random channels.

The Gaussian signals below a node are drawn for all positions and inputs of a block together, and
with each a tangent: a Gaussian signal whose covariance is the tangent kernel, independent of the
values. What the layers make of many such channels, values and tangents, has the covariances sought:
with J the Jacobian of the values, E[J t (J t)'] = E[J Theta J'].
"""

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from mfcnn.activations import Activation
from mfcnn.kernels import _geometry
from mfcnn.kernels._models import covariance
from mfcnn.kernels._models.covariance import Covariance
from mfcnn.kernels._models.nodes import Depthwise, Means, Node
from mfcnn.kernels._models.operations import (
    Elementwise,
    Gain,
    Moved,
    Normalized,
    Product,
    Reordered,
    Weighted,
)
from mfcnn.kernels._models.taps import Taps

if TYPE_CHECKING:
    from mfcnn.kernels._models.pairs import Evaluation

__all__ = ["Activated", "Draw", "Maximum", "Sampled", "Sampler"]

_JITTER = 1e-10  # of the mean variance: a covariance of equal pixels has no Cholesky factor
# Nodes whose channels are functions of their parents' channels.
_OF_THE_PARENTS = (Weighted, Moved, Reordered, Elementwise, Gain, Normalized, Product)

Draw = tuple[tf.Tensor, tf.Tensor]  # values and tangents, [*sizes, inputs, channels]


class Sampled(Node):
    """A node whose covariance is the mean over random channels."""

    @functools.cached_property
    def reads(self) -> tuple[Node, ...]:
        """The Gaussian nodes that are drawn, and what a normalization on the way divides by."""
        found: dict[Node, None] = {}
        waiting = list(self.parents)
        while waiting:
            node = waiting.pop()
            if isinstance(node, Normalized):
                found.update(dict.fromkeys(node.parents[1:]))
            if isinstance(node, (Sampled, Depthwise, *_OF_THE_PARENTS)):
                waiting += node.parents[: _arguments(node)]
            else:
                found[node] = None
        return tuple(found)

    def covariance(self, evaluation: "Evaluation") -> Covariance:
        """The mean products of values and of tangents."""
        layout = evaluation.layout(self)
        values, tangents = Sampler(evaluation).draw(self)
        inputs, channels = values.shape[-2:]
        shape = [n for size in self.sizes for n in (size, size)] + [inputs, inputs]
        kernels = []
        for drawn in (values, tangents):
            rows = tf.reshape(drawn, [-1, channels])
            product = tf.matmul(rows, rows, transpose_b=True) / channels
            kernels.append(covariance.from_matrix(product, shape, layout))
        nngp, ntk = kernels
        own = tf.linalg.diag_part(nngp)
        evaluation.remember_mean(self, (tf.reduce_mean(values, -1),) * 2)
        return Covariance(own, own, nngp, ntk)

    def mean(self, evaluation: "Evaluation") -> Means:
        """The mean over the same channels."""
        self.covariance(evaluation)
        return evaluation.mean(self)

    def draw(self, sampler: "Sampler") -> Draw:
        """Channels of it."""
        raise NotImplementedError


class Activated(Sampled):
    """A function of each value of a node that is not Gaussian."""

    def __init__(self, parent: Node, function: Activation) -> None:
        super().__init__(parent.sizes, (parent,))
        self.function, self.asks_pairs = function, True

    def draw(self, sampler: "Sampler") -> Draw:
        """phi(x), phi'(x) t."""
        return _activated(self.function, sampler.draw(self.parents[0]))


class Maximum(Sampled):
    """The maximum over windows."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        parent: Node,
        window: tuple[int, ...],
        strides: tuple[int, ...],
        padding: str,
    ) -> None:
        super().__init__(sizes, (parent,))
        self.window, self.strides, self.padding = window, strides, padding
        self.asks_pairs = True

    def draw(self, sampler: "Sampler") -> Draw:
        """The largest value of a window, and the tangent there."""
        values, tangents = sampler.draw(self.parents[0])
        rank = len(self.sizes)
        order = [rank, *range(rank), rank + 1]
        image, tangent = (tf.transpose(x, order) for x in (values, tangents))
        if rank == 1:
            image, tangent = image[:, :, None], tangent[:, :, None]
        one = (1,) * (2 - rank)
        largest, places = tf.nn.max_pool_with_argmax(
            image, (*self.window, *one), (*self.strides, *one), self.padding.upper()
        )
        tangent, places = (tf.reshape(x, [image.shape[0], -1]) for x in (tangent, places))
        chosen = tf.gather(tangent, places, batch_dims=1)
        chosen = tf.reshape(chosen, largest.shape)
        shape = [largest.shape[0], *self.sizes, largest.shape[-1]]
        back = [*range(1, rank + 1), 0, rank + 1]
        return tuple(tf.transpose(tf.reshape(x, shape), back) for x in (largest, chosen))


def _activated(function: Activation, drawn: Draw) -> Draw:
    values, tangents = drawn
    return function.phi(values), function.phi_prime(values) * tangents


def _arguments(node: Node) -> int:
    """The parents whose channels go into one channel: of a normalized node only the first."""
    return 1 if isinstance(node, Normalized) else len(node.parents)


class Sampler:
    """Channels of the nodes under one, drawn together."""

    def __init__(self, evaluation: "Evaluation", channels: int = 0) -> None:
        """Takes the number of channels; 0 is that of the evaluation."""
        self._evaluation = evaluation
        self._known: dict[Node, Draw] = {}
        self._channels = channels or evaluation.channels

    def draw(self, node: Node) -> Draw:
        """Values and tangents [*sizes, inputs, channels]; the same at each call."""
        if node not in self._known:
            self._known[node] = self._draw(node)
        return self._known[node]

    def _draw(self, node: Node) -> Draw:
        if isinstance(node, Sampled):
            return node.draw(self)
        if isinstance(node, Depthwise):
            return self._depthwise(node)
        if not isinstance(node, _OF_THE_PARENTS):
            return self._gaussian(node)
        drawn = [self.draw(parent) for parent in node.parents[: _arguments(node)]]
        if isinstance(node, Weighted):
            return tuple(
                sum(factor * part for factor, part in zip(node.factors, parts))
                for parts in zip(*drawn)
            )
        if isinstance(node, Product):
            (x, t), (y, u) = drawn
            return x * y, x * u + t * y
        (x, t) = drawn[0]
        if isinstance(node, Elementwise):
            return _activated(node.function, (x, t))
        if isinstance(node, Moved):
            axes = range(len(node.parents[0].sizes))
            return tuple(covariance.move(part, node.matrices(), axes) for part in (x, t))
        if isinstance(node, Reordered):
            layout = covariance.Layout(len(node.parents[0].sizes), False)
            return tuple(
                covariance.reorder(part, layout, node.order, node.sizes) for part in (x, t)
            )
        if isinstance(node, Gain):
            by_factor, by_shift = (math.sqrt(g) for g in node.gradients)
            one = self._normal([1] * (len(node.sizes) + 1) + [self._channels])
            other = self._normal([1] * (len(node.sizes) + 1) + [self._channels])
            return node.factor * x, node.factor * t + by_factor * one * x + by_shift * other
        mean, deviation = (s[..., None] for s in node.statistics(self._evaluation, 0))
        return (x - mean) / deviation, t / deviation

    def _normal(self, shape: list[int]) -> tf.Tensor:
        return self._evaluation.normal(shape)

    def _gaussian(self, node: Node) -> Draw:
        value, layout = self._evaluation.own(node), self._evaluation.layout(node)
        inputs = int(value.nngp.shape[-1])
        result = []
        for kernel in (value.nngp, value.ntk):
            matrix = covariance.as_matrix(kernel, layout)
            mean = tf.reduce_mean(tf.linalg.diag_part(matrix))
            if mean > 0:
                eye = tf.eye(matrix.shape[0], dtype=matrix.dtype)
                factor = tf.linalg.cholesky(matrix + _JITTER * mean * eye)
                drawn = tf.matmul(factor, self._normal([matrix.shape[0], self._channels]))
            else:
                drawn = tf.zeros([matrix.shape[0], self._channels], matrix.dtype)
            result.append(tf.reshape(drawn, [*node.sizes, inputs, self._channels]))
        return tuple(result)

    def _depthwise(self, node: Depthwise) -> Draw:
        """Filters drawn for each channel, and their tangents."""
        x, t = self.draw(node.parents[0])
        law = node.law
        taps, shape = law.convolution, law.convolution.profile.shape
        deviations = tf.sqrt(tf.constant(law.weight_variance * taps.profile))[..., None]
        filters = deviations * self._normal([*shape, self._channels])
        values = _filtered(x, filters, taps)
        tangents = _filtered(t, filters, taps)
        if law.weight_gradient:
            spread = tf.sqrt(tf.constant(law.weight_gradient * law.taps.profile))[..., None]
            tangents = tangents + _filtered(
                x, spread * self._normal([*shape, self._channels]), taps
            )
        ones = [1] * (len(node.sizes) + 1) + [self._channels]
        values = values + math.sqrt(law.bias_variance) * self._normal(ones)
        tangents = tangents + math.sqrt(law.bias_gradient) * self._normal(ones)
        return values, tangents


def _filtered(x: tf.Tensor, filters: tf.Tensor, taps: Taps) -> tf.Tensor:
    """A filter [*window, channels] of each channel on x [*sizes, inputs, channels]."""
    rank = filters.shape.rank - 1
    total = 0.0
    for place in range(math.prod(filters.shape[:-1])):
        term = x
        index: list[int] = []
        for size in reversed(filters.shape[:-1]):
            place, tap = divmod(place, size)
            index.insert(0, tap)
        for axis in range(rank):
            shift = taps.shifts(axis, int(x.shape[axis]))[index[axis]]
            term = _geometry.shifted(term, np.ones(1), shift[None], [axis])
        total = total + filters[tuple(index)] * term
    return total
