"""What theory says of each call of a layer, on the batch at hand; what it does not know is NaN."""

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn.activations import Activation
from mfcnn.diagnosis import _signals, _walk
from mfcnn.kernels._models import gradients, pairs, partial, weights
from mfcnn.kernels._models.nodes import Affine, Data, Node
from mfcnn.kernels._models.operations import Elementwise
from mfcnn.kernels._models.signals import Signal
from mfcnn.kernels._models.stack import Stack

__all__ = ["Expected", "Run", "expectations", "read", "runs"]


@dataclasses.dataclass
class Expected:
    """Of one call: the quantities of `_probes.Probe`, at infinite width; NaN is not known.

    Attributes:
        operation: the layer.
        reason: why nothing is known of it; empty where something is.
        mean, variance, correlation, gradient, weight_gradient: see `Probe`.
    """

    operation: Any
    reason: str = ""
    mean: float = np.nan
    variance: float = np.nan
    correlation: float = np.nan
    gradient: float = np.nan
    weight_gradient: float = np.nan


@dataclasses.dataclass(frozen=True)
class Run:
    """Equal layers one behind the other.

    Attributes:
        first, last: names of the first and the last layer.
        depth: their number.
        activation: between them.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
    """

    first: str
    last: str
    depth: int
    activation: Activation
    weight_variance: float
    bias_variance: float


def read(model: keras.Model, x: Any, training: bool, fresh: bool) -> partial.Reading:
    """The model as far as theory knows its layers.

    Args:
        model: a built model.
        x: a batch, as tensors.
        training: whether batch normalization takes the statistics of the batch.
        fresh: whether the weights are new ones; else those that their initializers could not have
            drawn are not known.
    """
    leaves = keras.tree.flatten(x)
    last = _walk.output_operations(model)
    by_batch = "with the statistics of the batch it has no closed form: give training=False"

    def unknown(operation: Any) -> str:
        is_batch = isinstance(operation, keras.layers.BatchNormalization)
        if is_batch and training and operation.trainable:
            return by_batch
        if not fresh and not _as_initialized(operation):
            return "its weights are not those that its initializers draw"
        return ""

    linear = last & _to_probabilities(model)
    shapes = [[1, *leaf.shape[1:]] for leaf in leaves]
    return partial.read(model, shapes, linear, unknown)


def _as_initialized(layer: Any) -> bool:
    """Whether the weights of a layer could be those that its initializers draw.

    The mean square of m Gaussian entries has the relative deviation sqrt(2 / m), that of other
    entries less; six of them.
    """
    for variable in getattr(layer, "weights", ()):
        values = np.asarray(variable, np.float64)
        expected = _mean_square(layer, variable, values.shape)
        if expected is None or not values.size:
            continue
        allowed = 6 * np.sqrt(2 / values.size) + 1e-5
        if not abs(np.mean(values**2) - expected) <= allowed * expected:
            return False
    return True


def _mean_square(layer: Any, variable: Any, shape: tuple[int, ...]) -> float | None:
    """The mean square of the entries that a weight's initializer draws; None if not known."""
    initializer = getattr(layer, f"{variable.name}_initializer", None)
    if initializer is None:
        return None
    value = weights.constant(initializer)
    if value is not None:
        return value**2
    if variable.name == "kernel" and len(shape) > 1:
        profile = weights.kernel_profile(initializer, shape, layer)
        return None if profile is None else profile[0] / int(np.prod(shape[:-2]))
    return weights.entry_variance(initializer, shape)


def _to_probabilities(model: keras.Model) -> set[int]:
    """Layers whose activation turns logits into probabilities."""
    found, waiting = set(), [model]
    while waiting:
        layer = waiting.pop()
        if isinstance(layer, keras.Model):
            waiting.extend(_walk.inside(layer))
        elif isinstance(layer, keras.layers.Softmax):
            found.add(id(layer))
        elif vars(layer).get("activation") in _signals.TO_PROBABILITIES:
            found.add(id(layer))
    return found


def expectations(reading: partial.Reading, x: Any) -> list[Expected]:
    """What theory says of each call, in the order of the calls."""
    signals = [record.signal for record in reading.records]
    nodes = _nodes([*signals, *(record.output for record in reading.records)])
    leaves = [tf.cast(leaf, tf.float64) for leaf in keras.tree.flatten(x)]
    moments = partial.evaluate(nodes, leaves) if nodes else {}
    squares = _gradients(reading, nodes, moments, int(leaves[0].shape[0]))
    calls: dict[int, int] = {}
    for record in reading.records:
        calls[id(record.operation)] = calls.get(id(record.operation), 0) + 1
    return [
        _expected(record, moments, squares, calls[id(record.operation)] == 1)
        for record in reading.records
    ]


def _nodes(signals: list[Signal | None]) -> list[Node]:
    """The random nodes of signals, each once."""
    found: dict[Node, None] = {}
    for signal in signals:
        for part in signal.parts if signal is not None else ():
            if not isinstance(part.node, Data):
                found[part.node] = None
    return list(found)


