"""`repair`: the same architecture with new weights, on the critical line layer by layer."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments, initializers
from mfcnn.activations import Activation
from mfcnn.diagnosis import _probes, _tracing
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
    Where the bias variance would be negative (sigmoid), the mean of phi is taken out by the bias,
    b = -E[phi(z)] (sum of the weights). A layer on inputs, on a sum or behind a normalization gets
    the weight variance that its inputs' mean square asks for. The last weights (or normalization's
    scale) of each of B residual branches get 1 / B of it, so that all sums together do not multiply
    the variance by more than e.

    Kernels are orthogonal in dense layers, delta-orthogonal in convolutions of stride 1 with no
    more channels coming in than going out, and Gaussian in others. Dense, Conv1D to Conv3D and
    PeriodicConvolution are changed; other layers are kept as they are, and the table says so.

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
        (2.0, 'orthogonal')
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
    names = {layer.name for layer in _probes.leaves(model)}
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
        self._ends = _branch_ends(dry.joins)
        self._branches = max(1, len(dry.joins))
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
        if self._chosen is not None and layer.name not in self._chosen:
            self._keep(layer, "not among the chosen layers")
        elif _tracing.is_normalization(layer):
            self._normalization(layer)
        elif not isinstance(layer, _tracing.KERNELS):
            self._keep(layer, f"{type(layer).__name__} is not known here")
        elif not by_data:
            self._by_theory(layer, origin, inputs)
        elif self._method == "theory":
            self._keep(layer, "the activation before it is not known")
        else:
            self._by_data(layer, inputs)

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

    def _by_data(self, layer: Any, inputs: tf.Tensor) -> None:
        """Weights scaled on the batch."""
        following = self._dry.following.get(id(layer))
        target = _variance_before(following, self._dry.depth) * self._share(layer)
        seed = self._seed()
        self._draw(layer, (1.0, 0.0), seed)
        with _probes.replaced(layer, "activation", keras.activations.linear):
            outputs = tf.cast(type(layer).call(layer, inputs), tf.float64)
        measured = float(tf.reduce_mean(tf.square(outputs)))
        variance = target / measured if measured > 0 else 1.0
        kernel = self._draw(layer, (variance, 0.0), seed)
        reason = f"outputs of variance {target:.3g} on the batch"
        self.changes.append(Change(layer.name, variance, 0.0, kernel, reason))

    def _by_theory(self, layer: Any, origin: _tracing.Origin, inputs: tf.Tensor) -> None:
        """chi_1 = 1 for the activation before, the variance for the one behind."""
        following, share = self._dry.following.get(id(layer)), self._share(layer)
        target = _variance_before(following, self._dry.depth)
        bias = mean = 0.0
        if origin.kind == "activation" and origin.activation is not None:
            function = origin.activation
            q = _variance_before(function, self._dry.depth)
            if np.isfinite(origin.variance) and function.homogeneity is None:
                q = max(origin.variance, 1e-12)
            slope = float(function.derivative_second_moment(q))
            variance = 1 / slope
            if following is not None:
                variance, bias, mean = critical_weights(function, q, target)
            if mean and layer.bias is None:
                variance, bias, mean = target / float(function.second_moment(q)), 0.0, 0.0
            reason = f"chi_1 = {variance * slope:.3g} behind {function.name} at q = {q:.3g}"
            reason += ", its mean taken out by the bias" if mean else ""
        else:
            square = float(tf.reduce_mean(tf.square(tf.cast(inputs, tf.float64))))
            if following is None and origin.kind == "linear":
                target = square
            variance = target / square if square > 0 else 1.0
            reason = f"variance {target:.3g} from inputs of mean square {square:.3g}"
        if share < 1:
            reason += f"; the end of one of {self._branches} branches"
        variances = variance * share, bias * share
        kernel = self._draw(layer, variances, self._seed(), mean)
        self.changes.append(Change(layer.name, *variances, kernel, reason))

    def _draw(
        self, layer: Any, variances: tuple[float, float], seed: int, mean: float = 0.0
    ) -> str:
        """New weights and biases of these variances, and a bias that takes out the inputs' mean."""
        kernel, bias = layer._kernel, layer.bias
        name, initializer = _kernel_initializer(layer, variances[0], seed)
        layer.kernel_initializer = initializer
        values = np.asarray(initializer(kernel.shape, dtype="float32"), np.float64)
        self._assign(kernel, values)
        if bias is not None:
            layer.bias_initializer = keras.initializers.Zeros()
            numbers = np.zeros(bias.shape)
            if variances[1] > 0:
                deviation = math.sqrt(variances[1])
                layer.bias_initializer = keras.initializers.RandomNormal(0.0, deviation, seed + 1)
                numbers = np.asarray(layer.bias_initializer(bias.shape, dtype="float32"))
            numbers = numbers - mean * values.sum(axis=tuple(range(values.ndim - 1)))
            self._assign(bias, numbers)
        return name

    def _seed(self) -> int:
        return int(self._rng.integers(2**31))

    def _assign(self, variable: Any, value: np.ndarray) -> None:
        tensor = tf.cast(value, variable.dtype)
        variable.assign(tensor)  # for this pass
        self._values.append((variable, tensor))


