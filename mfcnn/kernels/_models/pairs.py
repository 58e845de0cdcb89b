"""The covariance of any two nodes, from those of their parents.

`relation` says, before anything is computed, from which other pairs a pair follows; `Evaluation`
computes. Two nodes that no rule relates are refused when the model is read.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mfcnn.kernels._models import covariance, functions
from mfcnn.kernels._models.covariance import Covariance, Layout
from mfcnn.kernels._models.nodes import Affine, Data, Means, Node
from mfcnn.kernels._models.operations import Elementwise, Moved, Weighted

__all__ = ["Evaluation", "UnrelatedError", "check", "correlated", "independent"]

_Pair = tuple[Node, Node]


class UnrelatedError(ValueError):
    """Two nodes whose covariance is not known."""


class _Relation(NamedTuple):
    """The pairs that a covariance needs, and the function of the evaluation and their values."""

    needs: Sequence[_Pair]
    combine: Callable[..., Covariance | None]


def independent(one: Node, other: Node) -> bool:
    """Whether no weight acts on channels of both."""
    return one.fields.isdisjoint(other.fields)


def uncorrelated(one: Node, other: Node) -> bool:
    """Whether E[a b] = 0: independent, or linear in weights of mean zero that one has alone."""
    if independent(one, other):
        return one.centered or other.centered
    return any(
        a.fresh is not None and a.fresh.isdisjoint(b.fields)
        for a, b in ((one, other), (other, one))
    )


def correlated(one: Node, other: Node) -> bool:
    """Whether their covariance has to be computed from pairs of positions."""
    return not independent(one, other) and not uncorrelated(one, other)


def relation(one: Node, other: Node) -> _Relation:
    """How the covariance of two correlated nodes that are not one follows from others."""
    if isinstance(one, Data) and isinstance(other, Data):
        return _Relation([], lambda evaluation, _: evaluation.data_pair(one, other))
    if isinstance(one, Weighted):
        return _Relation([(term, other) for term in one.parents], _weigh(one.factors))
    if isinstance(other, Weighted):
        return _Relation([(one, term) for term in other.parents], _weigh(other.factors))
    if isinstance(one, Moved):
        return _Relation([(one.parents[0], other)], _moving(one, "first"))
    if isinstance(other, Moved):
        return _Relation([(one, other.parents[0])], _moving(other, "second"))
    if isinstance(one, Affine) and isinstance(other, Affine):  # one layer on two inputs
        pairs = list(zip(one.parents, other.parents))
        alike = len(one.parents) == len(other.parents) and one.fractions == other.fractions
        data = [isinstance(node, Data) for pair in pairs for node in pair]
        if alike and (all(data) or not any(data)):
            return _Relation(pairs, lambda evaluation, values: one.combine(evaluation, values))
        raise UnrelatedError("its weights act on the inputs and on random signals")
    if isinstance(one, Elementwise) and isinstance(other, Elementwise):
        (a,), (b,) = one.parents, other.parents
        if one.function.identity == other.function.identity:
            return _Relation([(a, b), (a, a), (b, b)], _same_function(one, a, b))
    elif isinstance(other, Elementwise) and one.gaussian:
        b = other.parents[0]
        return _Relation([(one, b), (b, b)], _stein(other, 1))
    elif isinstance(one, Elementwise) and other.gaussian:
        a = one.parents[0]
        return _Relation([(a, other), (a, a)], _stein(one, 0))
    raise UnrelatedError("its branches are correlated in a way that has no formula here")


def _weigh(factors: Sequence[float]) -> Callable[..., Covariance | None]:
    def combine(evaluation: "Evaluation", values: list[Covariance | None]) -> Covariance | None:
        del evaluation
        parts = [v.scaled(f) for f, v in zip(factors, values) if v is not None]
        return covariance.add(parts) if parts else None

    return combine


def _moving(node: Moved, name: str) -> Callable[..., Covariance | None]:
    def combine(evaluation: "Evaluation", values: list[Covariance | None]) -> Covariance | None:
        layout = evaluation.layout(node)
        return None if values[0] is None else node.move(values[0], layout, name)

    return combine


def _same_function(node: Elementwise, a: Node, b: Node) -> Callable[..., Covariance]:
    """phi(a) and phi(b): the dual maps at the variances of both."""

    def combine(evaluation: "Evaluation", values: list[Covariance | None]) -> Covariance:
        value = values[0] or evaluation.zero(node.sizes)
        (a1, a2), (b1, b2) = evaluation.variances(a), evaluation.variances(b)
        dual = functions.dual(node.function, a1, a2, b1, b2)
        layout, symmetric = evaluation.layout(node), evaluation.symmetric
        return covariance.activate(value, (a1, b1), (a2, b2), layout, dual, None, symmetric)

    return combine


def _stein(node: Elementwise, side: int) -> Callable[..., Covariance | None]:
    """Stein's lemma: E[z phi(z')] = E[z z'] E[phi'(z')]; the gradients have the same factor."""

    def combine(evaluation: "Evaluation", values: list[Covariance | None]) -> Covariance | None:
        if values[0] is None:
            return None
        slopes = [functions.slope(node.function, q) for q in evaluation.variances(node.parents[0])]
        ones = [tf.ones_like(s) for s in slopes]
        sides = (slopes, ones) if side == 0 else (ones, slopes)
        factor = evaluation.outer(*sides, evaluation.layout(node))
        factor = factor._replace(ntk=factor.nngp)
        return Covariance(*(v * f for v, f in zip(values[0], factor)))

    return combine


def check(one: Node, other: Node) -> None:
    """Raises `UnrelatedError` where the covariance of two nodes is not known."""
    waiting, seen = [(one, other)], set()
    while waiting:
        a, b = waiting.pop()
        if (a, b) not in seen and a is not b and correlated(a, b):
            seen.add((a, b))
            waiting.extend(relation(a, b).needs)


class Evaluation:
    """The covariances of all nodes of a model for one block of inputs."""

    def __init__(
        self,
        inputs: Sequence[tuple[tf.Tensor, tf.Tensor]],
        same: tf.Tensor,
        pairs: bool,
        loops: dict,
    ) -> None:
        """Takes first and second inputs of each of the model's inputs.

        Args:
            inputs: pairs of tensors, [n1, ...] and [n2, ...].
            same: where first and second inputs are equal, [n1, n2].
            pairs: whether all pairs of positions are kept.
            loops: a dict that keeps compiled loops from one block to the next.
        """
        self.inputs, self.same, self.pairs, self.loops = inputs, same, pairs, loops
        self.symmetric = all(one is other for one, other in inputs)
        self.channels, self._seed, self._drawn = 0, (0, 0), 0
        self._own: dict[Node, Covariance] = {}
        self._kept: frozenset[Node] = frozenset()
        # Remembered: what a mean is computed from may be dropped when it is asked for again.
        self._means: dict[Node, Means] = {}
        self._data: dict[Node, tuple[tf.Tensor, tf.Tensor]] = {}

    def keep(self, order: Sequence[Node], nodes: Sequence[Node]) -> None:
        """Computes nodes, with those before them in their order, that all draws have in common."""
        self._kept = frozenset(nodes)
        self.run(order, nodes)

    def sample(self, channels: int, seed: tuple[int, int]) -> None:
        """Lets nodes without closed form draw as many channels, and forgets earlier draws."""
        self.channels, self._seed, self._drawn = channels, seed, 0
        self._own = {node: value for node, value in self._own.items() if node in self._kept}
        self._means = {}

    def normal(self, shape: Sequence[int]) -> tf.Tensor:
        """Standard normal numbers, other ones at each call."""
        self._drawn += 1
        seed = tf.random.experimental.stateless_fold_in(self._seed, self._drawn)
        return tf.random.stateless_normal(shape, seed, dtype=tf.float64)

    def run(
        self,
        order: Sequence[Node],
        outputs: Sequence[Node],
        visit: Callable[[Node], None] | None = None,
    ) -> list[Covariance]:
        """The covariances of the outputs; each other one is dropped behind its last use.

        `visit` is called with each node, but for data, as long as its covariance is known.
        """
        uses: dict[Node, int] = {node: 1 for node in outputs}
        for node in order:
            for parent in node.reads:
                uses[parent] = uses.get(parent, 0) + 1
        for node in order:
            if not isinstance(node, Data):
                self.own(node)
                if visit is not None:
                    visit(node)
            for parent in node.reads:
                uses[parent] -= 1
                if not uses[parent] and parent not in self._kept:
                    self._own.pop(parent, None)
        return [self.own(node) for node in outputs]

    def own(self, node: Node) -> Covariance:
        """Of a node with itself."""
        if node not in self._own:
            self._own[node] = node.covariance(self)
        return self._own[node]

    def pair(self, one: Node, other: Node) -> Covariance | None:
        """Of two nodes; None is zero."""
        if one is other:
            return self.own(one)
        if uncorrelated(one, other):
            return None
        if independent(one, other):
            means = self.mean(one), self.mean(other)
            if means[0] is None or means[1] is None:
                return None
            return self.outer(means[0], means[1], self.layout(one))
        needs, combine = relation(one, other)
        return combine(self, [self.pair(*need) for need in needs])

    def mean(self, node: Node) -> Means:
        """The mean of a node at first and second inputs; None is zero."""
        if node not in self._means:
            self._means[node] = None if node.centered else node.mean(self)
        return self._means[node]

    def remember_mean(self, node: Node, mean: Means) -> None:
        """Of a node that is drawn, with its covariance, from the same channels."""
        self._means[node] = mean

    def data(self, node: Data) -> tuple[tf.Tensor, tf.Tensor]:
        """The tensors of a node that is not random."""
        if node not in self._data:
            if node.sources:
                arguments = [self.data(source) for source in node.sources]
                self._data[node] = tuple(node.function(*sides) for sides in zip(*arguments))
            else:
                self._data[node] = tuple(node.function(self.inputs, side) for side in (0, 1))
        return self._data[node]

    def data_pair(self, one: Data, other: Data) -> Covariance:
        """Of two nodes that are not random."""
        return covariance.from_data(self.data(one), self.data(other), self.pairs)

    def layout(self, node: Node) -> Layout:
        """How the positions of a node are laid out."""
        return Layout(len(node.sizes), self.pairs)

    def variances(self, node: Node) -> tuple[tf.Tensor, tf.Tensor]:
        """Variances of a node at first and second inputs, [*spatial, n]."""
        value = self.own(node)
        return tuple(covariance.variances(k, self.layout(node)) for k in (value.self1, value.self2))

    def outer(
        self,
        first: Sequence[tf.Tensor],
        second: Sequence[tf.Tensor],
        layout: Layout,
    ) -> Covariance:
        """Products of functions of one position and input each; the NTK is zero.

        Args:
            first: of the first signal, [*spatial, n1] and [*spatial, n2].
            second: of the second signal, likewise.
            layout: of the result.
        """
        self1, self2 = (covariance.outer_of_one(a, b, layout) for a, b in zip(first, second))
        nngp = covariance.outer_of_two(first[0], second[1], layout)
        return Covariance(self1, self2, nngp, tf.zeros_like(nngp))

    def zero(self, sizes: Sequence[int]) -> Covariance:
        """The covariance zero."""
        shape = [size for size in sizes for _ in range(2 if self.pairs else 1)]
        n1, n2 = (int(n) for n in self.same.shape)
        return Covariance(
            *(tf.zeros([*shape, *n], tf.float64) for n in ([n1], [n2], [n1, n2], [n1, n2]))
        )


def entries(node: Node, pairs: bool) -> int:
    """The numbers that the covariance of a node holds for one pair of inputs."""
    return int(np.prod(node.sizes, dtype=np.int64)) ** (2 if pairs else 1)


def ordered(outputs: Sequence[Node]) -> list[Node]:
    """Some nodes and all that they read, first to last; deeper than Python's recursion maybe."""
    done: dict[Node, None] = {}
    waiting = list(reversed(outputs))
    while waiting:
        node = waiting[-1]
        missing = [parent for parent in node.reads if parent not in done]
        if not missing:
            done.setdefault(waiting.pop())
        waiting.extend(missing)
    return list(done)
