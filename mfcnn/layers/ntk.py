"""Dense and convolution layers in the NTK parameterization."""

import math

import keras
import tensorflow as tf

from mfcnn.layers.activated import ActivatedLayer
from mfcnn.layers.convolution import PADDINGS, pad, same_padding

__all__ = ["NTKConvolution", "NTKDense"]


class _NTKLayer(ActivatedLayer):
    """Standard normal weights, scaled in the forward pass; a subclass gives the linear map."""

    def __init__(
        self, activation=None, weight_variance=1.0, bias_variance=0.0, seed=None, **kwargs
    ):
        super().__init__(activation, **kwargs)
        for name, value in (("weight_variance", weight_variance), ("bias_variance", bias_variance)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(
                    f"{name} must be finite and not negative. Received: {name}={value!r}"
                )
        self.weight_variance = weight_variance
        self.bias_variance = bias_variance
        self.seed = seed

    def _add_weights(self, kernel_shape, fan_in):
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

    def call(self, x):
        """activation(sqrt(weight_variance / fan_in) kernel x + sqrt(bias_variance) bias)."""
        kernel = tf.convert_to_tensor(self.kernel)
        z = self._linear(x, kernel * tf.constant(self._kernel_scale, kernel.dtype))
        if self.bias is not None:
            bias = tf.convert_to_tensor(self.bias)
            z = z + bias * tf.constant(math.sqrt(self.bias_variance), bias.dtype)
        return self._phi(z)

    def get_config(self):
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "weight_variance": self.weight_variance,
            "bias_variance": self.bias_variance,
            "seed": self.seed,
        }


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
        seed: integer; the same seed gives the same weights. None draws new ones.
        **kwargs: those of `keras.layers.Layer`.

    Input and output shape:
        [batch, ..., fan_in] to [batch, ..., units].

    Raises:
        ValueError: for units below 1 or a negative variance.

    Source: NTK paper, equation 1.
    """

    def __init__(
        self, units, activation=None, weight_variance=1.0, bias_variance=0.0, seed=None, **kwargs
    ):
        super().__init__(activation, weight_variance, bias_variance, seed, **kwargs)
        if not isinstance(units, int) or units < 1:
            raise ValueError(f"units must be an integer of at least 1. Received: {units!r}")
        self.units = units

    def build(self, input_shape):
        """Makes w [fan_in, units] and beta [units]."""
        self._add_weights((input_shape[-1], self.units), input_shape[-1])

    def _linear(self, x, kernel):
        return tf.matmul(x, kernel) if x.shape.rank == 2 else tf.tensordot(x, kernel, axes=1)

    def compute_output_shape(self, input_shape):
        """[..., units]."""
        return (*input_shape[:-1], self.units)

    def get_config(self):
        """The arguments of the constructor."""
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="mfcnn")
class NTKConvolution(_NTKLayer):
    """A convolution of stride 1 in the NTK parameterization, fan_in = kernel_size^2 channels.

    Args:
        filters: number of output channels.
        kernel_size: side of the square window.
        activation: as for `NTKDense`.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2; at 0 there is no bias.
        padding: "circular" or "same" (zeros).
        seed: as for `NTKDense`.
        **kwargs: those of `keras.layers.Layer`.

    Input and output shape:
        [batch, height, width, channels] to [batch, height, width, filters].

    Raises:
        ValueError: for sizes below 1, a negative variance, or an unknown padding.

    Source: NTK paper, section 4.
    """

    def __init__(
        self,
        filters,
        kernel_size=3,
        activation=None,
        weight_variance=1.0,
        bias_variance=0.0,
        padding="circular",
        seed=None,
        **kwargs,
    ):
        super().__init__(activation, weight_variance, bias_variance, seed, **kwargs)
        for name, value in (("filters", filters), ("kernel_size", kernel_size)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1. Received: {value!r}")
        if padding not in PADDINGS:
            raise ValueError(f"padding must be one of {PADDINGS}. Received: {padding!r}")
        self.filters = filters
        self.kernel_size = kernel_size
        self.padding = padding

    def build(self, input_shape):
        """Makes w [k, k, channels, filters] and beta [filters]."""
        size, channels = self.kernel_size, input_shape[-1]
        self._add_weights((size, size, channels, self.filters), size * size * channels)

    def _linear(self, x, kernel):
        pads = tuple(same_padding(x.shape[axis], self.kernel_size) for axis in (1, 2))
        return tf.nn.conv2d(pad(x, self.padding, pads), kernel, 1, "VALID")

    def compute_output_shape(self, input_shape):
        """[..., filters]."""
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "padding": self.padding,
        }
