"""Deep stacks of equal dense layers or convolutions as one Keras layer."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from mfcnn import activations, arguments, borrowed
from mfcnn.layers._activated import ActivatedLayer
from mfcnn.layers._convolution import FORMS, convolve, on_nonempty, padding_name
from mfcnn.layers._loop import DeepLoop
from mfcnn.layers._loop_tools import Tensors
from mfcnn.layers._periodic import PeriodicConvolution
from mfcnn.layers._stack import StackedLayer

__all__ = ["DeepConvolution", "DeepDense", "xla_is_faster"]

# Elements of an activation from which the library's convolution beats XLA on a CPU, measured by
# benchmarks/convolution_forms.py: below, what an op costs beside its arithmetic decides.
_XLA_MAX_ELEMENTS = 2**14

# Where one matrix between all positions is the fastest form under XLA, by the same benchmark: the
# batch has to outweigh the matrix, which each layer makes of its kernel.
_DENSE_MAX_POSITIONS, _DENSE_MIN_BATCH = 9, 16
_WIDE, _DENSE_MAX_POSITIONS_WIDE, _DENSE_MIN_BATCH_WIDE = 16, 4, 64  # from so many channels on


class _DeepStack(StackedLayer, ActivatedLayer):
    """`depth` times (affine map, activation); a subclass gives the affine map."""

    def __init__(
        self,
        depth: int,
        activation: Any,
        kernel_initializer: Any,
        bias_initializer: Any,
        use_bias: bool = True,
        bias_scale: float = 1.0,
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(depth=depth, activation=activation, **kwargs)
        self.use_bias = arguments.boolean("use_bias", use_bias)
        self.kernel_initializer = arguments.initializer("kernel_initializer", kernel_initializer)
        self.bias_initializer = arguments.initializer("bias_initializer", bias_initializer)
        self.bias_scale = arguments.number("bias_scale", bias_scale, above=0)
        self.kernel_regularizer = _regularizer("kernel_regularizer", kernel_regularizer)
        self.bias_regularizer = _regularizer("bias_regularizer", bias_regularizer)
        self.kernel_constraint = _constraint("kernel_constraint", kernel_constraint)
        self.bias_constraint = _constraint("bias_constraint", bias_constraint)

    def _build_stack(
        self, input_shape: Any, kernel_shape: tuple[int, ...], bias_shape: tuple[int, ...]
    ) -> None:
        self._input_shape = tuple(input_shape)
        self.kernel = self._add_stack(
            "kernel",
            kernel_shape,
            self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self._add_stack(
                "bias",
                bias_shape,
                self.bias_initializer,
                self.bias_scale,
                self.bias_regularizer,
                self.bias_constraint,
            )

    def _linear(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        raise NotImplementedError

    def _affine(self, state: Tensors, parameters: Tensors) -> Tensors:
        (x,) = state
        kernel, *bias = (tf.cast(p, x.dtype) for p in parameters)
        z = self._linear(x, kernel)
        return (z + self.bias_scale * bias[0],) if bias else (z,)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Applies the stack; the shape stays."""
        parameters = tuple(tf.convert_to_tensor(v) for v in self.stacked_variables)
        return self.loop_for(x)((x,), parameters)[0]

    def loop_for(self, x: tf.Tensor, whole: Callable[[Tensors], Tensors] | None = None) -> DeepLoop:
        """The `DeepLoop` that runs this stack on an input, its checkpoints chosen by memory.

        Args:
            x: the input.
            whole: function from what the loop holds of a layer to the layer's weights; None where
                it holds the weights themselves.
        """
        phi = self._phi

        def affine(state: Tensors, own: Tensors) -> Tensors:
            return self._affine(state, whole(own) if whole else own)

        def make(**options: Any) -> DeepLoop:
            return DeepLoop(affine, lambda z: (phi(z[0]),), **options)

        return self._loop((phi, whole), self._levels([x]), make)

    def _stock_options(self, name: str) -> dict[str, Any]:
        """What a stock layer takes from this one, but the shape of its kernel."""
        activation = self.activation
        if activation in activations.NAMES:
            activation = activations.keras_identifier(activations.get(activation))
        return {
            "activation": activation,
            "use_bias": self.use_bias,
            "kernel_regularizer": self.kernel_regularizer,
            "bias_regularizer": self.bias_regularizer,
            "kernel_constraint": self.kernel_constraint,
            "bias_constraint": self.bias_constraint,
            "name": name,
            "dtype": self.dtype_policy,
        }

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "bias_scale": self.bias_scale,
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }


