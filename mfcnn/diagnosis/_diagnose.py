"""`diagnose`: draws, measures, asks the theory, and writes the report."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from mfcnn import arguments, borrowed, empirical, kernels, meanfield
from mfcnn.diagnosis import _findings, _probes, _records, _theory
from mfcnn.diagnosis._report import Report
from mfcnn.empirical import _copies, _inputs

__all__ = ["built_model", "diagnose", "inputs_of", "layers_of"]

_INPUTS_OF_NTK, _PARAMETERS_OF_NTK = 16, 2_000_000


def diagnose(
    model: Any,
    x: Any,
    draws: int = 10,
    seed: int = 0,
    training: bool = True,
    tangent_kernel: bool = True,
) -> Report:
    """What is wrong with the signals and gradients of a Keras model, layer by layer.

    Every layer is measured on the batch: forward, and backward from random cotangents at the
    outputs. Beside it stands what theory expects at infinite width, for each layer that it knows;
    where it does not, nothing. The model is not changed.

    A last softmax or sigmoid is left out, as the loss takes it into its own gradient. Dropout is
    off.

    Args:
        model: any built `keras.Model` of real outputs, or the path of a `.keras` file.
        x: a batch of inputs [n, ...] (a list or dict for several); two of them at least to see
            correlations, 8 to 32 are enough.
        draws: number of fresh initializations to measure, of a model that can be serialized; 0
            takes the weights as they are, and theory those that could be fresh ones.
        seed: of the draws.
        training: whether batch normalization takes the statistics of the batch, as in training, of
            which theory has no closed form; else the moving ones.
        tangent_kernel: whether condition number and largest learning rate of the NTK are computed,
            of one initialization, on the first 16 inputs.

    Returns:
        A `mfcnn.diagnosis.Report`.

    Raises:
        TypeError: for a model or x that is none.
        ValueError: for a model that is not built, an x that is empty, does not fit or is not
            finite, and, where draws > 0, a model that cannot be serialized.

    Example:
        >>> layers = [keras.layers.Dense(64, "relu") for _ in range(60)]
        >>> model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(10)])
        >>> report = mfcnn.diagnose(model, np.eye(8), draws=2, tangent_kernel=False)
        >>> report.findings[0].severity, report.findings[0].number < 1e-6
        ('error', True)
    """
    model = built_model(model)
    draws, seed = arguments.integer("draws", draws, 0), arguments.integer("seed", seed, 0)
    training = arguments.boolean("training", training)
    tangent_kernel = arguments.boolean("tangent_kernel", tangent_kernel)
    x = inputs_of(model, x)
    passes, first = [], None
    for draw, weights in enumerate(_weights(model, draws, seed)):
        first = weights if first is None else first
        passes.append(_probes.measure(model, x, weights, seed + draw, training))
    reading = _theory.read(model, x, training, fresh=draws > 0)
    layers = layers_of(passes, _theory.expectations(reading, x))
    runs = _theory.runs(reading)
    found = _findings.findings(layers, runs)
    phases = [(run, _phase(run)) for run in runs[:3]]
    depths = _findings.effective_depth(layers)
    rate, condition, note = _tangent_kernel(model, x, first, draws) if tangent_kernel else _NOTHING
    return Report(
        name=model.name,
        inputs=_inputs.length(x),
        draws=draws,
        layers=tuple(layers),
        phases=tuple(phases),
        findings=tuple(found),
        verdict=_findings.verdict(found, phases, depths),
        max_learning_rate=rate,
        condition_number=condition,
        effective_depth=depths[0],
        note=note,
    )


_NOTHING = (math.nan, math.nan, "the NTK was not asked for")


def built_model(model: Any) -> keras.Model:
    """A built model, from its file too.

    Raises:
        ArgumentTypeError: for anything but a model or a path.
        ValueError: for a file that cannot be loaded, and a model that is not built.
    """
    model = arguments.model(model)
    if not model.built:
        raise ValueError(
            "model must be built, so that it has weights: call model.build(input_shape) or "
            f"model(x) first. Received: the unbuilt model {model.name!r}"
        )
    return model


def inputs_of(model: keras.Model, x: Any) -> Any:
    """A batch that is not empty, as tensors in the model's own structure."""
    x = _inputs.convert(model, x, "x")
    if not _inputs.length(x):
        raise ValueError("x must hold at least one input. Received: an empty batch")
    return x


