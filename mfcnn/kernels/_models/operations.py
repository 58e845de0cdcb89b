"""Random functions made of others without new weights; see `nodes`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from mfcnn.activations import Activation
from mfcnn.kernels._models import covariance, functions
from mfcnn.kernels._models.covariance import Covariance
from mfcnn.kernels._models.nodes import Means, Node

if TYPE_CHECKING:
    from mfcnn.kernels._models.pairs import Evaluation

__all__ = ["Elementwise", "Gain", "Moved", "Normalized", "Product", "Reordered", "Weighted"]


class Weighted(Node):
    """A weighted sum of nodes."""

    def __init__(self, terms: tuple[tuple[float, Node], ...]) -> None:
        super().__init__(terms[0][1].sizes, tuple(node for _, node in terms))
        self.factors = tuple(factor for factor, _ in terms)
        nodes = self.parents
        self.gaussian, self.centered, self.settled = (
            all(getattr(node, name) for node in nodes)
            for name in ("gaussian", "centered", "settled")
        )
        fresh = [node.fresh for node in nodes if node.fresh is not None]
        if len(fresh) == len(nodes):
            self.fresh = frozenset().union(*fresh)

    def covariance(self, evaluation: "Evaluation") -> Covariance:
        """The sum over all pairs of terms."""
        parts = []
        for factor, one in zip(self.factors, self.parents):
            for other_factor, other in zip(self.factors, self.parents):
                value = evaluation.pair(one, other)
                if value is not None:
                    parts.append(value.scaled(factor * other_factor))
        return covariance.add(parts)

    def mean(self, evaluation: "Evaluation") -> Means:
        """The sum of the means."""
        means = [
            [factor * m for m in mean]
            for factor, mean in zip(self.factors, map(evaluation.mean, self.parents))
            if mean is not None
        ]
        return tuple(tf.add_n(list(side)) for side in zip(*means)) if means else None


class Moved(Node):
    """A linear map of positions, the same in all channels: one matrix for each spatial axis."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        parent: Node,
        matrices: Callable[[], list[np.ndarray | None]],
        averages: bool,
    ) -> None:
        """Takes the matrices [out, in] as a function, and whether it sums over positions."""
        super().__init__(sizes, (parent,))
        self.matrices, self.asks_pairs = matrices, averages
        self.gaussian, self.centered = parent.gaussian, parent.centered
        self.settled, self.fresh = parent.settled, parent.fresh

    def move(self, value: Covariance, layout: covariance.Layout, sides: str) -> Covariance:
        """Moves the positions of the "first" signal, of the "second", or of "both"."""
        matrices = self.matrices()
        if not layout.pairs:  # equal positions stay equal: an entry acts on both at once
            squares = [None if m is None else m * m for m in matrices]
            return value.map(lambda k: covariance.move(k, squares, range(layout.rank)))
        if sides in ("first", "both"):
            axes = range(0, layout.axes, 2)
            value = value.map(lambda k: covariance.move(k, matrices, axes))
        if sides in ("second", "both"):
            others = range(1, layout.axes, 2)
            value = value.map(lambda k: covariance.move(k, matrices, others))
        return value

    def covariance(self, evaluation: "Evaluation") -> Covariance:
        """The map on both positions."""
        (parent,) = self.parents
        return self.move(evaluation.own(parent), evaluation.layout(parent), "both")

    def mean(self, evaluation: "Evaluation") -> Means:
        """The map of the mean."""
        means, matrices = evaluation.mean(self.parents[0]), self.matrices()
        if means is None:
            return None
        return tuple(covariance.move(m, matrices, range(len(self.sizes))) for m in means)


class Reordered(Node):
    """Positions with their axes in another order, or read as another image."""

    def __init__(self, sizes: tuple[int, ...], parent: Node, order: tuple[int, ...]) -> None:
        super().__init__(sizes, (parent,))
        self.order = order
        self.gaussian, self.centered = parent.gaussian, parent.centered
        self.settled, self.fresh = parent.settled, parent.fresh

    def covariance(self, evaluation: "Evaluation") -> Covariance:
        """The same numbers at other places."""
        (parent,) = self.parents
        layout = evaluation.layout(parent)
        return evaluation.own(parent).map(
            lambda k: covariance.reorder(k, layout, self.order, self.sizes)
        )

    def mean(self, evaluation: "Evaluation") -> Means:
        """The same numbers at other places."""
        means = evaluation.mean(self.parents[0])
        layout = covariance.Layout(len(self.parents[0].sizes), False)
        if means is None:
            return None
        return tuple(covariance.reorder(m, layout, self.order, self.sizes) for m in means)


class Elementwise(Node):
    """A function of each value of a Gaussian node."""

    def __init__(self, parent: Node, function: Activation) -> None:
        super().__init__(parent.sizes, (parent,))
        self.function = function

    def covariance(self, evaluation: "Evaluation") -> Covariance:
        """The dual maps of the function."""
        (parent,) = self.parents
        value, layout = evaluation.own(parent), evaluation.layout(parent)
        q1, q2 = evaluation.variances(parent)
        dual = functions.dual(self.function, q1, q2)
        return covariance.activate(
            value, (q1, q1), (q2, q2), layout, dual, evaluation.same, evaluation.symmetric
        )

    def mean(self, evaluation: "Evaluation") -> Means:
        """E[phi(z)], by the variance alone."""
        return tuple(
            functions.mean(self.function, q) for q in evaluation.variances(self.parents[0])
        )


