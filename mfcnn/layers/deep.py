"""Deep stacks of equal layers as one Keras layer: stacked weights, one loop over depth."""

import math

import keras
import tensorflow as tf

# Whether XLA compiles the function being traced: Keras turns XLA on by itself, in `compile`.
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from mfcnn import initializers
from mfcnn.layers.activated import ActivatedLayer
from mfcnn.layers.convolution import FORMS, PADDINGS, convolve
from mfcnn.layers.deep_loop import DeepLoop
from mfcnn.layers.memory import DEFAULT_BUDGET, choose_checkpoint_levels
from mfcnn.layers.periodic import PeriodicConvolution

__all__ = ["DeepConvolution", "DeepDense", "xla_is_faster"]

# Elements of an activation from which the library's convolution beats XLA on a CPU, measured by
# benchmarks/convolution_forms.py: below, what an op costs beside its arithmetic decides.
_XLA_MAX_ELEMENTS = 2**14

# Elements of a stack that Keras saves in one piece, for which it holds several copies in memory.
_PIECE = 2**26


class _DeepStack(ActivatedLayer):
    """`depth` times (affine map, activation); a subclass gives the affine map."""

    def __init__(
        self,
        depth,
        activation="tanh",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        checkpoint_levels=None,
        memory_budget=DEFAULT_BUDGET,
        jit_compile=False,
        bias_scale=1.0,
        unroll=1,
        **kwargs,
    ):
        super().__init__(activation, **kwargs)
        if not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
            raise ValueError(f"depth must be an integer of at least 1. Received: depth={depth!r}")
        if checkpoint_levels not in (None, 0, 1, 2):
            raise ValueError(
                "checkpoint_levels must be None (choose by memory), 0 (keep all), 1 or 2. "
                f"Received: checkpoint_levels={checkpoint_levels!r}"
            )
        if not (isinstance(bias_scale, (int, float)) and 0 < bias_scale < math.inf):
            raise ValueError(f"bias_scale must be positive. Received: bias_scale={bias_scale!r}")
        if not isinstance(unroll, int) or isinstance(unroll, bool) or unroll < 1:
            raise ValueError(f"unroll must be an integer of at least 1. Received: unroll={unroll}")
        self.depth = depth
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.checkpoint_levels = checkpoint_levels
        self.memory_budget = memory_budget
        self.jit_compile = jit_compile
        self.bias_scale = bias_scale
        self.unroll_layers = unroll

    def _build_stack(self, input_shape, kernel_shape, bias_shape):
        self._input_shape = tuple(input_shape)
        # Not cast as a whole under a mixed precision policy: the loop casts layer by layer.
        self.kernel = self._add_stack("kernel", kernel_shape, self.kernel_initializer)
        self.bias = None
        if self.use_bias:
            self.bias = self._add_stack(
                "bias", bias_shape, self.bias_initializer, 1 / self.bias_scale
            )
        self._loops = {}

    def _add_stack(self, name, shape, initializer, factor=1.0):
        def draw(stacked_shape, dtype=None):
            drawn = initializers.stack_initializer(initializer, self.depth, shape, dtype)
            return drawn if factor == 1 else factor * drawn

        stacked_shape = (self.depth, *shape)
        return self.add_weight(shape=stacked_shape, initializer=draw, name=name, autocast=False)

    def _affine(self, state, parameters):
        (x,) = state
        kernel, *bias = (tf.cast(p, x.dtype) for p in parameters)
        z = self._linear(x, kernel)
        return (z + self.bias_scale * bias[0],) if bias else (z,)

    def call(self, x):
        """Applies the stack; the shape stays."""
        parameters = tuple(tf.convert_to_tensor(v) for v in self.stacked_variables)
        return self.loop_for(x)((x,), parameters)[0]

    def loop_for(self, x):
        """The `DeepLoop` that runs this stack on an input, its checkpoints chosen by memory."""
        levels = self.checkpoint_levels
        if levels is None:
            size = x.shape.num_elements()
            # A batch of unknown size: the square root of the depth is never far off.
            levels = 1 if size is None else choose_checkpoint_levels(
                self.depth, size * x.dtype.size, self.memory_budget
            )  # fmt: skip
        # A loop keeps its traces, and XLA's have another form of the convolution.
        key = (levels, _compiled_by_xla())
        if key not in self._loops:
            self._loops[key] = DeepLoop(
                self._affine,
                lambda z: (self._phi(z[0]),),
                checkpoint_levels=levels,
                jit_compile=self.jit_compile,
                unroll=self.unroll_layers,
            )
        return self._loops[key]

    @property
    def stacked_variables(self):
        """The tf.Variables stacked over the layers: kernels, and biases if there are."""
        return tuple(weight.value for weight in (self.kernel, self.bias) if weight is not None)

    def unroll(self):
        """The same network as a `keras.Sequential` of `depth` stock layers, weights copied.

        For other tools, and for depths that Keras can hold: it refuses about 1,000 layers.
        """
        layers = [self._stock_layer(f"{self.name}_{layer}") for layer in range(self.depth)]
        model = keras.Sequential([keras.Input(self._input_shape[1:]), *layers])
        for index, layer in enumerate(layers):
            layer.set_weights(self.get_layer_weights(index))
        return model

    def compute_output_shape(self, input_shape):
        """The input's shape."""
        return input_shape

    def get_layer_weights(self, layer):
        """The kernel and the bias of one layer as NumPy arrays; the bias with its scale."""
        factors = (1, self.bias_scale)
        return [
            factor * keras.ops.convert_to_numpy(w.value[layer])
            for w, factor in zip(self.weights, factors)
        ]

    def set_layer_weights(self, layer, values):
        """Sets the kernel and the bias of one layer from arrays, in `get_layer_weights`'s order.

        Raises:
            ValueError: if the number of arrays or a shape differs, or there is no such layer.
        """
        shapes = [tuple(w.shape[1:]) for w in self.weights]
        if [tuple(getattr(v, "shape", ())) for v in values] != shapes:
            raise ValueError(
                f"values must have the shapes {shapes}. "
                f"Received: {[getattr(v, 'shape', ()) for v in values]}"
            )
        if not -self.depth <= layer < self.depth:
            raise ValueError(f"layer must be below depth={self.depth}. Received: layer={layer}")
        for weight, value, factor in zip(self.weights, values, (1, self.bias_scale)):
            weight.value[layer % self.depth].assign(tf.cast(value, weight.dtype) / factor)

    def save_own_variables(self, store):
        """Saves the stacks, large ones layers by layers: no second copy of one is made."""
        for index, weight in enumerate(self.weights):
            pieces = self._pieces(weight)
            if len(pieces) == 1:
                store[str(index)] = weight
                continue
            for layers in pieces:
                store[f"{index}_{layers[0]}"] = weight.value.sparse_read(tf.constant(layers))

    def load_own_variables(self, store):
        """Loads what `save_own_variables` saved."""
        if all(str(index) in store.keys() for index in range(len(self.weights))):
            super().load_own_variables(store)
            return
        for index, weight in enumerate(self.weights):
            if str(index) in store.keys():
                weight.assign(store[str(index)])
                continue
            for layers in self._pieces(weight):
                values = tf.convert_to_tensor(store[f"{index}_{layers[0]}"], weight.value.dtype)
                weight.value.scatter_update(tf.IndexedSlices(values, tf.constant(layers)))

    def _pieces(self, weight):
        """The layers of each piece in which a stack is saved: lists of indices."""
        size = max(_PIECE // math.prod(weight.shape[1:]), 1)
        return [
            list(range(start, min(start + size, self.depth)))
            for start in range(0, self.depth, size)
        ]

    def get_config(self):
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "depth": self.depth,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "checkpoint_levels": self.checkpoint_levels,
            "memory_budget": self.memory_budget,
            "jit_compile": self.jit_compile,
            "bias_scale": self.bias_scale,
            "unroll": self.unroll_layers,
        }