def _gradients(
    reading: partial.Reading, nodes: list[Node], moments: dict, n: int
) -> dict[Node, np.ndarray]:
    """Backwards, if all outputs are known; cotangents as those of `_probes.measure`."""
    starts, unknown = [], set()
    for index, signal in enumerate(reading.outputs):
        if signal is None:
            continue
        total = sum(signal.counts())
        for part, count in zip(signal.parts, signal.counts()):
            places = int(np.prod(part.node.sizes, dtype=np.int64))
            share = count / total / places / len(reading.outputs)
            key = ("output", index, id(part.node))
            starts.append((key, part.node, np.full((*part.node.sizes, n), share)))
    for record in reading.records:
        if record.output is None:
            # What goes into it, and its own pre-activations unless they are the model's output.
            lost = [*record.arguments, record.signal]
            for node in _nodes(lost):
                unknown.add(node)
    return gradients.squared_gradients(pairs.ordered(nodes), starts, unknown, moments)


def _expected(
    record: partial.Record, moments: dict, squares: dict[Node, np.ndarray], once: bool
) -> Expected:
    result = Expected(record.operation, record.reason)
    if record.signal is None or record.signal.data() is not None:
        result.reason = result.reason or "it comes before the first weights"
        return result
    shares, nodes = zip(*record.signal.fractions())
    known = [moments[node] for node in nodes if node in moments]
    if len(known) == len(nodes):
        means = [0.0 if m.mean is None else float(np.mean(m.mean)) for m in known]
        result.mean = float(np.dot(shares, means))
        result.variance = float(np.dot(shares, [np.mean(m.variance) for m in known]))
        result.correlation = _correlation(np.tensordot(shares, [m.covariance for m in known], 1))
    else:
        result.reason = result.reason or "it is not known on this batch"
    back = [squares[node] for node in nodes if node in squares]
    if len(back) == len(nodes):
        result.gradient = sum(float(np.mean(np.sum(_flat(g), axis=0))) for g in back)
    if len(nodes) == len(back) == len(known) == 1 and once:
        result.weight_gradient = _by_weights(nodes[0], known[0], back[0])
    return result


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1])


def _correlation(gram: np.ndarray) -> float:
    """The mean over pairs of inputs."""
    if len(gram) < 2:
        return np.nan
    norms = np.sqrt(np.diag(gram))
    with np.errstate(all="ignore"):
        return float(np.mean((gram / np.outer(norms, norms))[np.triu_indices(len(gram), 1)]))


def _by_weights(node: Node, moments: partial.Moments, squares: np.ndarray) -> float:
    """By the weights of a dense layer: |g|^2 (fan_in E[h^2] + 1), by input."""
    if not isinstance(node, Affine) or isinstance(node, Stack) or node.sizes:
        return np.nan
    law = node.law
    if law.convolution is not None or not law.weight_variance:
        return np.nan
    inputs = (moments.variance - law.bias_variance) / law.weight_variance
    return float(np.mean((law.weight_gradient * inputs + law.bias_gradient) * squares))


def runs(reading: partial.Reading, least: int = 3) -> list[Run]:
    """The runs of at least so many equal layers, longest first."""
    chains: dict[Node, list[tuple[str, Affine]]] = {}
    found: list[list[tuple[str, Affine]]] = []
    for record in reading.records:
        node = record.signal.parts[0].node if record.signal is not None else None
        if not isinstance(node, Affine) or node in chains:
            continue
        before = _before(node)
        chain = chains.get(before) if before is not None else None
        if chain is None or not _alike(chain[-1][1], node):
            chain = []
            found.append(chain)
        chain.append((record.operation.name, node))
        chains[node] = chain
    result = [run for run in map(_run, found) if run is not None and run.depth >= least]
    return sorted(result, key=lambda run: -run.depth)


def _before(node: Affine) -> Node | None:
    """The pre-activations that a layer's inputs are a function of."""
    parent = node.parents[0]
    if len(node.parents) == 1 and isinstance(parent, Elementwise):
        return parent.parents[0]
    return None


def _alike(one: Affine, other: Affine) -> bool:
    """Whether two layers continue one run: same variances and the same activation before them."""
    same = np.allclose(
        [one.law.weight_variance, one.law.bias_variance],
        [other.law.weight_variance, other.law.bias_variance],
        rtol=1e-6,
    )
    names = {
        node.parents[0].function.name
        for node in (one, other)
        if isinstance(node.parents[0], Elementwise)
    }
    return bool(same) and len(names) <= 1


def _run(chain: list[tuple[str, Affine]]) -> Run | None:
    name, node = chain[-1]
    depth, function = len(chain), None
    if isinstance(node, Stack) and node.function is not None:
        depth, function = depth - 1 + node.depth, node.function
    elif isinstance(node.parents[0], Elementwise):
        function = node.parents[0].function
    if function is None:
        return None
    law = node.law
    return Run(chain[0][0], name, depth, function, law.weight_variance, law.bias_variance)