def _weights(model: keras.Model, draws: int, seed: int) -> Iterator[list[np.ndarray]]:
    """The weights as they are, or fresh ones: what was adapted to data stays."""
    here = model.get_weights()
    if not draws:
        yield here
        return
    adapted = [
        any(v is one for layer in _normalizations(model) for one in layer.weights)
        for v in model.weights
    ]
    try:
        for fresh in itertools.islice(_copies.new_initial_weights(model, seed), draws):
            yield [old if keep else new for keep, old, new in zip(adapted, here, fresh)]
    except ValueError as error:
        raise ValueError(f"{error} Or give draws=0, which takes the weights as they are.") from None


def _normalizations(model: keras.Model) -> list[Any]:
    return [
        layer
        for layer in borrowed.sublayers(model)
        if isinstance(layer, keras.layers.Normalization)
    ]


def layers_of(
    passes: list[list[_probes.Probe]], expected: list[_theory.Expected]
) -> list[_records.Layer]:
    """Joins the passes of all draws and the theory, call by call."""
    theory: dict[int, list[_theory.Expected]] = {}
    for one in expected:
        theory.setdefault(id(one.operation), []).append(one)
    counts: dict[int, int] = {}
    for probe in passes[0]:
        counts[id(probe.layer)] = counts.get(id(probe.layer), 0) + 1
    result = []
    for probes in zip(*passes):
        layer, known = probes[0].layer, theory.get(id(probes[0].layer), [])
        # Only where theory has seen the same calls of it does it know which is which.
        same = len(known) == counts[id(layer)]
        one = known[probes[0].occurrence] if same else _theory.Expected(layer, "not in the graph")
        result.append(_layer(list(probes), one))
    return result


def _layer(probes: list[_probes.Probe], expected: _theory.Expected) -> _records.Layer:
    layer = probes[0].layer
    quantities = {
        name: _records.quantity(
            np.array([getattr(probe, name) for probe in probes], float),
            getattr(expected, name, math.nan),
        )
        for name in _records.QUANTITIES
    }
    trained = getattr(layer, "trainable_variables", ())
    is_whole = np.isfinite(probes[0].weight_gradient)
    return _records.Layer(
        name=layer.name,
        kind=type(layer).__name__,
        call=probes[0].occurrence,
        shape=tuple(map(int, probes[0].shape)),
        parameters=sum(int(np.prod(v.shape)) for v in trained) if is_whole else 0,
        reason=expected.reason,
        **quantities,
    )


def _phase(run: _theory.Run) -> meanfield.FixedPoint | None:
    try:
        return meanfield.fixed_point(run.activation, run.weight_variance, run.bias_variance)
    except meanfield.NoFixedPointError:
        return None


def _tangent_kernel(
    model: keras.Model, x: Any, weights: Any, draws: int
) -> tuple[float, float, str]:
    """(largest learning rate, condition number, why they are not known)."""
    if model.count_params() > _PARAMETERS_OF_NTK:
        return math.nan, math.nan, f"the NTK is left out above {_PARAMETERS_OF_NTK:,} weights"
    x = _inputs.take(x, np.arange(min(_INPUTS_OF_NTK, _inputs.length(x))))
    try:
        if draws:
            model = _copies.copy_of(model)
            model.set_weights(weights)
        largest = empirical.lambda_max(model, x)
        condition = kernels.spectrum(empirical.ntk(model, x)).condition_number
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        return math.nan, math.nan, f"the NTK is not known: {error}"
    return 2 / largest if largest > 0 else math.inf, float(condition), ""
