"""The infinite-width kernel of a Keras model: its layers, read one by one.

Until the first layer with weights a tensor is data, and Keras's own layers act on it. From there on
it is a `signals.Signal`: the covariances of its channels, over pairs of positions and inputs.
"""

import os
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mfcnn import activations
from mfcnn.activations import dual as dual_lib
from mfcnn.activations import dual_numerical
from mfcnn.kernels import _base, _geometry, _initial_variances, _signals

__all__ = ["from_keras"]


def from_keras(model):
    """The NNGP and NTK of a Keras model's architecture at infinite width.

    Widths (units, filters, the channels between layers) go to infinity; sizes of images, windows
    and strides, paddings, activations and the graph stay. Variances come from the initializers:
    sigma_w^2 is an entry's variance times the fan in, and parameters count as NTK
    parameterization has them, W = sigma_w w / sqrt(fan_in) with w trained. Layers that are not
    trainable add nothing to the NTK.

    Layers: InputLayer, Dense, Conv1D, Conv2D, Activation and activation arguments (any smooth
    function), ReLU, LeakyReLU, Flatten, GlobalAveragePooling, AveragePooling, ZeroPadding, Dropout,
    Rescaling, Add (also written a + b), nested models, mfcnn's own; before the first weights any
    layer without weights (Normalization, Concatenate, MaxPooling, ...). What is added must be
    independent, and between two activations there must be weights: else it is not Gaussian.

    Args:
        model: a built Sequential or functional `keras.Model` with one input and one output, or the
            path of a `.keras` file.

    Returns:
        A callable kernel(x1, x2=None, get=("nngp", "ntk")) of the model's inputs, with results in
        float64 [n1, n2] as of `fully_connected`, and arguments progress and output_dir.

    Raises:
        ValueError: for a layer that has no infinite-width kernel; the message names it and why.
        TypeError: if model is neither a Keras model nor a path.
    """
    if isinstance(model, (str, os.PathLike)):
        model = keras.saving.load_model(model, compile=False)
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model or the path of one. Received: {model!r}")
    if not model.built or not getattr(model, "inputs", None):
        raise ValueError("model must be built with a known input: give it an Input layer.")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            f"model must have one input and one output. Received: {len(model.inputs)} and "
            f"{len(model.outputs)}"
        )
    result = _ModelKernel(model)
    result.check()
    return result


_NO_KERNEL = {
    "BatchNormalization": "its statistics couple the inputs of a batch",
    "LayerNormalization": "it divides by a random norm of the channels",
    "MaxPooling1D": "the maximum of Gaussian signals is not Gaussian in the next layer",
    "MaxPooling2D": "the maximum of Gaussian signals is not Gaussian in the next layer",
    "GlobalMaxPooling1D": "the maximum of Gaussian signals is not Gaussian in the next layer",
    "GlobalMaxPooling2D": "the maximum of Gaussian signals is not Gaussian in the next layer",
    "Softmax": "it couples the channels; take the kernel of the logits",
}
_AFFINE = ("Dense", "Conv1D", "Conv2D", "PeriodicConvolution", "NTKDense", "NTKConvolution")
_STACKS = ("DeepConvolution", "DeepDense")
_TRACE_FROM = 100  # layers from which a graph, seconds to trace, pays for itself
_POOLING = (
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "AveragePooling1D",
    "AveragePooling2D",
)
_IDENTITY = (
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
)


