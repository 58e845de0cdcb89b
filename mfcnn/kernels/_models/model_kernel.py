"""`from_keras`, and the kernel that it returns."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments
from mfcnn.kernels import _base, _blocks, _first_layer
from mfcnn.kernels._models import pairs, reading, registry
from mfcnn.kernels._models import rules_attention as _attention
from mfcnn.kernels._models import rules_channels as _channels
from mfcnn.kernels._models import rules_joins as _joins
from mfcnn.kernels._models import rules_positions as _positions
from mfcnn.kernels._models import rules_weights as _weights
from mfcnn.kernels._models.nodes import Data, Node
from mfcnn.kernels._models.sampled import Sampled

__all__ = ["from_keras"]

# Imported for the rules that they register.
_RULES = (_attention, _channels, _joins, _positions, _weights)
_UNKNOWN = 16  # what stands for a size that only the inputs will say
_BLOCK = 2**18  # entries of the largest covariance of a block
_LARGEST = 2**25  # entries of one pair of inputs, 256 MiB a tensor: more is refused


def from_keras(
    model: Any,
    parameterization: str = "ntk",
    sampled: bool | int = False,
    seed: int = 0,
) -> Any:
    """The NNGP and NTK of a Keras model's architecture at infinite width.

    Widths (units, filters, the channels between layers) go to infinity; sizes of images, windows
    and strides, paddings, activations and the graph stay. Variances come from the initializers, at
    the widths of the model: sigma_w^2 is an entry's variance times the number of inputs. What is
    added must be independent or of known covariance, and between two activations there must be
    weights: else it is not Gaussian. Weights that are not trained add nothing to the NTK.

    Layers: Dense, EinsumDense, Conv1D to 3D (strided, dilated, grouped, causal), their transposes,
    depthwise and separable ones, Embedding, mfcnn's own; every activation with dual maps;
    BatchNormalization (in inference mode, at the start), LayerNormalization, RMSNormalization,
    GroupNormalization; Add, Subtract, Average, Multiply, Concatenate and their operators; pooling
    by averages, padding, cropping, upsampling, Resizing, Flatten, Reshape, Permute, RepeatVector;
    `mfcnn.layers.NTKSelfAttention`; Masking, where means over positions and attention read it;
    Dropout and its like; nested models, layers that are used twice; before the first weights any
    layer without weights. A layer of your own gets a rule by `register_layer_rule`.

    Args:
        model: a built Sequential or functional `keras.Model`, or the path of a `.keras` file.
        parameterization: "ntk", W = sigma_w w / sqrt(fan_in) with w trained: weights without
            variance (zeros, the scales of a normalization) add nothing. "standard", W itself is
            trained: what `mfcnn.empirical.ntk` of the model tends to, for its own widths.
        sampled: True takes Monte Carlo estimates where there is no closed form (maximum pooling,
            activations behind depthwise filters, Keras's attention, which then has infinitely many
            heads of as many keys as it has), with 2048 channels in each of 8 draws; an integer
            is the number of channels. The result then has the fields nngp_error and ntk_error,
            standard errors of the mean over the draws.
        seed: of the draws.

    Returns:
        A callable kernel(x1, x2=None, get=("nngp", "ntk")) of the model's inputs, with results in
        float64 [n1, n2] as of `fully_connected`, and arguments progress and output_dir. A model
        with several inputs takes a list of arrays; with several outputs, they are put in front:
        [outputs, n1, n2].

    Raises:
        ValueError: for a layer that has no infinite-width kernel; the message names it and why.
        TypeError: if model is neither a Keras model nor a path.

    Example:
        >>> import keras, mfcnn
        >>> model = keras.Sequential(
        ...     [keras.Input([3]), keras.layers.Dense(64, "relu"), keras.layers.Dense(1)])
        >>> kernel = mfcnn.kernels.from_keras(model)
        >>> kernel([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], get="ntk").shape
        TensorShape([2, 2])
    """
    model = arguments.model(model)
    if not model.built or not getattr(model, "inputs", None):
        raise ValueError("model must be built with a known input: give it an Input layer.")
    arguments.choice("parameterization", parameterization, ("ntk", "standard"))
    if not isinstance(sampled, (bool, np.bool_)):
        sampled = arguments.integer("sampled", sampled, 2)
    return _ModelKernel(model, parameterization, sampled, arguments.integer("seed", seed, 0))


class _ModelKernel(_base.Kernel):
    """The kernel of a model; see `from_keras`."""

    _name = "from_keras"

    def __init__(
        self, model: keras.Model, parameterization: str, sampled: bool | int, seed: int
    ) -> None:
        self.model, self.parameterization = model, parameterization
        self.sampled, self.seed = sampled, seed
        self._draws = 8 if sampled else 1
        self._channels = 2048 if sampled is True else int(sampled)
        self._plans: dict[Any, _Plan] = {}
        self._plan([[1, *(n or _UNKNOWN for n in t.shape[1:])] for t in model.inputs])

    def __call__(self, x1: Any, x2: Any = None, get: Any = ("nngp", "ntk"), **options: Any) -> Any:
        """Evaluates the kernel; see `kernels.Kernel` and `from_keras`."""
        result = super().__call__(x1, x2, get, **options)
        if not self.sampled:
            return result
        names = (get,) if isinstance(get, str) else tuple(get)
        values = (result,) if isinstance(get, str) else result
        means = [tf.reduce_mean(value, 0) for value in values]
        errors = [tf.math.reduce_std(value, 0) / math.sqrt(self._draws - 1.0) for value in values]
        names = (*names, *(f"{name}_error" for name in names))
        return means[0] if isinstance(get, str) else _base._restored(names, means + errors)

    def _plan(self, shapes: Sequence[Sequence[int]]) -> "_Plan":
        """What is to be computed for inputs of these shapes, for the model as it is now."""
        settings = reading.Settings(
            self.model, self.parameterization == "standard", bool(self.sampled)
        )
        functions = tuple(id(getattr(o, "activation", None)) for o in _operations(self.model))
        key = (*(tuple(s[1:]) for s in shapes), frozenset(settings.trained), functions)
        if key not in self._plans:
            self._plans = {key: _Plan(reading.read(self.model, shapes, settings))}
        return self._plans[key]

    def _problem(self, x1: Any, x2: Any, scaled: bool) -> dict[str, Any]:
        """The rules that read the layers belong to what decides the values."""
        rules = {type(operation): None for operation in _operations(self.model)}
        found = (registry.find(kind, registry.registered()) for kind in rules)
        names = sorted(registry.identity(base) for base, _ in found if base is not None)
        return super()._problem(x1, x2, scaled) | {"rules": names}

    def _inputs(self, name: str, x: Any) -> tf.Tensor:
        """One tensor; several inputs side by side, each flat."""
        if len(self.model.inputs) == 1:
            return super()._inputs(name, x)
        names = [tensor.name for tensor in self.model.inputs]
        if isinstance(x, dict) and set(x) == set(names):
            x = [x[one] for one in names]
        if not isinstance(x, (list, tuple)) or len(x) != len(names):
            raise ValueError(
                f"{name} must be a list of {len(names)} arrays, or a dictionary with the keys "
                f"{names}. Received: {name}={x!r:.200}"
            )
        tensors = [_base._real(f"{name}[{k}]", one) for k, one in enumerate(x)]
        for k, tensor in enumerate(tensors):
            self._check_one(f"{name}[{k}]", tensor, self.model.inputs[k].shape[1:])
        if len({tensor.shape[0] for tensor in tensors}) > 1:
            raise ValueError(
                f"{name} must be arrays of one length. Received: {[t.shape[0] for t in tensors]}"
            )
        return tf.concat([tf.reshape(t, [t.shape[0], -1]) for t in tensors], 1)

    def _check(self, name: str, x: tf.Tensor) -> None:
        self._check_one(name, x, self.model.inputs[0].shape[1:])

    @staticmethod
    def _check_one(name: str, x: tf.Tensor, expected: Sequence[int | None]) -> None:
        fits = x.shape.rank == len(expected) + 1 and all(
            size is None or size == n for size, n in zip(expected, x.shape[1:])
        )
        if not fits or 0 in x.shape:
            raise ValueError(
                f"{name} must be inputs of the model, each of shape {tuple(expected)}, and not "
                f"empty. Received: {name}.shape={x.shape}"
            )

    def _evaluate(
        self, x1: tf.Tensor, x2: tf.Tensor | None, scaled: bool, run: _blocks.Run
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        second = x1 if x2 is None else x2
        shapes = [[1, *x1.shape[1:]]]
        if len(self.model.inputs) > 1:
            shapes = [[1, *tensor.shape[1:]] for tensor in self.model.inputs]
        plan = self._plan(shapes)
        if not tf.executing_eagerly():
            return self._traced(plan, shapes, x1, x2)
        ids1, ids2 = _base.identities(x1, x2)

        def block(rows: np.ndarray, columns: np.ndarray) -> tuple[tf.Tensor, ...]:
            inputs = tf.gather(x1, rows), tf.gather(second, columns)
            ids = tf.gather(ids1, rows), tf.gather(ids2, columns)
            if self.sampled:
                nngp, ntk = self._draw(plan, shapes, inputs, np.concatenate(ids))
            else:
                same = tf.equal(ids[0][:, None], ids[1][None, :])
                nngp, ntk = self._block(plan, shapes, inputs, same)
            return nngp, ntk, tf.zeros(nngp.shape[:-2], tf.float64)

        size = max(1, math.isqrt(_BLOCK // min(_BLOCK, plan.entries)))
        if self.sampled:
            size = max(1, size // 2)
        return run.grid(block, x1.shape[0], None if x2 is None else x2.shape[0], size)

    def _traced(
        self, plan: "_Plan", shapes: Sequence[Sequence[int]], x1: tf.Tensor, x2: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """All pairs in one block, inside of a function of the user's."""
        second = x1 if x2 is None else x2
        if self.sampled or None in (x1.shape[0], second.shape[0]):
            missing = "without sampled" if self.sampled else "for a known number of inputs"
            raise ValueError(
                f"inside a tf.function from_keras gives a kernel {missing} only: call it outside, "
                f"or {'drop sampled' if self.sampled else 'trace with a fixed batch size'}. "
                f"Received: x1.shape={x1.shape}, sampled={self.sampled}"
            )
        same = _first_layer.same_inputs(x1, x2)
        nngp, ntk = self._block(plan, shapes, (x1, second), same)
        if x2 is None:
            nngp, ntk = ((k + tf.linalg.matrix_transpose(k)) / 2 for k in (nngp, ntk))
        return nngp, ntk, tf.zeros([], tf.float64)

    def _block(
        self,
        plan: "_Plan",
        shapes: Sequence[Sequence[int]],
        inputs: tuple[tf.Tensor, tf.Tensor],
        same: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        tensors = [_split(x, shapes) for x in inputs]
        evaluation = pairs.Evaluation(list(zip(*tensors)), same, plan.pairs, plan.loops)
        return _kernels(evaluation.run(plan.order, plan.outputs))

    def _draw(
        self,
        plan: "_Plan",
        shapes: Sequence[Sequence[int]],
        inputs: tuple[tf.Tensor, tf.Tensor],
        ids: np.ndarray,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As `_block`, for each draw: all inputs of the block are drawn together, equal ones once.

        Args:
            plan: what to compute.
            shapes: of the model's inputs.
            inputs: the first and the second ones.
            ids: numbers that are equal for equal inputs, those of the first and then of the second.
        """
        _, places, back = np.unique(ids, return_index=True, return_inverse=True)
        tensors = _split(tf.gather(tf.concat(inputs, 0), places), shapes)
        same = tf.eye(len(places), dtype=tf.bool)
        evaluation = pairs.Evaluation([(x, x) for x in tensors], same, plan.pairs, plan.loops)
        evaluation.keep(plan.fixed, plan.frontier)
        values = []
        for draw in range(self._draws):
            evaluation.sample(self._channels, (self.seed, draw))
            values.append(_kernels(evaluation.run(plan.random, plan.outputs)))
        rows, columns = np.split(back, [inputs[0].shape[0]])
        nngp, ntk = (
            tf.gather(tf.gather(tf.stack(field), rows, axis=-2), columns, axis=-1)
            for field in zip(*values)
        )
        return nngp, ntk


def _kernels(results: Sequence[Any]) -> tuple[tf.Tensor, tf.Tensor]:
    """NNGP and NTK of one output, or of several, in front."""
    nngp, ntk = ([getattr(r, name) for r in results] for name in ("nngp", "ntk"))
    nngp, ntk = (v[0] if len(v) == 1 else tf.stack(v) for v in (nngp, ntk))
    return nngp, ntk


def _split(x: tf.Tensor, shapes: Sequence[Sequence[int]]) -> list[tf.Tensor]:
    """The model's inputs, from one tensor."""
    if len(shapes) == 1:
        return [x]
    parts = tf.split(x, [math.prod(shape[1:]) for shape in shapes], axis=1)
    return [tf.reshape(part, [-1, *shape[1:]]) for part, shape in zip(parts, shapes)]


def _operations(model: keras.Model) -> list[Any]:
    """All layers of a model, those of nested models too."""
    result = []
    for operation in getattr(model, "operations", model.layers):  # Sequential has layers alone
        result += _operations(operation) if isinstance(operation, keras.Model) else [operation]
    return result


class _Plan:
    """The nodes of a model in the order of their evaluation.

    Attributes:
        order: all nodes whose covariances are computed, first to last.
        outputs: those of the model's outputs.
        random: those of the order that are drawn, or made of what is.
        fixed: the others.
        frontier: those of the others that `random` reads.
        pairs: whether all pairs of positions are needed.
        entries: the entries of the largest covariance of two inputs.
        loops: compiled loops of stacks.
    """

    def __init__(self, signals: Sequence[Any]) -> None:
        self.outputs = [self._output(signal) for signal in signals]
        self.order = pairs.ordered(self.outputs)
        drawn: set[Node] = set()
        for node in self.order:
            if isinstance(node, Sampled) or not drawn.isdisjoint(node.reads):
                drawn.add(node)
        self.random = [node for node in self.order if node in drawn]
        self.fixed = [node for node in self.order if node not in drawn]
        read = {one for node in self.random for one in node.reads}.union(self.outputs)
        self.frontier = [node for node in self.fixed if node in read and not isinstance(node, Data)]
        self.loops: dict[Any, Any] = {}
        self.pairs = any(node.asks_pairs for node in self.order)
        self.entries = max(pairs.entries(node, self.pairs) for node in self.order)
        if self.entries > _LARGEST:
            sizes = max((node.sizes for node in self.order), key=math.prod)
            raise ValueError(
                f"the covariance of all pairs of positions of an image of size {sizes} has "
                f"{self.entries:.1e} entries; {_LARGEST:.1e} are accepted. Give the model smaller "
                "images, or Flatten instead of pooling"
            )

    @staticmethod
    def _output(signal: Any) -> Node:
        if any(isinstance(part.node, Data) for part in signal.parts):
            raise ValueError("model must have a layer with weights.")
        (part, *rest) = signal.parts
        if signal.sizes or signal.flat or rest:
            raise ValueError(
                "model must end in one output for each input (Flatten or pooling, then Dense). "
                f"Received: an output with positions {list(part.node.sizes)}"
            )
        return part.node