@keras.saving.register_keras_serializable(package="mfcnn")
class DeepConvolution(_DeepStack):
    """`depth` equal convolutions of stride 1, each followed by the activation.

    x_{l+1} = activation(kernel_l * x_l + bias_l) for l = 0 ... depth - 1, with height, width and
    number of channels kept. The program's size, and so the time to compile it, does not depend on
    depth; the backward pass recomputes activations from checkpoints.

    Args:
        depth: number of layers, at least 1.
        filters: channels of input and output.
        kernel_size: side or sides of the window.
        activation: a name known to `mfcnn.activations` or to Keras, or a callable on tensors.
        padding: "circular" or "same" (zeros).
        kernel_initializer: any Keras initializer, drawn independently for each layer.
        bias_initializer: the same for the biases.
        use_bias: whether there are biases.
        form: "library" (TensorFlow's convolution), "matmul" (one matrix product of the window's
            entries), "dense" (one matrix between all positions, for images of a few pixels) or
            "auto": under XLA on a CPU "dense" up to 9 pixels and below 16 channels, or "matmul";
            else "library".
        **options: those of all looped layers:
            checkpoint_levels: 0 keeps every pre-activation for the backward pass, 1 of the order
            sqrt(depth), 2 of the order cbrt(depth); None, the default, takes the first of these
            that fits in memory_budget.
            memory_budget: bytes for kept pre-activations where checkpoint_levels is None.
            jit_compile: whether XLA compiles the two loops, also where the caller is not compiled.
            bias_scale: the trained variable is bias / bias_scale. Where the signal's variance
            q_star is small, sqrt(q_star) gives biases and kernels gradients of one order: with 1
            the biases' part of the NTK is 1 / q_star times the kernels', and it alone decides
            which learning rate is stable.
            unroll: layers in one turn of the loops, for devices where a turn itself costs much.
            kernel_regularizer, bias_regularizer, kernel_constraint, bias_constraint: Keras's,
            applied to each layer by itself.
            And those of `keras.layers.Layer`.

    Input shape:
        [batch, height, width, filters]; the sizes but filters may be unknown.

    Output shape:
        The input's.

    Raises:
        ValueError: for a depth or size below 1, an unknown padding or form, or an input whose
            channels are not `filters`.

    Example:
        >>> start = mfcnn.initializers.ConvolutionDeltaOrthogonal()
        >>> deep = mfcnn.layers.DeepConvolution(100, 16, kernel_initializer=start)
        >>> deep(tf.zeros([32, 8, 8, 16])).shape
        TensorShape([32, 8, 8, 16])

    Source: CNN paper, eq. 2.1, in two dimensions.
    """

    def __init__(
        self,
        depth: int,
        filters: int,
        kernel_size: int | Sequence[int] = 3,
        activation: Any = "tanh",
        padding: str = "circular",
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        use_bias: bool = True,
        form: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__(
            depth, activation, kernel_initializer, bias_initializer, use_bias, **options
        )
        self.filters = arguments.integer("filters", filters, 1)
        self.kernel_size = arguments.sizes("kernel_size", kernel_size, 2)
        self.padding = padding_name(padding)
        self.form = arguments.choice("form", form, ("auto", *FORMS))
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: self.filters})

    def build(self, input_shape: Any) -> None:
        """Makes the stacked kernels [depth, k, k, c, c] and biases [depth, c]."""
        if len(input_shape) != 4 or input_shape[-1] != self.filters:
            raise ValueError(
                f"DeepConvolution keeps the number of channels: it needs an input [batch, height, "
                f"width, filters={self.filters}]. Received: input_shape={input_shape}"
            )
        self._build_stack(
            input_shape, (*self.kernel_size, self.filters, self.filters), (self.filters,)
        )

    def _linear(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        form = _fastest_form(x.shape) if self.form == "auto" else self.form
        return convolve(x, kernel, self.padding, form)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Applies the stack; the shape stays."""
        return on_nonempty(super().call, x)

    def _stock_block(self, name: str) -> keras.layers.Layer:
        options = self._stock_options(name)
        if self.padding == "circular":
            return PeriodicConvolution(self.filters, self.kernel_size, **options)
        return keras.layers.Conv2D(
            self.filters, self.kernel_size, padding="same", data_format="channels_last", **options
        )

    def get_config(self) -> dict[str, Any]:
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

    x_{l+1} = activation(x_l kernel_l + bias_l) for l = 0 ... depth - 1.

    Args:
        depth: number of layers, at least 1.
        units: width of input and output.
        activation: a name known to `mfcnn.activations` or to Keras, or a callable on tensors.
        kernel_initializer: any Keras initializer, drawn independently for each layer.
        bias_initializer: the same for the biases.
        use_bias: whether there are biases.
        **options: those of all looped layers, see `DeepConvolution`.

    Input shape:
        [batch, ..., units].

    Output shape:
        The input's.

    Raises:
        ValueError: for a depth or units below 1, or an input of another width.

    Example:
        >>> deep = mfcnn.layers.DeepDense(1000, 32, kernel_initializer="orthogonal")
        >>> deep(tf.zeros([4, 32])).shape
        TensorShape([4, 32])
    """

    def __init__(
        self,
        depth: int,
        units: int,
        activation: Any = "tanh",
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        use_bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            depth, activation, kernel_initializer, bias_initializer, use_bias, **options
        )
        self.units = arguments.integer("units", units, 1)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: self.units})

    def build(self, input_shape: Any) -> None:
        """Makes the stacked kernels [depth, units, units] and biases [depth, units]."""
        if len(input_shape) < 2 or input_shape[-1] != self.units:
            raise ValueError(
                f"DeepDense keeps the width: it needs an input [..., units={self.units}]. "
                f"Received: input_shape={input_shape}"
            )
        self._build_stack(input_shape, (self.units, self.units), (self.units,))

    def _linear(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.tensordot(x, kernel, axes=1)

    def _stock_block(self, name: str) -> keras.layers.Layer:
        return keras.layers.Dense(self.units, **self._stock_options(name))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "units": self.units}