def _branch_ends(joins: list[list[_tracing.Origin]]) -> set[int]:
    """The last layers with weights of all residual branches.

    Of what a sum adds, the part with the fewest layers behind it is the way past; the others are
    branches.
    """
    ends = set()
    for origins in joins:
        shortest = min(range(len(origins)), key=lambda k: origins[k].depth)
        for index, origin in enumerate(origins):
            if index != shortest and origin.tail is not None:
                ends.add(id(origin.tail))
    return ends


def _variance_before(function: Activation | None, depth: int) -> float:
    """The variance q in front of an activation at which a network of this depth is to work."""
    if function is None or function.homogeneity is not None:
        return 1.0
    return 1 / max(depth, 1)


def critical_weights(function: Activation, q: float, target: float) -> tuple[float, float, float]:
    """(weight_variance, bias_variance, mean to take out) with chi_1 = 1 behind an activation.

    The bias fills up what is missing to the target, but adds no more than it does at a fixed point
    at the target: it is the same for all inputs, and makes them alike. Where even a fixed point at
    q would need a negative bias variance, the mean of phi is taken out; where that is not enough,
    the variance is kept and chi_1 is less than one.

    Args:
        function: phi.
        q: the variance of its pre-activations.
        target: that of the next ones.
    """
    if function.homogeneity is not None:  # another target is another scale, once
        return target / (function.homogeneity * q), 0.0, 0.0
    variance = 1 / float(function.derivative_second_moment(q))
    mean = 0.0
    # At a fixed point, bias variance = q - weight_variance E[phi^2], without cancellation.
    here, there = (
        float(function.deficit(v) / function.derivative_second_moment(v)) for v in (q, target)
    )
    if min(here, there) < -1e-12 * q:
        mean = float(function.mean(q))
        here += variance * mean**2
        there += float(function.mean(target)) ** 2 / float(
            function.derivative_second_moment(target)
        )
        if here < -1e-12 * q:
            return target / (float(function.second_moment(q)) - mean**2), 0.0, mean
    return variance, float(np.clip(here + target - q, 0.0, max(there, 0.0))), mean


def _kernel_initializer(layer: Any, variance: float, seed: int) -> tuple[str, Any]:
    """The kind of kernel, and an initializer of this weight variance."""
    shape = tuple(layer._kernel.shape)
    channels, filters = shape[-2:]
    gain = math.sqrt(variance * max(channels, filters) / channels)
    if len(shape) == 2:
        return "orthogonal", keras.initializers.Orthogonal(gain, seed)
    plain = max(np.ravel(layer.strides)) == 1 and layer.groups == 1
    if plain and channels <= filters:
        return "delta-orthogonal", initializers.ConvolutionDeltaOrthogonal(gain, seed)
    deviation = math.sqrt(variance / math.prod(shape[:-1]))
    return "gaussian", keras.initializers.RandomNormal(0.0, deviation, seed)
