"""A two-dimensional convolution on a torus: circular padding, any stride."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from mfcnn import arguments
from mfcnn.layers._convolution import Pads, on_nonempty, pad, same_padding

__all__ = ["PeriodicConvolution"]


@keras.saving.register_keras_serializable(package="mfcnn")
class PeriodicConvolution(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with circular padding; the output has ceil(size / stride) rows.

    Args:
        filters: number of output channels.
        kernel_size: side or sides of the window.
        strides: stride, or one for each axis.
        **kwargs: those of `keras.layers.Conv2D` but `padding` and `data_format`.

    Input shape:
        [batch, height, width, channels]; with strides above 1 height and width must be known.

    Output shape:
        [batch, ceil(height / stride), ceil(width / stride), filters].

    Raises:
        ValueError: for sizes below 1, a padding or a data_format, which are fixed.

    Example:
        >>> layer = mfcnn.layers.PeriodicConvolution(4, 3, strides=2)
        >>> layer(tf.zeros([2, 7, 8, 3])).shape
        TensorShape([2, 4, 4, 4])
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        **kwargs: Any,
    ) -> None:
        for fixed in ("padding", "data_format"):
            if fixed in kwargs:
                raise ValueError(f"PeriodicConvolution has no argument {fixed!r}.")
        super().__init__(
            arguments.integer("filters", filters, 1),
            arguments.sizes("kernel_size", kernel_size, 2),
            arguments.sizes("strides", strides, 2),
            padding="valid",
            data_format="channels_last",
            **kwargs,
        )

    def build(self, input_shape: Any) -> None:
        """Makes the weights; with strides the image's sides must be known."""
        if None in input_shape[1:3] and max(self.strides) > 1:
            raise ValueError(
                "PeriodicConvolution with strides needs a known height and width. "
                f"Received: {input_shape}"
            )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Wraps the image around and convolves."""
        convolve = super().call
        pads = self._pads(inputs.shape)
        return on_nonempty(lambda x: convolve(pad(x, "circular", pads)), inputs)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """[batch, ceil(height / stride), ceil(width / stride), filters]."""
        sizes = (
            None if size is None else -(-size // stride)
            for size, stride in zip(input_shape[1:3], self.strides)
        )
        return (input_shape[0], *sizes, self.filters)

    def _pads(self, shape: Any) -> Pads:
        return tuple(
            same_padding(size, dilation * (window - 1) + 1, stride)
            for size, window, stride, dilation in zip(
                shape[1:3], self.kernel_size, self.strides, self.dilation_rate
            )
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        config = super().get_config()
        return {k: v for k, v in config.items() if k not in ("padding", "data_format")}
