"""Dense and convolution layers in the NTK parameterization."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from mfcnn import arguments
from mfcnn.layers._activated import ActivatedLayer
from mfcnn.layers._convolution import on_nonempty, pad, padding_name, same_padding

__all__ = ["NTKConvolution", "NTKDense", "known_channels"]


class _NTKLayer(ActivatedLayer):
    """Standard normal weights, scaled in the forward pass; a subclass gives the linear map."""

    def __init__(
        self,
        activation: Any = None,
        weight_variance: float = 1.0,
        bias_variance: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(activation, **kwargs)
        self.weight_variance = arguments.variance("weight_variance", weight_variance)
        self.bias_variance = arguments.variance("bias_variance", bias_variance)
        self.seed = arguments.seed(seed)

    def _add_weights(self, kernel_shape: tuple[int, ...], fan_in: int) -> None:
        seeds = (None, None) if self.seed is None else (2 * self.seed, 2 * self.seed + 1)
        self._kernel_scale = math.sqrt(self.weight_variance / fan_in)
        self.kernel = self.add_weight(
            shape=kernel_shape,
            initializer=keras.initializers.RandomNormal(stddev=1.0, seed=seeds[0]),
            name="kernel",
        )
        self.bias = None
        if self.bias_variance > 0:
            self.bias = self.add_weight(
                shape=kernel_shape[-1:],
                initializer=keras.initializers.RandomNormal(stddev=1.0, seed=seeds[1]),
                name="bias",
            )

    def _linear(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        raise NotImplementedError

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """activation(sqrt(weight_variance / fan_in) kernel x + sqrt(bias_variance) bias)."""
        kernel = tf.convert_to_tensor(self.kernel)
        z = self._linear(x, kernel * tf.constant(self._kernel_scale, kernel.dtype))
        if self.bias is not None:
            bias = tf.convert_to_tensor(self.bias)
            z = z + bias * tf.constant(math.sqrt(self.bias_variance), bias.dtype)
        return self._phi(z)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "weight_variance": self.weight_variance,
            "bias_variance": self.bias_variance,
            "seed": self.seed,
        }


def known_channels(layer: keras.layers.Layer, input_shape: Any) -> int:
    if input_shape[-1] is None:
        raise ValueError(
            f"{type(layer).__name__} needs an input whose last axis has a known size. "
            f"Received: input_shape={input_shape}"
        )
    return int(input_shape[-1])


@keras.saving.register_keras_serializable(package="mfcnn")
class NTKDense(_NTKLayer):
    """y = activation(sqrt(weight_variance / fan_in) x w + sqrt(bias_variance) beta).

    w and beta are standard normal and trained, so that the tangent kernel converges to
    `mfcnn.kernels.fully_connected` as the width grows.

    Args:
        units: number of outputs.
        activation: a name known to `mfcnn.activations` or to Keras, a callable, or None.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2; at 0 there is no bias.
        seed: integer of at least 0; the same seed gives the same weights. None draws new ones,
            which follow `keras.utils.set_random_seed`.
        **kwargs: those of `keras.layers.Layer`.

    Input shape:
        [batch, ..., fan_in].

    Output shape:
        [batch, ..., units].

    Raises:
        ValueError: for units below 1 or a negative variance.

    Example:
        >>> layer = mfcnn.layers.NTKDense(4, "erf", weight_variance=1.5, bias_variance=0.1)
        >>> layer(tf.zeros([2, 3])).shape
        TensorShape([2, 4])

    Source: NTK paper, equation 1.
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        weight_variance: float = 1.0,
        bias_variance: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(activation, weight_variance, bias_variance, seed, **kwargs)
        self.units = arguments.integer("units", units, 1)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def build(self, input_shape: Any) -> None:
        """Makes w [fan_in, units] and beta [units]."""
        fan_in = known_channels(self, input_shape)
        self._add_weights((fan_in, self.units), fan_in)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: fan_in})

    def _linear(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.matmul(x, kernel) if x.shape.rank == 2 else tf.tensordot(x, kernel, axes=1)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """[..., units]."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="mfcnn")
class NTKConvolution(_NTKLayer):
    """A convolution of stride 1 in the NTK parameterization, fan_in = k1 k2 channels.

    Args:
        filters: number of output channels.
        kernel_size: side or sides of the window.
        activation: as for `NTKDense`.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2; at 0 there is no bias.
        padding: "circular" or "same" (zeros).
        seed: as for `NTKDense`.
        **kwargs: those of `keras.layers.Layer`.

    Input shape:
        [batch, height, width, channels].

    Output shape:
        [batch, height, width, filters].

    Raises:
        ValueError: for sizes below 1, a negative variance, or an unknown padding.

    Example:
        >>> layer = mfcnn.layers.NTKConvolution(4, 3, "relu", weight_variance=2.0)
        >>> layer(tf.zeros([2, 8, 8, 3])).shape
        TensorShape([2, 8, 8, 4])

    Source: NTK paper, section 4.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int] = 3,
        activation: Any = None,
        weight_variance: float = 1.0,
        bias_variance: float = 0.0,
        padding: str = "circular",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(activation, weight_variance, bias_variance, seed, **kwargs)
        self.filters = arguments.integer("filters", filters, 1)
        self.kernel_size = arguments.sizes("kernel_size", kernel_size, 2)
        self.padding = padding_name(padding)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape: Any) -> None:
        """Makes w [k1, k2, channels, filters] and beta [filters]."""
        channels = known_channels(self, input_shape)
        self._add_weights(
            (*self.kernel_size, channels, self.filters), math.prod(self.kernel_size) * channels
        )
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})

    def _linear(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        pads = tuple(same_padding(n, k) for n, k in zip(x.shape[1:3], self.kernel_size))
        return on_nonempty(
            lambda x: tf.nn.conv2d(pad(x, self.padding, pads), kernel, 1, "VALID"), x
        )

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """[..., filters]."""
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "padding": self.padding,
        }
