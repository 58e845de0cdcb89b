"""The infinite-width kernel of a Keras model: its layers, read one by one.

Until the first layer with weights a tensor is data, and Keras's own layers act on it. From there on
it is a `_Signal`: the covariances of its channels, over pairs of positions and inputs.
"""

import os
from collections import namedtuple
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mfcnn import activations
from mfcnn.activations import dual as dual_lib
from mfcnn.activations import dual_numerical
from mfcnn.kernels import blocks, geometry, initialization
from mfcnn.kernels.networks import identities
from mfcnn.kernels.recursion import inverse, safe_sqrt

__all__ = ["from_keras"]


class _Signal(NamedTuple):
    """Covariances of a layer's output; batch axes last, positions as `geometry.mix` wants them.

    Attributes:
        rank: number of spatial axes.
        pairs: whether all pairs of positions are kept, or equal positions only.
        self1: kernel of each first input with itself, [*positions, n1].
        self2: the same of the second inputs, [*positions, n2].
        nngp: [*positions, n1, n2].
        ntk: likewise.
        same: whether first and second input are equal, [n1, n2].
        flat: whether the layer below was Flatten.
        fresh: whether only linear maps came after its last weights: then it is independent of all
            other signals, and of zero mean.
    """

    rank: int
    pairs: bool
    self1: tf.Tensor
    self2: tf.Tensor
    nngp: tf.Tensor
    ntk: tf.Tensor
    same: tf.Tensor
    flat: bool = False
    fresh: bool = False

    def map(self, function):
        """Applies a linear function to all four kernels."""
        kernels = (self.self1, self.self2, self.nngp, self.ntk)
        return self._replace(**dict(zip(("self1", "self2", "nngp", "ntk"), map(function, kernels))))

    def sizes(self):
        """The image's size."""
        step = 2 if self.pairs else 1
        return [int(self.nngp.shape[step * axis]) for axis in range(self.rank)]

    def variances(self, kernel):
        """The kernel at equal positions, [*spatial, ...]."""
        if not self.pairs or not self.rank:
            return kernel
        letters = "abc"[: self.rank]
        return tf.einsum(f"{''.join(c + c for c in letters)}...->{letters}...", kernel)