@keras.saving.register_keras_serializable(package="mfcnn")
class DeepConvolution(_DeepStack):
    """`depth` equal convolutions of stride 1, each followed by the activation.

    x_{l+1} = activation(kernel_l * x_l + bias_l) for l = 0 ... depth - 1, with height, width and
    number of channels kept (CNN paper, eq. 2.1 in two dimensions). The program's size, and so
    the time to compile it, does not depend on depth; the backward pass recomputes activations
    from checkpoints, see `mfcnn.layers.deep_loop`.

    Example:
        >>> start = mfcnn.initializers.ConvolutionDeltaOrthogonal()
        >>> deep = mfcnn.layers.DeepConvolution(100, 16, kernel_initializer=start)
        >>> deep(tf.zeros([32, 8, 8, 16])).shape
        TensorShape([32, 8, 8, 16])

    Args:
        depth: number of layers, at least 1.
        filters: channels of input and output.
        kernel_size: side of the square window.
        activation: a name known to `mfcnn.activations` or to Keras, or a callable on tensors.
        padding: "circular" or "same" (zeros).
        kernel_initializer: any Keras initializer, drawn independently for each layer.
        bias_initializer: the same for the biases.
        use_bias: whether there are biases.
        form: "library", "matmul" (see `mfcnn.layers.convolution`) or "auto", which takes
            "matmul" under XLA on a CPU, else "library".
        checkpoint_levels: 0 keeps every pre-activation for the backward pass, 1 of the order
            sqrt(depth), 2 of the order cbrt(depth). None takes the first of these that fits in
            memory_budget.
        memory_budget: bytes for kept pre-activations where checkpoint_levels is None.
        jit_compile: whether XLA compiles the two loops, also where the caller is not compiled.
        bias_scale: the trained variable is bias / bias_scale. Where the signal's variance q_star
            is small, sqrt(q_star) gives biases and kernels gradients of one order: with 1 the
            biases' part of the NTK is 1 / q_star times the kernels', and it alone decides which
            learning rate is stable.
        unroll: layers in one turn of the loops, for devices where a turn itself costs much.
        **kwargs: those of `keras.layers.Layer`.

    Input and output shape:
        [batch, height, width, filters].

    Raises:
        ValueError: for a depth or size below 1, an unknown padding or form, or an input whose
            channels are not `filters`.
    """

    def __init__(
        self,
        depth,
        filters,
        kernel_size=3,
        activation="tanh",
        padding="circular",
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        use_bias=True,
        form="auto",
        checkpoint_levels=None,
        memory_budget=DEFAULT_BUDGET,
        jit_compile=False,
        bias_scale=1.0,
        unroll=1,
        **kwargs,
    ):
        super().__init__(
            depth,
            activation,
            use_bias,
            kernel_initializer,
            bias_initializer,
            checkpoint_levels,
            memory_budget,
            jit_compile,
            bias_scale,
            unroll,
            **kwargs,
        )
        for name, value in (("filters", filters), ("kernel_size", kernel_size)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1. Received: {value!r}")
        for name, value, accepted in (
            ("padding", padding, PADDINGS),
            ("form", form, ("auto", *FORMS)),
        ):
            if value not in accepted:
                raise ValueError(f"{name} must be one of {accepted}. Received: {value!r}")
        self.filters = filters
        self.kernel_size = kernel_size
        self.padding = padding
        self.form = form

    def build(self, input_shape):
        """Makes the stacked kernels [depth, k, k, c, c] and biases [depth, c]."""
        if len(input_shape) != 4 or input_shape[-1] != self.filters:
            raise ValueError(
                f"DeepConvolution keeps the number of channels: it needs an input [batch, height, "
                f"width, filters={self.filters}]. Received: input_shape={input_shape}"
            )
        size = self.kernel_size
        self._build_stack(input_shape, (size, size, self.filters, self.filters), (self.filters,))

    def _linear(self, x, kernel):
        form = _fastest_form() if self.form == "auto" else self.form
        return convolve(x, kernel, self.padding, form)

    def _stock_layer(self, name):
        circular = self.padding == "circular"
        make = PeriodicConvolution if circular else keras.layers.Conv2D
        padding = {} if circular else {"padding": "same"}
        return make(
            self.filters,
            self.kernel_size,
            activation=self._phi,
            use_bias=self.use_bias,
            name=name,
            dtype=self.dtype_policy,
            **padding,
        )

    def get_config(self):
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "padding": self.padding,
            "form": self.form,
        }