def _all_layers(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _all_layers(layer)
        else:
            yield layer


class _ModelKernel(_base.Kernel):
    """The kernel of a model; see `from_keras`."""

    _name = "from_keras"

    def __init__(self, model):
        self.model = model
        self._loops = {}
        # Pooling mixes positions, and so asks for the covariance of all pairs of them.
        self._pairs = any(type(layer).__name__ in _POOLING for layer in _all_layers(model))

    def check(self):
        """Runs the layers once on one small input, so that bad ones are named early."""
        shape = [16 if size is None else size for size in self.model.inputs[0].shape[1:]]
        x = np.random.default_rng(0).normal(size=[1, *shape])
        x, ids = tf.constant(x), tf.zeros([1], tf.int32)
        self._block(x, x, ids, ids, loops=None)

    def _check(self, name, x):
        expected = self.model.inputs[0].shape[1:]
        if (
            0 in x.shape
            or x.shape.rank != len(expected) + 1
            or any(size is not None and size != n for size, n in zip(expected, x.shape[1:]))
        ):
            raise ValueError(
                f"{name} must be inputs of the model, each of shape {tuple(expected)}, and not "
                f"empty. Received: {name}.shape={x.shape}"
            )

    def _evaluate(self, x1, x2, scaled, run):
        second = x1 if x2 is None else x2
        ids1, ids2 = _base.identities(x1, x2)

        def block(rows, columns):
            nngp, ntk = self._block(
                tf.gather(x1, rows),
                tf.gather(second, columns),
                tf.gather(ids1, rows),
                tf.gather(ids2, columns),
                self._loops,
            )
            return nngp, ntk, tf.zeros([], tf.float64)

        positions = int(np.prod(x1.shape[1:-1]))
        size = max(1, int(np.sqrt(2**18 / positions ** (2 if self._pairs else 1))))
        return run.grid(block, x1.shape[0], None if x2 is None else x2.shape[0], size)

    def _block(self, x1, x2, ids1, ids2, loops):
        same = tf.equal(ids1[:, None], ids2[None, :])
        context = _Context(same, self._pairs, loops)
        result = _evaluate(self.model, (x1, x2), context)
        if not isinstance(result, _signals.Signal):
            raise ValueError("model must have a layer with weights.")
        if result.rank:
            raise ValueError(
                "model must end in one output for each input (Flatten or pooling, then Dense). "
                f"Received: an output with positions {result.sizes()}"
            )
        return result.nngp, result.ntk


class _Context(NamedTuple):
    """What one evaluation of a model's layers shares.

    Attributes:
        same: whether first and second input are equal, [n1, n2].
        pairs: whether all pairs of positions are kept.
        loops: compiled loops of the stacks, by layer; None to read one layer of each only.
    """

    same: tf.Tensor
    pairs: bool
    loops: dict | None


def _evaluate(model, value, context):
    """The output of a functional graph for its one input."""
    known: dict[int, Any] = {id(model.inputs[0]): value}
    # A stack of our own: a model may be deeper than Python's recursion.
    waiting = [model.outputs[0]]
    while waiting:
        tensor = waiting[-1]
        operation, index, _ = tensor._keras_history
        node = operation._inbound_nodes[index]
        inputs = node.input_tensors
        missing = [t for t in inputs if id(t) not in known]
        if id(tensor) in known or not missing:
            waiting.pop()
            if id(tensor) not in known:
                arguments = [known[id(t)] for t in inputs]
                known[id(tensor)] = _apply(operation, node, arguments, context)
        waiting.extend(missing)
    return known[id(model.outputs[0])]


def _apply(layer, node, arguments, context):
    """One layer on data (a pair of tensors) or signals."""
    kind = type(layer).__name__
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        raise ValueError(_refusal(layer, "data_format must be 'channels_last'"))
    if isinstance(layer, keras.Model):
        return _evaluate(layer, arguments[0], context)
    if kind in _IDENTITY:
        return arguments[0]
    if kind in _AFFINE or kind in _STACKS:
        signal = arguments[0]
        if not isinstance(signal, _signals.Signal):
            signal = _signals.from_data(*signal, context.same, context.pairs)
        if id(layer) in signal.ancestors:
            raise ValueError(_refusal(layer, "its weights are used twice on one path"))
        if kind in _STACKS:
            return _stack(layer, signal, context)
        return _activate(layer, layer.activation, _affine(layer, signal))
    if any(isinstance(argument, _signals.Signal) for argument in arguments):
        return _apply_to_signals(layer, kind, arguments)
    if getattr(layer, "weights", ()) and kind != "Normalization":
        raise ValueError(_refusal(layer, "it has weights that this kernel does not know"))
    training = {"training": False} if getattr(layer, "_call_has_training_arg", False) else {}
    results = []
    for tensors in zip(*arguments):
        tensors = (tf.cast(x, getattr(layer, "compute_dtype", x.dtype)) for x in tensors)
        known = {id(symbol): value for symbol, value in zip(node.input_tensors, tensors)}
        args, kwargs = node.arguments.fill_in(known)
        results.append(tf.cast(layer(*args, **kwargs | training), tf.float64))
    return tuple(results)


def _apply_to_signals(layer, kind, arguments):
    if kind == "Add":
        if len(arguments) < 2 or not all(isinstance(a, _signals.Signal) for a in arguments):
            raise ValueError(_refusal(layer, "it adds data or a constant to a random signal"))
        if len({argument.nngp.shape for argument in arguments}) > 1:
            raise ValueError(_refusal(layer, "its branches have different sizes"))
        total = _signals.add(arguments)
        if total is None:
            reason = "its branches are correlated; all but one must end in weights of their own"
            raise ValueError(_refusal(layer, reason))
        return total
    if len(arguments) > 1:
        raise ValueError(_refusal(layer, "of layers that join signals only Add is known"))
    (signal,) = arguments
    if kind == "Flatten":
        return signal._replace(flat=True)
    if kind == "Activation":
        return _activate(layer, layer.activation, signal)
    if kind == "ReLU" and (layer.max_value is not None or layer.threshold):
        raise ValueError(_refusal(layer, "it is a relu with a maximum or a threshold"))
    if kind in ("ReLU", "LeakyReLU"):
        _check_gaussian(layer, signal)
        return _signals.activate(signal, dual_lib.leaky_relu_dual(float(layer.negative_slope)))
    if kind == "Rescaling":
        if np.any(layer.offset) or np.ndim(layer.scale):
            raise ValueError(_refusal(layer, "behind weights it may have one scale and no offset"))
        return signal.map(lambda kernel: layer.scale**2 * kernel)
    if kind.startswith("GlobalAveragePooling"):
        axes = list(range(2 * signal.rank))
        keep = layer.keepdims
        signal = signal.map(lambda k: tf.reduce_mean(k, axes, keepdims=keep))
        return signal if keep else signal._replace(rank=0)
    if kind in ("AveragePooling1D", "AveragePooling2D"):
        window, strides = (
            tuple(int(n) for n in np.broadcast_to(sizes, [signal.rank]))
            for sizes in (layer.pool_size, layer.strides)
        )
        return _signals.average_pool(signal, window, strides, layer.padding)
    if kind in ("ZeroPadding1D", "ZeroPadding2D"):
        return _signals.pad(signal, np.reshape(layer.padding, [signal.rank, 2]))
    raise ValueError(_refusal(layer, _NO_KERNEL.get(kind, "it is not among the known layers")))


def _refusal(layer, reason):
    kind = type(layer).__name__
    return f"layer {layer.name!r} ({kind}) has no infinite-width kernel here: {reason}."


def _variances(layer, shape):
    """sigma_w^2, sigma_b^2 and the variance profile of a layer."""
    if type(layer).__name__.startswith("NTK"):
        profile = np.full(shape[:-2], 1 / np.prod(shape[:-2]))
        return layer.weight_variance, layer.bias_variance, profile
    weight, profile = _initial_variances.weight_variance(layer, layer.kernel_initializer, shape)
    return (
        weight,
        _initial_variances.bias_variance(layer, layer.bias_initializer, shape[-1]),
        profile,
    )


def _affine(layer, signal):
    """Dense or convolution."""
    weight_variance, bias_variance, profile = _variances(layer, tuple(layer.kernel.shape))
    convolution = None
    if profile.ndim:
        if getattr(layer, "groups", 1) != 1 or np.max(getattr(layer, "dilation_rate", 1)) > 1:
            raise ValueError(_refusal(layer, "groups and dilation are not supported"))
        padding = "circular" if type(layer).__name__ == "PeriodicConvolution" else layer.padding
        if padding == "causal":
            signal, padding = _signals.pad(signal, [[profile.size - 1, 0]]), "valid"
        strides = tuple(getattr(layer, "strides", (1,) * profile.ndim))
        convolution = _geometry.Convolution(profile, padding, strides)
    return _signals.affine(
        signal, weight_variance, bias_variance, id(layer), convolution, layer.trainable
    )


def _activate(layer, function, signal):
    """An activation given by a layer's argument."""
    if function in (None, "linear", keras.activations.linear, activations.get("linear")):
        return signal
    _check_gaussian(layer, signal)
    try:
        activation = _activation(function)
        return _signals.activate(signal, _signals.dual_of(activation, signal))
    except (TypeError, ValueError) as error:
        reason = f"its activation {function!r} has no dual maps: {error}"
        raise ValueError(_refusal(layer, reason)) from error


def _check_gaussian(layer, signal):
    if signal.terms is None:
        reason = "its input is not Gaussian: between two activations there must be weights"
        raise ValueError(_refusal(layer, reason))


def _activation(function):
    """The `Activation` of a known function, or one with the derivative that TensorFlow finds."""
    try:
        return activations.get(function)
    except TypeError:
        if not callable(function):
            raise
    x = tf.constant([[-1.3, 0.4, 2.0]], tf.float64)
    if not np.allclose(function(x)[0, :1], function(x[:, :1])[0], rtol=1e-9):
        raise ValueError("it couples the channels")

    def derivative(z):
        z = tf.convert_to_tensor(z)
        with tf.GradientTape() as tape:
            tape.watch(z)
            y = function(z)
        return tape.gradient(y, z)

    return activations.Activation(function, derivative)


def _stack(layer, signal, context):
    """`depth` equal layers as one loop."""
    weight_variance, bias_variance, profile = _variances(layer, tuple(layer.kernel.shape[1:]))
    convolution, share = None, 1.0
    if profile.ndim:
        convolution = _geometry.Convolution(profile, layer.padding, (1,) * profile.ndim)
        ones = tf.ones([*signal.sizes(), 1], tf.float64)
        share = float(tf.reduce_min(_geometry.mix(ones, convolution, profile.ndim, pairs=False)))

    def affine(value):
        return _signals.affine(
            value, weight_variance, bias_variance, id(layer), convolution, layer.trainable
        )

    signal = affine(signal)
    activation = activations.get(layer.activation)
    closed_form = dual_lib.closed_form_dual(activation)
    table = ()
    if closed_form is None:
        # One table for the variances of all layers.
        ranges = dual_numerical.variance_ranges(
            activation,
            *_signals.extremes(signal),
            layer.depth,
            weight_variance,
            bias_variance,
            share,
        )
        lows, highs = zip(*ranges)
        table = dual_numerical.build_table(activation, min(lows), max(highs))

    count = 0 if context.loops is None else layer.depth - 1

    def run(kernels, same, table):
        dual = closed_form or dual_numerical.TabulatedDual(table, tf.float64)

        def body(index, *kernels):
            value = signal._replace(same=same).with_kernels(kernels)
            return (index + 1, *affine(_signals.activate(value, dual)).kernels)

        return tf.while_loop(lambda i, *_: i < count, body, (tf.constant(0), *kernels))[1:]

    if count > _TRACE_FROM:
        run = context.loops.setdefault(layer, tf.function(run, autograph=False))
    signal = signal.with_kernels(run(signal.kernels, signal.same, table))
    dual = closed_form or dual_numerical.TabulatedDual(table, tf.float64)
    return _signals.activate(signal, dual)
