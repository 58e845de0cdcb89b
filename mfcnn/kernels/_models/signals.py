"""Signals: what flows from rule to rule, the channels of one layer's output.

A `Signal` has parts, runs of channels that are alike: one, or after Concatenate several. Each part
is a `nodes.Node` with its number of channels.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mfcnn.activations import Activation
from mfcnn.kernels._models import functions, pairs, sampled
from mfcnn.kernels._models.nodes import Affine, Data, Law, Node
from mfcnn.kernels._models.operations import Elementwise, Gain, Weighted

if TYPE_CHECKING:
    from mfcnn.kernels._models.reading import Call

__all__ = ["Part", "Signal", "weighted_sum"]


class Part(NamedTuple):
    """Channels that are alike: how many, and one of them."""

    channels: int
    node: Node


class Signal:
    """The channels of a layer's output.

    Attributes:
        parts: a tuple of `Part`.
        flat: whether positions count as channels, as behind Flatten.
    """

    def __init__(self, parts: Sequence[Part], flat: bool = False) -> None:
        self.parts, self.flat = tuple(parts), flat

    @property
    def sizes(self) -> tuple[int, ...]:
        """The image's size; nothing if flat."""
        return () if self.flat else self.parts[0].node.sizes

    @property
    def channels(self) -> int:
        """The number of channels; of a flat signal, that of its entries."""
        return sum(self.counts())

    def counts(self) -> list[int]:
        """The entries of each part."""
        return [
            part.channels * (int(np.prod(part.node.sizes)) if self.flat else 1)
            for part in self.parts
        ]

    def fractions(self) -> tuple[tuple[float, Node], ...]:
        """The parts with the share of the channels that they are."""
        total = self.channels
        return tuple((count / total, part.node) for count, part in zip(self.counts(), self.parts))

    def each(self, function: Callable[[Node], Node]) -> "Signal":
        """The signal with a function of nodes applied to all its parts."""
        return Signal([part._replace(node=function(part.node)) for part in self.parts], self.flat)

    def flattened(self) -> "Signal":
        """The signal as one vector."""
        return Signal(self.parts, flat=True)

    def data(self) -> Data | None:
        """The node that is not random, if the signal is one."""
        node = self.parts[0].node
        return node if isinstance(node, Data) and len(self.parts) == 1 else None

    def scaled(self, factor: float) -> "Signal":
        """The signal times a number."""
        return self.each(lambda node: Weighted(((float(factor), node),)))

    def gained(self, factor: float, by_factor: float, by_shift: float) -> "Signal":
        """The signal times a factor that all channels have; see `operations.Gain`."""
        return self.each(lambda node: Gain(node, factor, by_factor, by_shift))

    def activated(self, call: "Call", function: Any) -> "Signal":
        """An activation on each value.

        Args:
            call: what the rule was given, for the error that names the layer.
            function: a name, a function, a `mfcnn.activations.Activation`, or None.
        """
        try:
            activation = functions.named(function)
        except (TypeError, ValueError) as error:
            call.refuse(f"its activation {_shown(function)} has no dual maps: {error}", error)
        if activation is None:
            return self
        return self.each(lambda node: _elementwise(call, node, activation))

    def affine(
        self,
        call: "Call",
        weight_variance: float,
        bias_variance: float = 0.0,
        trainable: bool = True,
    ) -> "Signal":
        """Dense weights of the call's layer on all channels, and on all positions if flat.

        Args:
            call: what the rule was given.
            weight_variance: sigma_w^2, the variance of a weight times the number of channels.
            bias_variance: sigma_b^2.
            trainable: whether weights and bias, in units of their deviations, are trained.
        """
        trained = float(trainable)
        law = Law(
            id(call.layer),
            weight_variance,
            bias_variance,
            weight_gradient=trained * weight_variance,
            bias_gradient=trained * bias_variance,
        )
        return self.through(law, self.sizes, call.channels)

    def through(self, law: Law, sizes: Sequence[int], channels: int) -> "Signal":
        """New weights over all channels."""
        return Signal([Part(channels, Affine(tuple(sizes), self.fractions(), law, self.flat))])

    def __add__(self, other: "Signal") -> "Signal":
        """The sum, where the two are independent or their covariance is known."""
        return weighted_sum([(1.0, self), (1.0, other)])


def _shown(function: Any) -> str:
    return repr(getattr(function, "name", None) or getattr(function, "__name__", None) or function)


def _elementwise(call: "Call", node: Node, function: Activation) -> Node:
    """A function of one node's values: of Gaussian ones, or by Monte Carlo."""
    if node.gaussian and node.settled:
        return Elementwise(node, function)
    if isinstance(node, Elementwise):
        try:
            return Elementwise(node.parents[0], functions.composed(function, node.function))
        except ValueError:  # without dual maps: as any other that is not Gaussian
            pass
    if call.sampled:
        return sampled.Activated(node, function)
    if not node.gaussian:
        call.refuse(
            "its input is not Gaussian: between two activations there must be weights over all "
            "channels. from_keras(model, sampled=True) takes a Monte Carlo estimate instead"
        )
    call.refuse(
        "its input has weights of single channels (a trained scale, depthwise filters), whose "
        "tangent kernel differs from channel to channel: freeze them, or take "
        "from_keras(model, sampled=True)"
    )


def weighted_sum(terms: Sequence[tuple[float, Signal]]) -> Signal:
    """A weighted sum of signals.

    Raises:
        pairs.UnrelatedError: where two of them are correlated in a way that has no formula.
        ValueError: if one is not random, or their sizes differ.
    """
    signals = [signal for _, signal in terms]
    if any(isinstance(part.node, Data) for signal in signals for part in signal.parts):
        raise ValueError("it adds data or a constant to a random signal")
    if len({(signal.channels, signal.flat) for signal in signals}) > 1:
        raise ValueError("its branches have different sizes")
    cuts = sorted({c for signal in signals for c in np.cumsum([p.channels for p in signal.parts])})
    parts = []
    for low, high in zip([0, *cuts], cuts):
        nodes = [(factor, _at(signal, low)) for factor, signal in terms]
        if len({node.sizes for _, node in nodes}) > 1:
            raise ValueError("its branches have different sizes")
        parts.append(Part(int(high - low), _sum(nodes)))
    return Signal(parts, signals[0].flat)


def _at(signal: Signal, channel: int) -> Node:
    """The node of a channel."""
    ends = np.cumsum([part.channels for part in signal.parts])
    return signal.parts[int(np.searchsorted(ends, channel, side="right"))].node


def _sum(terms: Sequence[tuple[float, Node]]) -> Node:
    """A sum of nodes; several functions of one node are one function."""
    factors: dict[Node, float] = {}
    for factor, node in terms:
        factors[node] = factors.get(node, 0.0) + factor
    of_one: dict[Node, list[Elementwise]] = {}
    for node in factors:
        if isinstance(node, Elementwise):
            of_one.setdefault(node.parents[0], []).append(node)
    for parent, several in of_one.items():
        if len(several) > 1:
            joined = [(factors.pop(one), one.function) for one in several]
            try:
                factors[Elementwise(parent, functions.joined(joined))] = 1.0
            except ValueError as error:
                raise pairs.UnrelatedError(f"its branches are correlated: {error}") from error
    nodes = list(factors)
    for index, one in enumerate(nodes):
        for other in nodes[:index]:
            pairs.check(one, other)
    return Weighted(tuple((factors[node], node) for node in nodes))