@keras.saving.register_keras_serializable(package="mfcnn")
class DeepDense(_DeepStack):
    """`depth` equal dense layers of `units` units, each followed by the activation.

    x_{l+1} = activation(x_l kernel_l + bias_l); see `DeepConvolution` for the arguments.

    Input and output shape:
        [batch, ..., units].
    """

    def __init__(
        self,
        depth,
        units,
        activation="tanh",
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        use_bias=True,
        checkpoint_levels=None,
        memory_budget=DEFAULT_BUDGET,
        jit_compile=False,
        bias_scale=1.0,
        unroll=1,
        **kwargs,
    ):
        super().__init__(
            depth,
            activation,
            use_bias,
            kernel_initializer,
            bias_initializer,
            checkpoint_levels,
            memory_budget,
            jit_compile,
            bias_scale,
            unroll,
            **kwargs,
        )
        if not isinstance(units, int) or units < 1:
            raise ValueError(f"units must be an integer of at least 1. Received: {units!r}")
        self.units = units

    def build(self, input_shape):
        """Makes the stacked kernels [depth, units, units] and biases [depth, units]."""
        if input_shape[-1] != self.units:
            raise ValueError(
                f"DeepDense keeps the width: it needs an input [..., units={self.units}]. "
                f"Received: input_shape={input_shape}"
            )
        self._build_stack(input_shape, (self.units, self.units), (self.units,))

    def _linear(self, x, kernel):
        return tf.tensordot(x, kernel, axes=1)

    def _stock_layer(self, name):
        return keras.layers.Dense(
            self.units,
            activation=self._phi,
            use_bias=self.use_bias,
            name=name,
            dtype=self.dtype_policy,
        )

    def get_config(self):
        """The arguments of the constructor."""
        return {**super().get_config(), "units": self.units}


def _fastest_form():
    """The form of the convolution for the program that is being traced.

    XLA's own convolution on a CPU is ten to twenty times slower inside a loop than outside, a
    matrix product is not; uncompiled the library's is the faster at every size.
    """
    if tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"):
        return "library"
    return "matmul" if _compiled_by_xla() else "library"


def xla_is_faster(filters, positions):
    """Whether a step of a deep convolution is faster compiled by XLA.

    Args:
        filters: channels.
        positions: batch size of one replica times height times width.

    Returns:
        True on a GPU or TPU; on a CPU by a measured table (benchmarks/convolution_forms.py).
    """
    if tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"):
        return True
    return filters * positions < _XLA_MAX_ELEMENTS


def _compiled_by_xla():
    return GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
