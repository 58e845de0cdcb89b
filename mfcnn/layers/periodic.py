"""A two-dimensional convolution on a torus: circular padding, any stride."""

import keras

from mfcnn.layers.convolution import pad, same_padding

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
        [batch, height, width, channels], height and width known.

    Output shape:
        [batch, ceil(height / stride), ceil(width / stride), filters].
    """

    def __init__(self, filters, kernel_size, strides=(1, 1), **kwargs):
        for fixed in ("padding", "data_format"):
            if fixed in kwargs:
                raise ValueError(f"PeriodicConvolution has no argument {fixed!r}.")
        super().__init__(
            filters,
            kernel_size,
            strides,
            padding="valid",
            data_format="channels_last",
            **kwargs,
        )

    def build(self, input_shape):
        """Makes the weights; the image's sides must be known."""
        if None in input_shape[1:3]:
            raise ValueError(
                f"PeriodicConvolution needs a known height and width. Received: {input_shape}"
            )
        super().build(input_shape)

    def call(self, inputs):
        """Wraps the image around and convolves."""
        return super().call(pad(inputs, "circular", self._pads(inputs.shape)))

    def compute_output_shape(self, input_shape):
        """[batch, ceil(height / stride), ceil(width / stride), filters]."""
        sizes = (
            None if size is None else -(-size // stride)
            for size, stride in zip(input_shape[1:3], self.strides)
        )
        return (input_shape[0], *sizes, self.filters)

    def _pads(self, shape):
        return tuple(
            same_padding(size, dilation * (window - 1) + 1, stride)
            for size, window, stride, dilation in zip(
                shape[1:3], self.kernel_size, self.strides, self.dilation_rate
            )
        )

    def get_config(self):
        """The arguments of the constructor."""
        config = super().get_config()
        return {k: v for k, v in config.items() if k not in ("padding", "data_format")}
