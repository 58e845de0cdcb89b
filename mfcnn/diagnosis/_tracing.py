"""Follows the signals of a model through one forward pass: which weights and activations they met.

It works for any model: what is between two layers is known by the tensors that they hand on. Behind
code that no layer does nothing is known, and said so.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import activations, borrowed
from mfcnn import layers as own
from mfcnn.activations import Activation
from mfcnn.diagnosis import _walk

__all__ = [
    "DEPTHWISE",
    "KERNELS",
    "NORMALIZATION_KINDS",
    "SEPARABLE",
    "WEIGHTED",
    "Origin",
    "Trace",
    "is_normalization",
]

L = keras.layers
# Layers that can be given new values: those of a kernel [*window, channels, filters], those of a
# kernel [*window, channels, multiplier] for each channel alone, and those of both.
KERNELS = (L.Dense, L.Conv1D, L.Conv2D, L.Conv3D, own.PeriodicConvolution)
DEPTHWISE = (L.DepthwiseConv1D, L.DepthwiseConv2D)
SEPARABLE = (L.SeparableConv1D, L.SeparableConv2D)
WEIGHTED = KERNELS + DEPTHWISE + SEPARABLE
_NORMALIZATIONS = (
    L.BatchNormalization,
    L.LayerNormalization,
    L.RMSNormalization,
    L.GroupNormalization,
)
NORMALIZATION_KINDS = frozenset(kind.__name__ for kind in _NORMALIZATIONS)
_JOINS = (
    L.Add,
    L.Subtract,
    L.Average,
    borrowed.keras_numpy_operations.Add,
    borrowed.keras_numpy_operations.Subtract,
)
_POINTWISE = (L.Activation, L.ReLU, L.LeakyReLU, L.ELU, L.PReLU)


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a tensor comes from.

    Attributes:
        kind: "data", "linear", "activation" or "unknown".
        activation: the last one it went through, with no weights behind it.
        variance: of the pre-activations that went into it, as measured.
        tail: the layer with weights that it comes from directly, if it is one of a branch.
        depth: the largest number of layers with weights on a path to it.
    """

    kind: str
    activation: Activation | None = None
    variance: float = np.nan
    tail: Any = None
    depth: int = 0


_UNKNOWN = Origin("unknown")


def is_normalization(layer: Any) -> bool:
    """Whether a layer divides by the deviation of its inputs."""
    return isinstance(layer, _NORMALIZATIONS)


