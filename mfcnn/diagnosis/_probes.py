"""One forward and one backward pass of any Keras model, with a probe at each layer.

A probe is the identity; its gradient function writes down the gradient that comes back, so that
the tape is asked for the gradients of weights and inputs alone. The model is not changed: for the
time of the pass the weights are other tensors (`keras.StatelessScope`), and the layers' methods are
wrapped, one object at a time.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import borrowed
from mfcnn.diagnosis import _signals, _walk

__all__ = ["Probe", "measure"]

L = keras.layers
# Layers that are one function of each value.
_POINTWISE = (L.Activation, L.ReLU, L.LeakyReLU, L.ELU, L.PReLU)


@dataclasses.dataclass
class Probe:
    """What one call of a layer showed; NaN where there is nothing to see.

    Attributes:
        layer: the layer or operation.
        occurrence: 0 at its first call in this pass, 1 at its second ...
        shape: of the signal for one input: the pre-activations, where the layer has an activation
            of its own, and else its output.
        mean: of the signal, over inputs, positions and units.
        variance: its mean square.
        correlation: the mean over pairs of inputs of (z z') / (|z| |z'|).
        gradient: squared norm, over units and positions, of the gradient by the signal, mean over
            the inputs, for a random cotangent of squared norm one at the model's outputs.
        weight_gradient: squared norm of the gradient by the layer's own weights, by input.
        dead: share of the units that are zero for the whole batch, behind an activation.
        saturated: share of the values where a bounded activation is flat.
    """

    layer: Any
    occurrence: int
    shape: tuple[int, ...] = ()
    mean: float = np.nan
    variance: float = np.nan
    correlation: float = np.nan
    gradient: float = np.nan
    weight_gradient: float = np.nan
    dead: float = np.nan
    saturated: float = np.nan


def measure(
    model: keras.Model, x: Any, weights: list[np.ndarray], seed: int, training: bool
) -> list[Probe]:
    """What each layer shows, in the order of the calls.

    Args:
        model: a built model.
        x: its inputs, as tensors in its own structure.
        weights: a value for each of `model.weights`.
        seed: of the cotangents.
        training: whether batch normalization takes the statistics of the batch.
    """
    mapping = [(v, tf.convert_to_tensor(w, v.dtype)) for v, w in zip(model.weights, weights)]
    trained = {id(v): value for v, value in mapping if v.trainable and _floats(value)}
    inputs = [leaf for leaf in keras.tree.flatten(x) if _floats(leaf)]
    watched = [*trained.values(), *inputs]
    recorder = _Recorder(model, keras.tree.flatten(x)[0].shape[0], training)
    with recorder.attached(), keras.StatelessScope(state_mapping=mapping):
        with tf.GradientTape() as tape:
            tape.watch(watched)
            with recorder.under(tape):
                outputs = model(x, training=False)
                total = _against_cotangents(outputs, seed)
        gradients = tape.gradient(total, watched)
    squares = {key: _square(g) for key, g in zip(trained, gradients)}
    for probe in recorder.probes:
        if isinstance(probe.layer, keras.Layer) and not _walk.has_inside(probe.layer):
            own_weights = [id(v) for v in probe.layer.trainable_variables if id(v) in squares]
            if own_weights:
                probe.weight_gradient = sum(squares[key] for key in own_weights) / recorder.length
    return recorder.probes


def _floats(x: Any) -> bool:
    return tf.is_tensor(x) and x.dtype.is_floating


def _square(gradient: Any) -> float:
    """The squared norm; no gradient is zero."""
    if gradient is None:
        return 0.0
    return float(np.sum(np.square(_signals.numbers(gradient))))


def _against_cotangents(outputs: Any, seed: int) -> tf.Tensor:
    """The sum of outputs times normal numbers of squared norm one for each input in the mean."""
    floats = [leaf for leaf in keras.tree.flatten(outputs) if _floats(leaf)]
    if not floats:
        raise ValueError("model must have outputs of real numbers. Received: none")
    total = tf.zeros([], tf.float64)
    for index, leaf in enumerate(floats):
        entries = max(1, int(np.prod(leaf.shape[1:]))) * len(floats)
        normal = tf.random.stateless_normal(leaf.shape, [seed, index], dtype=tf.float64)
        total += tf.reduce_sum(tf.cast(leaf, tf.float64) * normal / np.sqrt(entries))
    return total


class _Recorder:
    """Wraps the layers of a model and keeps what their probes see.

    Attributes:
        probes: in the order in which the calls end.
        length: the number of inputs.
    """

    def __init__(self, model: keras.Model, length: int, training: bool) -> None:
        self.probes: list[Probe] = []
        self.length = length
        self._model, self._training = model, training
        self._last = _walk.output_operations(model)
        self._seen: dict[int, int] = {}
        self._before: dict[int, Probe] = {}  # probes at the activation of a call in progress
        self._tape: Any = None

    @contextlib.contextmanager
    def under(self, tape: tf.GradientTape) -> Iterator[None]:
        """While this tape records."""
        self._tape = tape
        yield
        self._tape = None

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Wraps every layer that is looked at, and takes the wraps off again."""
        with contextlib.ExitStack() as stack:
            for layer in _walk.leaves(self._model, and_outer=True):
                stack.enter_context(_walk.replaced(layer, "call", self._call_of(layer)))
                function = vars(layer).get("activation")
                if callable(function) and not isinstance(layer, _walk.OPAQUE):
                    wrapped = self._activation_of(layer, function)
                    stack.enter_context(_walk.replaced(layer, "activation", wrapped))
            yield

    def _call_of(self, layer: Any) -> Callable:
        original = layer.call
        by_batch = isinstance(layer, L.BatchNormalization) and self._training and layer.trainable

        def call(*args: Any, **kwargs: Any) -> Any:
            self._before.pop(id(layer), None)
            if by_batch:
                kwargs["training"] = True
            if isinstance(layer, L.Softmax) and id(layer) in self._last:
                return self._finish(layer, args[0])
            outputs = original(*args, **kwargs)
            if isinstance(layer, (L.ReLU, L.LeakyReLU, L.ELU, L.PReLU)):
                return self._finish(layer, outputs, activated=outputs)
            return self._finish(layer, outputs)

        return call

    def _activation_of(self, layer: Any, function: Callable) -> Callable:
        """The activation with a probe in front; the last layer's softmax or sigmoid is left out."""
        left_out = id(layer) in self._last and function in _signals.TO_PROBABILITIES
        alone = isinstance(layer, _POINTWISE)

        def activation(z: Any, *args: Any, **kwargs: Any) -> Any:
            if not _floats(z):
                return function(z, *args, **kwargs)
            probe = Probe(layer, 0)
            if not alone and id(layer) not in self._before:
                z = self._watch(probe, z)
            self._before.setdefault(id(layer), probe)
            if left_out:
                return z
            outputs = function(z, *args, **kwargs)
            if function is not keras.activations.linear:
                probe.dead = _signals.dead(outputs)
                with self._tape.stop_recording():
                    probe.saturated = _signals.saturated(function, z)
            return outputs

        return activation

    def _finish(self, layer: Any, outputs: Any, activated: Any = None) -> Any:
        """Ends a call: the probe of its activation, or one at its first output."""
        probe = self._before.pop(id(layer), None) or Probe(layer, 0)
        probe.occurrence = self._seen.get(id(layer), 0)
        self._seen[id(layer)] = probe.occurrence + 1
        if activated is not None and _floats(activated):
            probe.dead = _signals.dead(activated)
        self.probes.append(probe)
        if probe.shape or np.isfinite(probe.variance):
            return outputs
        flat = keras.tree.flatten(outputs)
        place = next((i for i, leaf in enumerate(flat) if _floats(leaf)), None)
        if place is None:
            self.probes.pop()
            return outputs
        mask = borrowed.get_mask(flat[place])
        flat[place] = self._watch(probe, flat[place])
        if mask is not None:
            borrowed.set_mask(flat[place], mask)
        return keras.tree.pack_sequence_as(outputs, flat)

    def _watch(self, probe: Probe, z: tf.Tensor) -> tf.Tensor:
        """Writes down a signal, and its gradient when that comes back."""
        _signals.look(probe, _signals.numbers(z), self.length)
        probe.gradient = 0.0
        length = self.length

        @tf.custom_gradient
        def through(value: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                probe.gradient = _square(upstream) / length
                return upstream

            return tf.identity(value), gradient

        return through(z)