class Gain(Node):
    """factor * x + 0, with a factor and a shift that every channel has and may train."""

    def __init__(
        self, parent: Node, factor: float, factor_gradient: float, shift_gradient: float
    ) -> None:
        """Takes the factors of the parent's kernel and of one in the NTK."""
        super().__init__(parent.sizes, (parent,))
        self.factor, self.gradients = factor, (factor_gradient, shift_gradient)
        self.gaussian, self.centered, self.fresh = parent.gaussian, parent.centered, parent.fresh
        # The gradient by a channel's factor is the channel itself.
        self.settled = parent.settled and not factor_gradient

    def covariance(self, evaluation: "Evaluation") -> Covariance:
        """The kernel times factor^2; the gradients are x and one."""
        value = evaluation.own(self.parents[0])
        by_factor, by_shift = self.gradients
        ntk = by_factor * value.nngp + by_shift
        return value.scaled(self.factor**2).with_gradients(ntk)

    def mean(self, evaluation: "Evaluation") -> Means:
        """The mean times the factor."""
        means = evaluation.mean(self.parents[0])
        return None if means is None else tuple(self.factor * m for m in means)


class Normalized(Node):
    """(x - mean) / sqrt(variance + epsilon) over channels, which are infinitely many.

    Mean and variance are then not random; nor do they carry a gradient, as they average the
    gradients of all channels (neural-tangents, `stax.LayerNorm`).
    """

    def __init__(
        self,
        parent: Node,
        group: tuple[tuple[float, Node], ...],
        epsilon: float,
        over_positions: bool,
        subtract_mean: bool,
    ) -> None:
        """Takes the nodes, with their fractions of the channels, that share the statistics."""
        super().__init__(parent.sizes, (parent, *(node for _, node in group)))
        self.fields = parent.fields
        self.group, self.epsilon = group, epsilon
        self.over_positions, self.subtract_mean = over_positions, subtract_mean
        zero = all(node.centered for _, node in group)
        self.gaussian = parent.gaussian and (zero or not subtract_mean)
        self.centered = parent.centered and (zero or not subtract_mean)
        self.settled, self.fresh = parent.settled, parent.fresh if self.centered else None

    def statistics(self, evaluation: "Evaluation", side: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and standard deviation at first (0) or second (1) inputs, [*spatial, n]."""
        mean, second = 0.0, 0.0
        for fraction, node in self.group:
            second = second + fraction * evaluation.variances(node)[side]
            means = evaluation.mean(node) if self.subtract_mean else None
            mean = mean + (0.0 if means is None else fraction * means[side])
        mean = mean + tf.zeros_like(second)
        if self.over_positions:
            axes = list(range(len(self.sizes)))
            mean, second = (tf.reduce_mean(m, axes, keepdims=True) for m in (mean, second))
        return mean, tf.sqrt(second - mean * mean + self.epsilon)

    def covariance(self, evaluation: "Evaluation") -> Covariance:
        """(K - m mu' - mu m' + mu mu') / (s s'), with m the parent's mean, mu that of all."""
        (parent, *_), layout = self.parents, evaluation.layout(self)
        value = evaluation.own(parent)
        (mu1, s1), (mu2, s2) = (
            [m + tf.zeros_like(q) for m in self.statistics(evaluation, side)]
            for side, q in enumerate(evaluation.variances(parent))
        )
        if self.subtract_mean and not all(node.centered for _, node in self.group):
            means = evaluation.mean(parent) or (tf.zeros_like(mu1), tf.zeros_like(mu2))
            away = [mu - m for mu, m in zip((mu1, mu2), means)]
            plus = evaluation.outer(away, away, layout)
            minus = evaluation.outer(means, means, layout)
            value = Covariance(*(v + p - m for v, p, m in zip(value, plus, minus)))
        scale = evaluation.outer((1 / s1, 1 / s2), (1 / s1, 1 / s2), layout)
        scale = scale._replace(ntk=scale.nngp)
        return Covariance(*(v * s for v, s in zip(value, scale)))

    def mean(self, evaluation: "Evaluation") -> Means:
        """(m - mu) / s."""
        if self.centered:
            return None
        result = []
        for side in (0, 1):
            mu, s = self.statistics(evaluation, side)
            means = evaluation.mean(self.parents[0])
            result.append(((0.0 if means is None else means[side]) - mu) / s)
        return tuple(result)


class Product(Node):
    """The product of two independent nodes."""

    def __init__(self, one: Node, other: Node) -> None:
        sizes = tuple(max(a, b) for a, b in zip(one.sizes, other.sizes))
        super().__init__(sizes, (one, other))
        self.centered = one.centered or other.centered
        self.settled = False  # the gradient by either is the other one

    def covariance(self, evaluation: "Evaluation") -> Covariance:
        """K K' and Theta K' + K Theta'."""
        one, other = map(evaluation.own, self.parents)
        ntk = one.ntk * other.nngp + one.nngp * other.ntk
        return Covariance(*(a * b for a, b in zip(one, other)))._replace(ntk=ntk)

    def mean(self, evaluation: "Evaluation") -> Means:
        """The product of the means."""
        one, other = map(evaluation.mean, self.parents)
        return None if one is None or other is None else tuple(a * b for a, b in zip(one, other))
