"""Sums over positions with weights that differ from input to input: attention, means under masks.

At infinite width the weights of `layers.NTKSelfAttention` are a function of the kernel, and those
of a mask one of the data: neither is random. Those of Keras's attention, with queries of their own
and a scale 1 / sqrt(key_dim), stay random; the kernel is a mean over heads, which are drawn.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from mfcnn.kernels._models import covariance
from mfcnn.kernels._models.covariance import Covariance, Layout
from mfcnn.kernels._models.nodes import Data, Means, Node
from mfcnn.kernels._models.sampled import Draw, Sampled, Sampler
from mfcnn.layers._attention import attention_weights

if TYPE_CHECKING:
    from mfcnn.kernels._models.pairs import Evaluation

__all__ = ["Attention", "MaskedMean", "SampledHeads"]

_NUMBERS = 2**22  # in the tensors of the heads that are drawn at once


class Mixed(Node):
    """A sum over the positions of a node, with a weight for each and each input."""

    asks_pairs = True

    def __init__(self, sizes: tuple[int, ...], values: Node, *others: Node) -> None:
        """Takes the size of the image that comes out, the node, and what the weights read."""
        super().__init__(sizes, (values, *others))
        self.fields, self.fresh = values.fields, values.fresh
        self.gaussian, self.centered = values.gaussian, values.centered
        self.settled = values.settled

    def weights(self, evaluation: "Evaluation", side: int) -> tf.Tensor:
        """Those of the first (0) or second (1) inputs, [outputs, positions, n]."""
        raise NotImplementedError

    def covariance(self, evaluation: "Evaluation") -> Covariance:
        """The weights on both sides."""
        values = self.parents[0]
        layout, own = evaluation.layout(values), evaluation.own(values)
        first, second = (self.weights(evaluation, side) for side in (0, 1))
        self1, self2, nngp, ntk = own.map(lambda kernel: _sided(kernel, layout))
        return Covariance(
            tf.einsum("psi,sti,qti->pqi", first, self1, first),
            tf.einsum("psi,sti,qti->pqi", second, self2, second),
            tf.einsum("psi,stij,qtj->pqij", first, nngp, second),
            tf.einsum("psi,stij,qtj->pqij", first, ntk, second),
        ).map(lambda kernel: _interleaved(kernel, self.sizes))

    def mean(self, evaluation: "Evaluation") -> Means:
        """The weights on the means."""
        means = evaluation.mean(self.parents[0])
        if means is None:
            return None
        result = []
        for side, mean in enumerate(means):
            flat = tf.reshape(mean, [-1, mean.shape[-1]])
            moved = tf.einsum("psi,si->pi", self.weights(evaluation, side), flat)
            result.append(tf.reshape(moved, [*self.sizes, mean.shape[-1]]))
        return tuple(result)


class MaskedMean(Mixed):
    """The mean over the positions that a mask [n, positions] does not leave out."""

    def __init__(self, values: Node, mask: Data) -> None:
        super().__init__((1,), values)
        self.mask = mask

    def weights(self, evaluation: "Evaluation", side: int) -> tf.Tensor:
        """1 / their number; an input without any has no mean."""
        mask = tf.transpose(evaluation.data(self.mask)[side])
        count = tf.reduce_sum(mask, 0)
        if tf.executing_eagerly() and np.any(count.numpy() == 0):
            raise ValueError(
                "x1 and x2 must have a position that is not masked in each input: the network's "
                "mean over no position is not a number"
            )
        return (mask / count)[None]


class Attention(Mixed):
    """Attention whose logits are the kernel of its keys: infinitely many, and queries as well."""

    def __init__(self, values: Node, keys: Node, mechanism: str, mask: Data | None) -> None:
        """Takes a name of `layers.NTKSelfAttention`, and a mask [n, positions] of the keys."""
        super().__init__(values.sizes, values, keys)
        self.mechanism, self.mask = mechanism, mask

    def weights(self, evaluation: "Evaluation", side: int) -> tf.Tensor:
        """The mechanism of the logits."""
        keys = self.parents[1]
        kernel = evaluation.own(keys)[side]
        logits = tf.transpose(_sided(kernel, evaluation.layout(keys)), [2, 0, 1])
        mask = None
        if self.mask is not None:
            mask = evaluation.data(self.mask)[side][:, None, :] > 0
        return tf.transpose(attention_weights(self.mechanism, logits, mask), [1, 2, 0])


class SampledHeads(Sampled):
    """A value behind softmax(q k' / sqrt(key_dim)), the mean over heads that are drawn.

    Queries, keys and tangents are drawn, `key_dim` of each for a head; values enter linearly and
    their mean is taken without drawing.
    """

    centered = True

    def __init__(
        self,
        values: Node,
        keys: Node,
        queries: Node,
        key_dim: int,
        causal: bool,
        masks: Sequence[Data | None],
    ) -> None:
        """Takes the masks [n, positions] of the queries, the values and the keys."""
        super().__init__(queries.sizes, (values, keys, queries))
        self.key_dim, self.causal, self.masks = key_dim, causal, masks
        self.asks_pairs = True

    @property
    def reads(self) -> tuple[Node, ...]:
        """All three."""
        return self.parents

    def draw(self, sampler: Sampler) -> Draw:
        """Not asked for: behind heads there are weights over all of them."""
        raise NotImplementedError

    def covariance(self, evaluation: "Evaluation") -> Covariance:
        """E[A K A'] and E[A Theta A' + dA K dA'], with dA the attention's tangent."""
        values, keys, queries = self.parents
        own, layout = evaluation.own(values), evaluation.layout(values)
        nngp, ntk = (tf.transpose(_sided(k, layout), [2, 3, 0, 1]) for k in (own.nngp, own.ntk))
        inputs, places = int(nngp.shape[0]), int(nngp.shape[2])
        asked = math.prod(self.sizes)
        each = inputs * (inputs * asked * places + (asked + places) * self.key_dim)
        at_once = max(1, min(evaluation.channels, _NUMBERS // each))
        mask = self._mask(evaluation, asked, places)
        results, left = [], evaluation.channels
        while left:
            heads = min(left, at_once)
            sampler = Sampler(evaluation, heads * self.key_dim)
            drawn = [
                tf.reshape(part, [-1, inputs, heads, self.key_dim])
                for node in (queries, keys)
                for part in sampler.draw(node)
            ]
            results.append(_sums(drawn, mask, nngp, ntk))
            left -= heads
        nngp, ntk = (
            _interleaved(tf.transpose(tf.add_n(k) / evaluation.channels, [2, 3, 0, 1]), self.sizes)
            for k in map(list, zip(*results))
        )
        own_kernel = tf.linalg.diag_part(nngp)
        return Covariance(own_kernel, own_kernel, nngp, ntk)

    def _mask(self, evaluation: "Evaluation", asked: int, places: int) -> tf.Tensor | None:
        """The keys that each query may read, [n, 1, queries, keys]; None for all."""
        parts = []
        for node, axis in zip(self.masks, (-1, -2, -2)):
            if node is not None:
                parts.append(tf.expand_dims(evaluation.data(node)[0] > 0, axis))
        if self.causal:
            parts.append(tf.constant(np.tri(asked, places, dtype=bool))[None])
        mask = None
        for part in parts:
            mask = part if mask is None else tf.logical_and(mask, part)
        return None if mask is None else mask[:, None]


def _sums(
    drawn: list[tf.Tensor], mask: tf.Tensor | None, nngp: tf.Tensor, ntk: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums over heads, [n, n, queries, queries].

    Args:
        drawn: queries, their tangents, keys, their tangents, [positions, n, heads, key_dim].
        mask: the keys that count, [n, 1, queries, keys], or None.
        nngp: of the values, [n, n, keys, keys].
        ntk: likewise.
    """
    q, dq, k, dk = (tf.transpose(part, [1, 2, 0, 3]) for part in drawn)
    root = math.sqrt(int(q.shape[-1]))
    logits = tf.matmul(q, k, transpose_b=True) / root
    slopes = (tf.matmul(dq, k, transpose_b=True) + tf.matmul(q, dk, transpose_b=True)) / root
    if mask is not None:  # a query without keys reads all alike, as in Keras
        slopes = tf.where(mask, slopes, tf.zeros_like(slopes))
    a = attention_weights("softmax", logits, mask)
    da = a * (slopes - tf.reduce_sum(a * slopes, -1, keepdims=True))

    def mixed(weights: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        left = tf.einsum("imps,ijst->ijmpt", weights, kernel)
        return tf.einsum("ijmpt,jmqt->ijpq", left, weights)

    return mixed(a, nngp), mixed(a, ntk) + mixed(da, nngp)


def _sided(kernel: tf.Tensor, layout: Layout) -> tf.Tensor:
    """A kernel over pairs as [first positions, second positions, *inputs]."""
    inputs = list(range(layout.axes, kernel.shape.rank))
    places = math.prod(int(kernel.shape[axis]) for axis in range(0, layout.axes, 2))
    rest = [int(kernel.shape[axis]) for axis in inputs]
    return tf.reshape(tf.transpose(kernel, [*layout.sided(), *inputs]), [places, -1, *rest])


def _interleaved(kernel: tf.Tensor, sizes: tuple[int, ...]) -> tf.Tensor:
    """The kernel over pairs of which `_sided` made this one."""
    flat = Layout(1, True)
    return covariance.reorder(kernel, flat, [0], sizes)