def _regularizer(name: str, value: Any) -> Any:
    get, accepted = keras.regularizers.get, "a Keras regularizer, its name or None"
    return arguments.interpreted(name, value, get, accepted)


def _constraint(name: str, value: Any) -> Any:
    get, accepted = keras.constraints.get, "a Keras constraint, its name or None"
    return arguments.interpreted(name, value, get, accepted)


def _accelerated() -> bool:
    return bool(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))


def _fastest_form(shape: tf.TensorShape) -> str:
    """The form of the convolution of images of a shape for the program that is being traced.

    XLA's own convolution on a CPU is ten to twenty times slower inside a loop than outside, a
    matrix product is not; uncompiled the library's is the faster at every size. Between few
    positions one matrix has no more entries than there are in the windows, and needs no copies.
    """
    if not borrowed.compiled_by_xla() or _accelerated():
        return "library"
    if None in shape:
        return "matmul"
    batch, height, width, filters = shape
    positions, images = _DENSE_MAX_POSITIONS, _DENSE_MIN_BATCH
    if filters >= _WIDE:
        positions, images = _DENSE_MAX_POSITIONS_WIDE, _DENSE_MIN_BATCH_WIDE
    return "dense" if height * width <= positions and batch >= images else "matmul"


def xla_is_faster(filters: int, positions: int) -> bool:
    """Whether a step of a deep convolution is faster compiled by XLA.

    Args:
        filters: channels.
        positions: batch size of one replica times height times width.

    Returns:
        True on a GPU or TPU; on a CPU by a measured table (benchmarks/convolution_forms.py).

    Raises:
        ValueError: for a number below 1.

    Example:
        >>> mfcnn.layers.xla_is_faster(16, 32 * 4)
        True
    """
    filters = arguments.integer("filters", filters, 1)
    positions = arguments.integer("positions", positions, 1)
    return _accelerated() or filters * positions < _XLA_MAX_ELEMENTS
