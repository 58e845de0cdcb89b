"""Random functions inside a network of infinite width, one channel of many alike.

A `Node` is a random function of positions and inputs. The nodes of a model are an expression:
nothing is computed when they are made. A channel depends on other channels only through numbers
that are not random at infinite width. So two nodes whose `fields`, the weights that act on single
channels, are disjoint are independent (Yang, "Tensor programs", 2019), and the covariance of the
two is the product of their means.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from mfcnn.kernels import _geometry
from mfcnn.kernels._models import covariance
from mfcnn.kernels._models.covariance import Covariance

if TYPE_CHECKING:
    from mfcnn.kernels._models.pairs import Evaluation

__all__ = ["Affine", "Data", "Depthwise", "Law", "Lookup", "Node"]

Means = tuple[tf.Tensor, tf.Tensor] | None


class Node:
    """One random channel; see the module."""

    gaussian = False  # a Gaussian function of positions and inputs, of mean zero
    centered = False  # of mean zero
    settled = True  # its tangent kernel is the same number in all channels
    asks_pairs = False  # it mixes positions, and asks for the covariance of all pairs of them

    def __init__(self, sizes: tuple[int, ...], parents: tuple["Node", ...] = ()) -> None:
        """Takes the image's size, one number a spatial axis, and the nodes it is made of."""
        self.sizes, self.parents = tuple(sizes), tuple(parents)
        self.fields: frozenset = frozenset().union(*(p.fields for p in self.parents))
        # The fields, each of mean zero, in which it is linear; None behind an activation.
        self.fresh: frozenset | None = None

    @property
    def reads(self) -> tuple["Node", ...]:
        """The nodes from whose covariances its own is computed."""
        return self.parents

    def covariance(self, evaluation: "Evaluation") -> Covariance:
        """Of the node with itself, from those of the nodes that it reads."""
        raise NotImplementedError

    def mean(self, evaluation: "Evaluation") -> Means:
        """The mean at first and second inputs, [*spatial, n1] and [*spatial, n2]; None is zero."""
        if self.centered:
            return None
        raise ValueError("the mean of its channels is not known")


class Law(NamedTuple):
    """What is random, and what is trained, in the weights of an affine map.

    Attributes:
        key: identity of the weights: a layer used twice is one.
        weight_variance: sigma_w^2, the sum of the variances of the weights into an output.
        bias_variance: sigma_b^2.
        convolution: the taps with their share of the variance, or None for a dense map.
        weight_gradient: the factor of the (averaged) input kernel in the NTK.
        bias_gradient: what the bias adds to the NTK.
        taps: the taps as the weight gradient averages over them.
    """

    key: Any
    weight_variance: float
    bias_variance: float
    convolution: Any = None
    weight_gradient: float = 0.0
    bias_gradient: float = 0.0
    taps: Any = None

    def apply(self, value: Covariance, layout: covariance.Layout) -> Covariance:
        """The covariance behind the weights."""

        def mixed(kernel: tf.Tensor, convolution: Any) -> tf.Tensor:
            if convolution is None:
                return kernel
            return _geometry.mix(kernel, convolution, layout.rank, pairs=layout.pairs)

        variance, bias = self.weight_variance, self.bias_variance
        self1, self2, inputs, ntk = value.map(lambda k: mixed(k, self.convolution))
        ntk = variance * ntk + self.bias_gradient
        if self.weight_gradient:
            same = self.taps is self.convolution
            ntk = ntk + self.weight_gradient * (inputs if same else mixed(value.nngp, self.taps))
        return Covariance(
            variance * self1 + bias, variance * self2 + bias, variance * inputs + bias, ntk
        )


class Data(Node):
    """The inputs, or what layers without weights made of them: not random."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        function: Callable[..., tf.Tensor],
        parents: tuple["Data", ...] = (),
        dtype: str = "float32",
    ) -> None:
        """Takes the function of the parents' tensors, each [n, *sizes, channels]."""
        super().__init__(sizes, parents)
        self.sources = tuple(parents)
        self.function, self.dtype = function, dtype
        self.fields = frozenset(["inputs"])  # two of them are not independent

    def covariance(self, evaluation: "Evaluation") -> Covariance:
        """The mean product over the channels."""
        data = evaluation.data(self)
        return covariance.from_data(data, data, evaluation.pairs)

    def mean(self, evaluation: "Evaluation") -> Means:
        """The mean over the channels."""
        return tuple(
            tf.transpose(tf.reduce_mean(x, -1), [*range(1, x.shape.rank - 1), 0])
            for x in evaluation.data(self)
        )