def from_keras(model):
    """The NNGP and NTK of a Keras model's architecture at infinite width.

    Widths (units, filters, the channels between layers) go to infinity; sizes of images, windows
    and strides, paddings, activations and the graph stay. Variances come from the initializers:
    sigma_w^2 is an entry's variance times the fan in, and parameters count as NTK
    parameterization has them, W = sigma_w w / sqrt(fan_in) with w trained.

    Layers: InputLayer, Dense, Conv1D, Conv2D, Activation and activation arguments, ReLU, LeakyReLU,
    Flatten, GlobalAveragePooling, AveragePooling, ZeroPadding, Dropout, Add, nested models, mfcnn's
    own; before the first weights any layer without weights (Rescaling, Normalization, ...).

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
    kernel = _ModelKernel(model)
    kernel.check()
    return kernel


_NO_KERNEL = {
    "BatchNormalization": "its statistics couple the inputs of a batch",
    "LayerNormalization": "it divides by a random norm of the channels",
    "MaxPooling1D": "the maximum of Gaussian signals is not Gaussian in the next layer",
    "MaxPooling2D": "the maximum of Gaussian signals is not Gaussian in the next layer",
    "GlobalMaxPooling1D": "the maximum of Gaussian signals is not Gaussian in the next layer",
    "GlobalMaxPooling2D": "the maximum of Gaussian signals is not Gaussian in the next layer",
    "Softmax": "it couples the channels; take the kernel of the logits",
}
_POOLING = (
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "AveragePooling1D",
    "AveragePooling2D",
)
_IDENTITY = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianDropout", "Identity")


def _all_layers(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _all_layers(layer)
        else:
            yield layer


class _ModelKernel:
    """The kernel of a model; see `from_keras`."""

    def __init__(self, model):
        self._model = model
        # Pooling mixes positions, and so asks for the covariance of all pairs of them.
        self._pairs = any(type(layer).__name__ in _POOLING for layer in _all_layers(model))

    def check(self):
        """Runs the layers once on one small input, so that bad ones are named early."""
        shape = [1 if size is None else size for size in self._model.inputs[0].shape[1:]]
        x = np.random.default_rng(0).normal(size=[1, *shape])
        self._block(
            tf.constant(x), tf.constant(x), tf.zeros([1], tf.int32), tf.zeros([1], tf.int32)
        )

    def __call__(self, x1, x2=None, get=("nngp", "ntk"), *, progress=False, output_dir=None):
        """Evaluates the kernel; see `from_keras`."""
        fields = (get,) if isinstance(get, str) else tuple(get)
        if not fields or any(field not in ("nngp", "ntk") for field in fields):
            raise ValueError(f"get must be of ('nngp', 'ntk') or a tuple. Received: get={get!r}")
        expected = self._model.inputs[0].shape[1:]
        arrays = []
        for name, x in (("x1", x1), ("x2", x1 if x2 is None else x2)):
            x = tf.cast(tf.convert_to_tensor(x), tf.float64)
            if x.shape.rank != len(expected) + 1 or any(
                size is not None and size != n for size, n in zip(expected, x.shape[1:])
            ):
                raise ValueError(f"{name} must be [n, {expected}]. Received: shape={x.shape}")
            if not np.all(np.isfinite(x)):
                raise ValueError(f"{name} must be finite. Received NaN or infinite values.")
            arrays.append(x)
        first, second = arrays
        ids1, ids2 = identities(first, None if x2 is None else second)

        def block(rows, columns):
            nngp, ntk = self._block(
                tf.gather(first, rows),
                tf.gather(second, columns),
                tf.gather(ids1, rows),
                tf.gather(ids2, columns),
            )
            return nngp, ntk, tf.zeros([], tf.float64)

        positions = int(np.prod([size or 1 for size in expected[:-1]]))
        size = max(1, int(np.sqrt(2**20 / positions ** (2 if self._pairs else 1))))
        config = (self._model.to_json(), "from_keras")
        run = blocks.Run(config, progress, output_dir)
        n2 = None if x2 is None else second.shape[0]
        nngp, ntk, _ = run.grid(block, first.shape[0], n2, size, arrays)
        values = {"nngp": nngp, "ntk": ntk}
        for field in fields:
            if not np.all(np.isfinite(values[field])):
                raise OverflowError(f"the {field} of the model is not finite in float64")
        if isinstance(get, str):
            return values[get]
        return namedtuple("Kernels", fields)(*(values[field] for field in fields))

    def _block(self, x1, x2, ids1, ids2):
        same = tf.equal(ids1[:, None], ids2[None, :])
        result = _evaluate(self._model, (x1, x2), same, self._pairs)
        if not isinstance(result, _Signal):
            raise ValueError("model must have a layer with weights.")
        if result.rank and not result.flat:
            raise ValueError(
                "model must end in one output for each input (Flatten or pooling, then Dense). "
                f"Received: an output with positions {result.sizes()}"
            )
        return result.nngp, result.ntk


def _evaluate(model, value, same, pairs):
    """The output of a functional graph for its one input."""
    known: dict[int, Any] = {id(model.inputs[0]): value}

    def compute(tensor):
        if id(tensor) not in known:
            operation, index, _ = tensor._keras_history
            arguments = [compute(t) for t in operation._inbound_nodes[index].input_tensors]
            known[id(tensor)] = _apply(operation, arguments, same, pairs)
        return known[id(tensor)]

    return compute(model.outputs[0])


def _apply(layer, arguments, same, pairs):
    """One layer on data (a pair of tensors) or signals."""
    kind = type(layer).__name__
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        raise ValueError(_refusal(layer, "data_format must be 'channels_last'"))
    if isinstance(layer, keras.Model):
        return _evaluate(layer, arguments[0], same, pairs)
    if kind in _IDENTITY:
        return arguments[0]
    if kind in ("Dense", "Conv1D", "Conv2D", "PeriodicConvolution"):
        signal = _affine(layer, arguments[0], same, pairs)
        return _activate(layer, layer.activation, signal)
    if kind in ("DeepConvolution", "DeepDense"):
        return _stack(layer, arguments[0], same, pairs)
    if any(isinstance(argument, _Signal) for argument in arguments):
        return _apply_to_signals(layer, kind, arguments)
    if layer.weights and kind not in ("Normalization",):
        raise ValueError(_refusal(layer, "it has weights that this kernel does not know"))
    if kind == "Add":
        return tuple(tf.add_n(parts) for parts in zip(*arguments))
    with_dtype = [tf.cast(layer(tf.cast(x, layer.compute_dtype)), tf.float64) for x in arguments[0]]
    return tuple(with_dtype)


def _apply_to_signals(layer, kind, arguments):
    signal = arguments[0]
    if kind == "Add":
        if not all(isinstance(argument, _Signal) for argument in arguments):
            raise ValueError(_refusal(layer, "it adds the input itself to a random signal"))
        if sum(not argument.fresh for argument in arguments) > 1 or len(arguments) != len(
            {id(argument) for argument in arguments}
        ):
            reason = "its branches are correlated; all but one must end in weights of their own"
            raise ValueError(_refusal(layer, reason))
        fields = ("self1", "self2", "nngp", "ntk")
        sums = {f: tf.add_n([getattr(a, f) for a in arguments]) for f in fields}
        return signal._replace(**sums, fresh=all(argument.fresh for argument in arguments))
    if kind == "Flatten":
        return signal._replace(flat=True)
    if kind == "Activation":
        return _activate(layer, layer.activation, signal)
    if kind == "ReLU":
        if layer.max_value is not None or layer.threshold:
            raise ValueError(_refusal(layer, "it is a relu with a maximum or a threshold"))
        slope = float(layer.negative_slope)
        return _dual_step(signal, dual_lib.leaky_relu_dual(slope))
    if kind == "LeakyReLU":
        return _dual_step(signal, dual_lib.leaky_relu_dual(float(layer.negative_slope)))
    if kind.startswith("GlobalAveragePooling"):
        axes = list(range(2 * signal.rank))
        keep = layer.keepdims
        signal = signal.map(lambda k: tf.reduce_mean(k, axes, keepdims=keep))
        return signal if keep else signal._replace(rank=0)
    if kind in ("AveragePooling1D", "AveragePooling2D"):
        return _average_pool(layer, signal)
    if kind in ("ZeroPadding1D", "ZeroPadding2D"):
        margins = np.reshape(layer.padding, [signal.rank, 2])
        copies = 2 if signal.pairs else 1
        spatial = [list(m) for m in margins for _ in range(copies)]
        return signal.map(lambda k: tf.pad(k, spatial + [[0, 0]] * (k.shape.rank - len(spatial))))
    raise ValueError(_refusal(layer, _NO_KERNEL.get(kind, "it is not among the known layers")))


def _refusal(layer, reason):
    kind = type(layer).__name__
    return f"layer {layer.name!r} ({kind}) has no infinite-width kernel here: {reason}."


def _variances(layer, shape):
    weight, profile = initialization.weight_variance(layer, layer.kernel_initializer, shape)
    return weight, initialization.bias_variance(layer, layer.bias_initializer, shape[-1]), profile


def _affine(layer, value, same, pairs):
    """Dense or convolution, on data or on a signal."""
    shape = tuple(layer.kernel.shape)
    weight_variance, bias_variance, profile = _variances(layer, shape)
    dense = type(layer).__name__ == "Dense"
    if not isinstance(value, _Signal):
        value = _from_data(value, same, pairs)
    if dense:
        if value.flat:
            value = _read_flat(value)

        def mixed(kernel):
            return kernel

    else:
        if layer.groups != 1 or max(layer.dilation_rate) > 1:
            raise ValueError(_refusal(layer, "groups and dilation are not supported"))
        periodic = type(layer).__name__ == "PeriodicConvolution"
        padding = "circular" if periodic else layer.padding
        convolution = geometry.Convolution(profile, padding, tuple(layer.strides))

        def mixed(kernel):
            return geometry.mix(kernel, convolution, value.rank, pairs=value.pairs)

    return _affine_step(value, mixed, weight_variance, bias_variance)


def _affine_step(signal, mixed, weight_variance, bias_variance):
    averaged = signal.map(lambda kernel: weight_variance * mixed(kernel))
    nngp = averaged.nngp + bias_variance
    return averaged._replace(
        self1=averaged.self1 + bias_variance,
        self2=averaged.self2 + bias_variance,
        nngp=nngp,
        ntk=nngp + averaged.ntk,
        fresh=True,
    )


def _from_data(data, same, pairs):
    """The covariance over channels of inputs [n, *spatial, channels]."""
    x1, x2 = data
    rank = x1.shape.rank - 2
    first, second = "abc"[:rank], "abc"[:rank]
    if pairs:
        second = "uvw"[:rank]
    order = "".join(a + b for a, b in zip(first, second)) if pairs else first
    channels = x1.shape[-1]
    self1, self2 = (tf.einsum(f"i{first}z,i{second}z->{order}i", x, x) / channels for x in (x1, x2))
    nngp = tf.einsum(f"i{first}z,j{second}z->{order}ij", x1, x2) / channels
    return _Signal(rank, pairs, self1, self2, nngp, tf.zeros_like(nngp), same)


def _read_flat(signal):
    """The covariance over all positions and channels: the mean at equal positions."""
    axes = list(range(signal.rank))
    signal = signal.map(lambda kernel: tf.reduce_mean(signal.variances(kernel), axes))
    return signal._replace(rank=0, flat=False)


def _average_pool(layer, signal):
    """Averages over windows at both positions of a pair independently."""
    window = np.broadcast_to(layer.pool_size, [signal.rank])
    strides = tuple(int(s) for s in np.broadcast_to(layer.strides, [signal.rank]))
    uniform = np.full(window, 1 / np.prod(window))
    convolution = geometry.Convolution(uniform, layer.padding, strides)
    matrices = []
    for axis, size in enumerate(signal.sizes()):
        matrix = convolution.shifts(axis, size).sum(axis=0)
        matrices.append(matrix / matrix.sum(axis=1, keepdims=True))  # padding does not count

    def pool(kernel):
        for axis, matrix in enumerate(matrices):
            for position in (2 * axis, 2 * axis + 1):
                moved = tf.tensordot(tf.constant(matrix), kernel, [[1], [position]])
                kernel = tf.transpose(moved, _move_first_to(position, kernel.shape.rank))
        return kernel

    return signal.map(pool)


def _move_first_to(position, rank):
    order = list(range(1, rank))
    order.insert(position, 0)
    return order


def _activate(layer, function, signal):
    """An activation given by a layer's argument."""
    if function is None or function is keras.activations.linear:
        return signal
    try:
        activation = activations.get(function)
    except (TypeError, ValueError) as error:
        reason = f"its activation {function!r} is not known: {error}"
        raise ValueError(_refusal(layer, reason)) from error
    return _dual_step(signal, _dual(activation, signal))