class Trace:
    """A pass through a model, in which `visit(layer, origin, inputs)` is called before each call.

    Attributes:
        joins: for each sum, the origins that go into it.
        following: by identity of a layer with weights, the activation that comes next.
        readers: by identity of a layer with weights, the layers and sums that take its activations;
            None for one that takes something else of it.
        layers: by identity, those with weights.
        calls: by identity of a layer, how often it is called.
        depth: the largest number of layers with weights on a path.
    """

    def __init__(
        self, model: keras.Model, visit: Callable[[Any, Origin, tf.Tensor], None] | None = None
    ) -> None:
        self.joins: list[list[Origin]] = []
        self.following: dict[int, Activation] = {}
        self.readers: dict[int, list[Any]] = {}
        self.layers: dict[int, Any] = {}
        self.calls: collections.Counter[int] = collections.Counter()
        self.depth = 0
        self._model, self._visit = model, visit
        self._functions: dict[int, Callable] = {}
        self._variances: dict[int, float] = {}
        self._origins: dict[int, tuple[Any, Origin]] = {}  # the tensor is kept: ids are reused

    def run(self, x: Any) -> None:
        """The pass, with batch normalization by the batch and without dropout."""
        for leaf in keras.tree.flatten(x):
            self._know(leaf, Origin("data"))
        with self._attached(), keras.StatelessScope():
            self._model(x, training=False)

    def branch_ends(self) -> set[int]:
        """The last layers with weights of all residual branches.

        Of what a sum adds, the part with the fewest layers behind it is the way past; the others
        are branches.
        """
        ends = set()
        for origins in self.joins:
            shortest = min(range(len(origins)), key=lambda k: origins[k].depth)
            for index, origin in enumerate(origins):
                if index != shortest and origin.tail is not None:
                    ends.add(id(origin.tail))
        return ends

    @contextlib.contextmanager
    def _attached(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for layer in _walk.leaves(self._model):
                wrapped = self._wrapped(layer)
                stack.enter_context(_walk.replaced(layer, "call", wrapped))
                if isinstance(layer, WEIGHTED) and callable(layer.activation):
                    listening = self._listening(layer, layer.activation)
                    stack.enter_context(_walk.replaced(layer, "activation", listening))
            yield

    def _listening(self, layer: Any, function: Callable) -> Callable:
        """The activation of a layer, which writes down the variance that comes to it."""
        self._functions[id(layer)] = function

        def activation(z: Any) -> Any:
            self._variances[id(layer)] = _mean_square(z)
            return function(z)

        return activation

    def _wrapped(self, layer: Any) -> Callable:
        original = layer.call

        def call(*args: Any, **kwargs: Any) -> Any:
            if isinstance(layer, L.BatchNormalization) and layer.trainable:
                kwargs["training"] = True
            leaves = keras.tree.flatten((args, kwargs))
            inputs = [leaf for leaf in leaves if tf.is_tensor(leaf) and leaf.dtype.is_floating]
            origins = [self._origin(leaf) for leaf in inputs] or [_UNKNOWN]
            self._count(layer, origins)
            if self._visit is not None and inputs:
                self._visit(layer, origins[0], inputs[0])
            outputs = original(*args, **kwargs)
            origin = self._behind(layer, origins, inputs)
            for leaf in keras.tree.flatten(outputs):
                self._know(leaf, origin)
            return outputs

        return call

    def _count(self, layer: Any, origins: list[Origin]) -> None:
        self.calls[id(layer)] += 1
        if getattr(layer, "weights", None):
            self.layers[id(layer)] = layer
        if id(layer) in self.layers or isinstance(layer, (*_JOINS, L.Concatenate)):
            for origin in origins:
                known = layer if origin.kind == "activation" else None
                self.readers.setdefault(id(origin.tail), []).append(known)

    def _know(self, tensor: Any, origin: Origin) -> None:
        self._origins[id(tensor)] = (tensor, origin)

    def _origin(self, tensor: Any) -> Origin:
        return self._origins.get(id(tensor), (None, _UNKNOWN))[1]

    def _behind(self, layer: Any, origins: list[Origin], inputs: list[Any]) -> Origin:
        """The origin of what a layer returns."""
        depth = max(origin.depth for origin in origins)
        first = origins[0]
        if isinstance(layer, WEIGHTED):
            return self._behind_kernel(layer, depth + 1)
        if is_normalization(layer):
            return Origin("linear", tail=layer, depth=depth)
        if isinstance(layer, _JOINS):
            if len(origins) > 1:
                self.joins.append(origins)
            return Origin("linear", depth=depth)
        if isinstance(layer, _POINTWISE):
            function = layer.activation if isinstance(layer, L.Activation) else layer
            return self._behind_activation(function, first, inputs[0] if inputs else None)
        if isinstance(layer, L.Concatenate):
            same = len({(o.kind, o.activation) for o in origins}) == 1
            return dataclasses.replace(first if same else _UNKNOWN, tail=None, depth=depth)
        if getattr(layer, "weights", None):
            self.depth = max(self.depth, depth + 1)
            return dataclasses.replace(_UNKNOWN, tail=layer, depth=depth + 1)
        return dataclasses.replace(first, depth=depth)

    def _behind_kernel(self, layer: Any, depth: int) -> Origin:
        self.depth = max(self.depth, depth)
        given = self._functions.get(id(layer))
        function = known(given)
        linear = Origin("linear", tail=layer, depth=depth)
        if function is None:
            is_linear = given in (None, keras.activations.linear)
            return linear if is_linear else dataclasses.replace(linear, kind="unknown")
        self.following.setdefault(id(layer), function)
        return Origin("activation", function, self._variances.get(id(layer), np.nan), layer, depth)

    def _behind_activation(self, function: Any, origin: Origin, z: Any) -> Origin:
        found = known(function)
        if found is None:
            return dataclasses.replace(origin, kind="unknown", activation=None)
        if origin.tail is not None:
            self.following.setdefault(id(origin.tail), found)
        variance = np.nan if z is None else _mean_square(z)
        # With no weights in between, the slopes of two activations multiply: that is not known.
        kind = "unknown" if origin.kind == "activation" else "activation"
        return dataclasses.replace(origin, kind=kind, activation=found, variance=variance)


def _mean_square(z: Any) -> float:
    return float(tf.reduce_mean(tf.square(tf.cast(z, tf.float64))))


def known(function: Any) -> Activation | None:
    """The activation that a function or layer is; None for the identity and what is none."""
    if function is None or function is keras.activations.linear:
        return None
    try:
        found = activations.get(function)
        found.second_moment(1.0)
    except (ValueError, TypeError):
        return None
    return found