class Affine(Node):
    """New weights over all channels of its parents: Gaussian.

    `parts` are the parents with the fractions of the channels that they are; `flat` says that
    positions count as channels.
    """

    gaussian = centered = True

    def __init__(
        self,
        sizes: tuple[int, ...],
        parts: tuple[tuple[float, Node], ...],
        law: Law,
        flat: bool = False,
    ) -> None:
        super().__init__(sizes, tuple(node for _, node in parts))
        self.fractions, self.law, self.flat = tuple(f for f, _ in parts), law, flat
        self.fields = self.fresh = frozenset([law.key])

    def covariance(self, evaluation: "Evaluation") -> Covariance:
        """K = sigma_w^2 (mean of the parents over taps) + sigma_b^2, and the NTK likewise."""
        return self.combine(evaluation, [evaluation.own(parent) for parent in self.parents])

    def combine(self, evaluation: "Evaluation", values: list[Covariance | None]) -> Covariance:
        """The covariance, given those of the parents (None: zero)."""
        total = []
        for fraction, parent, value in zip(self.fractions, self.parents, values):
            if value is not None:
                if self.flat:
                    value = value.map(functools.partial(_mean, layout=evaluation.layout(parent)))
                total.append(value.scaled(fraction))
        layout = evaluation.layout(self)
        if not total:
            total = [evaluation.zero(() if self.flat else self.parents[0].sizes)]
        return self.law.apply(covariance.add(total), layout)


def _mean(kernel: tf.Tensor, layout: covariance.Layout) -> tf.Tensor:
    """The mean over equal positions."""
    return tf.reduce_mean(covariance.variances(kernel, layout), list(range(layout.rank)))


class Depthwise(Node):
    """New weights for each channel: of mean zero, but a Gaussian times a random filter."""

    centered = True

    def __init__(self, sizes: tuple[int, ...], parent: Node, law: Law) -> None:
        super().__init__(sizes, (parent,))
        self.law = law
        self.fresh = frozenset([law.key])
        self.fields = self.fields | self.fresh
        self.settled = parent.settled and not law.weight_gradient

    def covariance(self, evaluation: "Evaluation") -> Covariance:
        """As behind a convolution: the weights of one channel average over taps alone."""
        return self.law.apply(evaluation.own(self.parents[0]), evaluation.layout(self))


class Lookup(Node):
    """One random vector for each token; dense weights on one-hot vectors."""

    centered = True

    def __init__(self, tokens: Data, law: Law, gaussian: bool) -> None:
        super().__init__(tokens.sizes, (tokens,))
        self.tokens = tokens
        self.law, self.gaussian = law, gaussian
        self.fields = self.fresh = frozenset([law.key])

    def covariance(self, evaluation: "Evaluation") -> Covariance:
        """The variance where two tokens are equal, and zero elsewhere."""
        x1, x2 = (tf.cast(x, tf.int64) for x in evaluation.data(self.tokens))
        return self.law.apply(
            tokens_equal(x1, x2, evaluation.pairs), evaluation.layout(self)._replace(pairs=True)
        )


def tokens_equal(x1: tf.Tensor, x2: tf.Tensor, pairs: bool) -> Covariance:
    """One where tokens [n, *sizes] are equal, as a covariance of signals."""
    rank = x1.shape.rank - 1

    def equal(a: tf.Tensor, b: tf.Tensor, outer: bool) -> tf.Tensor:
        first = tf.transpose(a, [*range(1, rank + 1), 0])
        second = tf.transpose(b, [*range(1, rank + 1), 0])
        sizes = list(first.shape[:-1])
        left = [s for size in sizes for s in ((size, 1) if pairs else (size,))]
        right = [s for size in sizes for s in ((1, size) if pairs else (size,))]
        if outer:
            first = tf.reshape(first, [*left, first.shape[-1], 1])
            second = tf.reshape(second, [*right, 1, second.shape[-1]])
        else:
            first = tf.reshape(first, [*left, first.shape[-1]])
            second = tf.reshape(second, [*right, second.shape[-1]])
        return tf.cast(tf.equal(first, second), tf.float64)

    nngp = equal(x1, x2, True)
    return Covariance(equal(x1, x1, False), equal(x2, x2, False), nngp, tf.zeros_like(nngp))