def _dual(activation, signal):
    dual = dual_lib.closed_form_dual(activation)
    if dual is None:
        variances = [signal.variances(kernel) for kernel in (signal.self1, signal.self2)]
        table = dual_numerical.build_table(activation, *blocks.extremes(*variances))
        dual = dual_numerical.TabulatedDual(table, tf.float64)
    return dual


def _dual_step(signal, dual):
    """The dual maps on all kernels of a signal."""
    q1, q2 = signal.variances(signal.self1), signal.variances(signal.self2)
    rank = signal.rank

    def layout(q, second, batch_axes):
        if signal.pairs:
            order = (1, -1) if second else (-1, 1)
            shape = [s for n in q.shape[:rank] for s in (n if o == -1 else 1 for o in order)]
        else:
            shape = list(q.shape[:rank])
        return tf.reshape(q, shape + batch_axes)

    def maps(kernel, left, right, same):
        left, right, same = (_expand(t, kernel.shape) for t in (left, right, same))
        root = safe_sqrt(left) * safe_sqrt(right)
        gap = tf.clip_by_value((root - kernel) * inverse(root), 0, 2)
        gap = tf.where(same, tf.zeros_like(gap), gap)
        output_gap, slope = dual.pair(dual.side(left), dual.side(right), gap)
        scale = safe_sqrt(dual.moments(left)[0]) * safe_sqrt(dual.moments(right)[0])
        return scale * (1 - output_gap), slope

    equal_position = np.ones([])
    for size in signal.sizes():
        equal_position = np.multiply.outer(
            equal_position, np.eye(size) if signal.pairs else np.ones(size)
        )
    equal_position = tf.constant(equal_position > 0)
    n1, n2 = signal.nngp.shape[-2:]
    selves = []
    for kernel, q, n in ((signal.self1, q1, n1), (signal.self2, q2, n2)):
        sides = layout(q, False, [n]), layout(q, True, [n])
        selves.append(maps(kernel, *sides, equal_position[..., None])[0])
    same = tf.logical_and(equal_position[..., None, None], signal.same)
    nngp, slope = maps(signal.nngp, layout(q1, False, [n1, 1]), layout(q2, True, [1, n2]), same)
    return signal._replace(
        self1=selves[0], self2=selves[1], nngp=nngp, ntk=slope * signal.ntk, fresh=False
    )


