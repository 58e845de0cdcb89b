"""`repair`: the same architecture with new weights, on the critical line layer by layer."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments, initializers
from mfcnn.activations import Activation
from mfcnn.diagnosis import _critical, _tracing, _twins, _walk
from mfcnn.diagnosis._diagnose import built_model, inputs_of
from mfcnn.diagnosis._records import Change, Changes
from mfcnn.empirical import _copies

__all__ = ["repair"]

L = keras.layers
_METHODS = ("auto", "theory", "data")
_INPUTS = 16  # standard normal ones, where there is no batch


def repair(
    model: Any,
    x: Any = None,
    method: str = "auto",
    layers: Sequence[str] | None = None,
    seed: int = 0,
) -> keras.Model:
    """The same architecture with new weights, such that signals and gradients pass.

    A layer behind an activation phi, whose pre-activations have the variance q on the batch, gets

        weight_variance = 1 / E[phi'(z)^2],    bias_variance = q' - weight_variance E[phi(z)^2]

    with z ~ N(0, q): chi_1 = 1, and its own pre-activations the variance q', as far as the bias can
    do so without making inputs alike. That is 1 in front of relu and its like, and 1 / depth in
    front of others, which keeps the NTK's scale at any depth.
    Units of an activation that is not odd become twins of opposite sign where all layers that read
    them get new weights and there are no residual sums (`mfcnn.initializers.Mirrored`): phi above
    is then its odd part phi(z) - phi(-z), which is linear for relu, gelu, swish and softplus. On
    the critical line of relu itself inputs become alike as 1 / depth^2, gelu's is unstable, and
    sigmoid has none; twins pass signals and gradients unchanged at any depth. Elsewhere, where the
    bias variance would be negative, the mean of phi is taken out by the bias, b = -E[phi(z)] (sum
    of the weights).

    A layer on inputs, on a sum or behind a normalization gets the weight variance that its inputs'
    mean square asks for. The last weights (or normalization's scale) of each of B residual branches
    get 1 / B of it, so that all sums together do not multiply the variance by more than e.

    Kernels are orthogonal in dense layers, delta-orthogonal in convolutions of stride 1 with no
    more channels coming in than going out, and Gaussian in others, as in those of single channels.
    Dense, Conv1D to Conv3D, PeriodicConvolution, depthwise and separable convolutions are changed;
    other layers are kept as they are, and the table says so.

    Args:
        model: a built `keras.Model` that can be serialized, or the path of a `.keras` file.
        x: a batch of inputs, whose mean square the first layer needs; None takes standard normal
            numbers for it.
        method: "theory" leaves layers alone whose input's activation is not known; "data" scales
            every kernel until its outputs on the batch have the variance that they should;
            "auto" takes theory where it knows the layer, and data elsewhere.
        layers: names of the layers to change; None is all.
        seed: of the new weights.

    Returns:
        A `keras.Model` of its own, which saves and trains as any. The model's attribute `table`, a
        `mfcnn.diagnosis.Changes`, says what was changed; it is not saved.

    Raises:
        TypeError: for a model, x or layers that are none.
        ValueError: for a model that is not built or cannot be serialized, an unknown name of a
            layer, and a model of unknown input shape without x.

    Example:
        >>> layers = [keras.layers.Dense(32, "relu") for _ in range(50)]
        >>> model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(10)])
        >>> repaired = mfcnn.repair(model, np.eye(8))
        >>> repaired.table[1].weight_variance, repaired.table[1].kernel
        (2.0, 'mirrored orthogonal')
        >>> mfcnn.diagnose(repaired, np.eye(8), draws=0, tangent_kernel=False).trainable
        True
    """
    model = built_model(model)
    arguments.choice("method", method, _METHODS)
    seed = arguments.integer("seed", seed, 0)
    copy = _copies.copy_of(model)
    x = _batch(copy, x, seed)
    dry = _tracing.Trace(copy)
    dry.run(x)
    repairer = _Repairer(dry, method, _chosen(copy, layers), seed)
    _tracing.Trace(copy, repairer.visit).run(x)
    repairer.write()
    vars(copy)["table"] = Changes(repairer.changes)
    return copy


def _batch(model: keras.Model, x: Any, seed: int) -> Any:
    """The batch, or standard normal numbers in its place."""
    if x is not None:
        return inputs_of(model, x)
    symbols = getattr(model, "inputs", None)
    if not symbols or any(None in symbol.shape[1:] for symbol in symbols):
        raise ValueError("x must be given for a model of unknown input shape. Received: x=None")
    if any(not keras.backend.is_float_dtype(symbol.dtype) for symbol in symbols):
        raise ValueError("x must be given for a model of integer inputs. Received: x=None")
    rng = np.random.default_rng(seed)
    drawn = [rng.standard_normal((_INPUTS, *symbol.shape[1:])) for symbol in symbols]
    return inputs_of(model, drawn[0] if len(drawn) == 1 else drawn)


def _chosen(model: keras.Model, layers: Any) -> set[str] | None:
    """The names of the layers to change."""
    if layers is None:
        return None
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise arguments.ArgumentTypeError(
            f"layers must be a sequence of names or None. Received: layers={layers!r}"
        )
    names = {layer.name for layer in _walk.leaves(model)}
    unknown = [one for one in layers if one not in names]
    if unknown:
        raise ValueError(
            f"layers must be names of layers of the model. Received: layers={layers!r}, of which "
            f"{unknown} are none"
        )
    return set(layers)


class _Repairer:
    """Gives each layer its weights when it is called: what comes in has its new law already."""

    def __init__(
        self, dry: _tracing.Trace, method: str, chosen: set[str] | None, seed: int
    ) -> None:
        self.changes: list[Change] = []
        self._dry, self._method, self._chosen = dry, method, chosen
        self._rng = np.random.default_rng(seed)
        self._ends = dry.branch_ends()
        self._branches = max(1, len(dry.joins))
        self._twins = _twins.find(dry, self._is_chosen)
        self._done: set[int] = set()
        self._values: list[tuple[Any, Any]] = []

    def write(self) -> None:
        """Puts the values into the model; until now they were those of one pass."""
        for variable, value in self._values:
            variable.assign(value)

    def visit(self, layer: Any, origin: _tracing.Origin, inputs: tf.Tensor) -> None:
        """Before the call of a layer."""
        if id(layer) in self._done or not getattr(layer, "weights", None):
            return
        self._done.add(id(layer))
        by_data = self._method == "data" or origin.kind == "unknown"
        if not self._is_chosen(layer):
            self._keep(layer, "not among the chosen layers")
        elif _tracing.is_normalization(layer):
            self._normalization(layer)
        elif not isinstance(layer, _tracing.WEIGHTED):
            self._keep(layer, f"{type(layer).__name__} is not known here")
        elif not by_data:
            self._by_theory(layer, origin, inputs)
        elif self._method == "theory":
            self._keep(layer, "the activation before it is not known")
        else:
            self._by_data(layer, origin, inputs)

    def _is_chosen(self, layer: Any) -> bool:
        return self._chosen is None or layer.name in self._chosen

    def _target(self, layer: Any) -> float:
        """The variance that a layer's pre-activations are to have."""
        following = self._twins.get(id(layer), self._dry.following.get(id(layer)))
        return _critical.variance_before(following, self._dry.depth)

    def _keep(self, layer: Any, reason: str) -> None:
        self.changes.append(Change(layer.name, math.nan, math.nan, "kept", reason))

    def _share(self, layer: Any) -> float:
        """1 / B for the end of a residual branch."""
        return 1 / self._branches if id(layer) in self._ends else 1.0

    def _normalization(self, layer: Any) -> None:
        gamma, share = getattr(layer, "gamma", None), self._share(layer)
        if gamma is None or share == 1:
            self._keep(layer, "a normalization")
            return
        layer.gamma_initializer = keras.initializers.Constant(math.sqrt(share))
        self._assign(gamma, np.full(gamma.shape, math.sqrt(share)))
        reason = f"its scale, for it ends one of {self._branches} branches"
        self.changes.append(Change(layer.name, share, 0.0, "scale", reason))

    def _by_data(self, layer: Any, origin: _tracing.Origin, inputs: tf.Tensor) -> None:
        """Weights scaled on the batch."""
        target = self._target(layer) * self._share(layer)
        twins, seed = self._are_twins(layer, origin), self._seed()
        self._draw(layer, (1.0, 0.0), twins, seed)
        with _walk.replaced(layer, "activation", keras.activations.linear):
            outputs = tf.cast(type(layer).call(layer, inputs), tf.float64)
        measured = float(tf.reduce_mean(tf.square(outputs)))
        variance = target / measured if measured > 0 else 1.0
        kernel = self._draw(layer, (variance, 0.0), twins, seed)
        reason = f"outputs of variance {target:.3g} on the batch"
        self._changed(layer, (variance, 0.0), twins, kernel, reason)

    def _by_theory(self, layer: Any, origin: _tracing.Origin, inputs: tf.Tensor) -> None:
        """chi_1 = 1 for the activation before, the variance for the one behind."""
        share, target = self._share(layer), self._target(layer)
        twins = self._are_twins(layer, origin)
        if origin.kind == "activation" and origin.activation is not None:
            function = self._twins[id(origin.tail)] if twins[0] else origin.activation
            variance, bias, mean, reason = self._behind(function, layer, origin.variance)
        else:
            bias = mean = 0.0
            square = float(tf.reduce_mean(tf.square(tf.cast(inputs, tf.float64))))
            if id(layer) not in self._dry.following and origin.kind == "linear":
                target = square
            variance = target / square if square > 0 else 1.0
            reason = f"variance {target:.3g} from inputs of mean square {square:.3g}"
        if share < 1:
            reason += f"; the end of one of {self._branches} branches"
        variances = variance * share, bias * share
        kernel = self._draw(layer, variances, twins, self._seed(), mean)
        self._changed(layer, variances, twins, kernel, reason)

    def _behind(
        self, function: Activation, layer: Any, measured: float
    ) -> tuple[float, float, float, str]:
        """Variances of weights and bias, the mean to take out, and why."""
        target = self._target(layer)
        q = _critical.variance_before(function, self._dry.depth)
        if np.isfinite(measured) and function.homogeneity is None:
            q = max(measured, 1e-12)
        slope = float(function.derivative_second_moment(q))
        variance, bias, mean = 1 / slope, 0.0, 0.0
        if id(layer) in self._dry.following:
            variance, bias, mean = _critical.critical_weights(function, q, target)
        if mean and layer.bias is None:
            variance, bias, mean = target / float(function.second_moment(q)), 0.0, 0.0
        reason = f"chi_1 = {variance * slope:.3g} behind {function.name} at q = {q:.3g}"
        reason += ", its mean taken out by the bias" if mean else ""
        return variance, bias, mean, reason

    def _are_twins(self, layer: Any, origin: _tracing.Origin) -> tuple[bool, bool]:
        """Whether the inputs and the units of a layer are twins."""
        inputs = origin.kind == "activation" and id(origin.tail) in self._twins
        return inputs, id(layer) in self._twins

    def _changed(
        self, layer: Any, variances: tuple[float, float], twins: tuple, kernel: str, reason: str
    ) -> None:
        # Of one of n / 2 inputs the weights count twice.
        weights = variances[0] * (1 + twins[0])
        self.changes.append(Change(layer.name, weights, variances[1], kernel, reason))

    def _draw(
        self,
        layer: Any,
        variances: tuple[float, float],
        twins: tuple[bool, bool],
        seed: int,
        mean: float = 0.0,
    ) -> str:
        """New weights and biases of these variances, and a bias that takes out the inputs' mean."""
        bias, names = layer.bias, []
        passed = np.full(_critical.kernels(layer)[0].variable.shape[-2], mean)
        for index, kernel in enumerate(reversed(_critical.kernels(layer))):
            # All but the last of a layer's kernels keep the mean square.
            variance = variances[0] if index == 0 else 1.0
            name, initializer = _critical.kernel_initializer(
                layer, kernel, variance, twins, seed + 2 * index
            )
            setattr(layer, kernel.initializer, initializer)
            shape = kernel.variable.shape
            self._assign(kernel.variable, np.asarray(initializer(shape, dtype="float32"), float))
            names.append(name)
        if bias is not None:
            initializer = keras.initializers.Zeros()
            if variances[1] > 0:
                deviation = math.sqrt(variances[1])
                initializer = keras.initializers.RandomNormal(0.0, deviation, seed + 1)
                if twins[1]:
                    initializer = initializers.Mirrored(initializer)
            layer.bias_initializer = initializer
            numbers = np.asarray(initializer(bias.shape, dtype="float32"), np.float64)
            for kernel in _critical.kernels(layer):
                passed = kernel.of_constants(passed)
            self._assign(bias, numbers - passed)
        return names[0]

    def _seed(self) -> int:
        return int(self._rng.integers(2**31))

    def _assign(self, variable: Any, value: np.ndarray) -> None:
        tensor = tf.cast(value, variable.dtype)
        variable.assign(tensor)  # for this pass
        self._values.append((variable, tensor))