def _expand(tensor, shape):
    """Broadcasts axis by axis: TensorFlow's own broadcasting ends at patterns of five axes."""
    for axis, size in enumerate(shape):
        if tensor.shape[axis] != size:
            tensor = tf.gather(tensor, np.zeros(size, np.int32), axis=axis)
    return tensor


def _stack(layer, value, same, pairs):
    """`depth` equal layers as one loop."""
    if not isinstance(value, _Signal):
        value = _from_data(value, same, pairs)
    weight_variance, bias_variance, profile = _variances(layer, tuple(layer.kernel.shape[1:]))
    if type(layer).__name__ == "DeepConvolution":
        convolution = geometry.Convolution(profile, layer.padding, (1,) * profile.ndim)
    else:
        convolution = None
    activation = activations.get(layer.activation)

    def step(signal):
        def mixed(kernel):
            if convolution is None:
                return kernel
            return geometry.mix(kernel, convolution, signal.rank, pairs=signal.pairs)

        signal = _affine_step(signal, mixed, weight_variance, bias_variance)
        return _dual_step(signal, _dual(activation, signal))

    if dual_lib.closed_form_dual(activation) is None:
        # A table needs the variances of its layer as numbers.
        for _ in range(layer.depth):
            value = step(value)
        return value

    @tf.function(autograph=False)
    def loop(self1, self2, nngp, ntk, same):
        def body(layer_index, *kernels):
            signal = step(_Signal(value.rank, value.pairs, *kernels, same, value.flat))
            return (layer_index + 1, signal.self1, signal.self2, signal.nngp, signal.ntk)

        state = (tf.constant(0), self1, self2, nngp, ntk)
        return tf.while_loop(lambda index, *_: index < layer.depth, body, state)[1:]

    kernels = loop(value.self1, value.self2, value.nngp, value.ntk, value.same)
    return value._replace(**dict(zip(("self1", "self2", "nngp", "ntk"), kernels)), fresh=False)
