"""AlexNet (the one-column version of 2014) with a width factor, without dropout."""

from collections.abc import Sequence
from typing import Any

import keras

from mfcnn import arguments
from mfcnn.models._lenet import UniformInitialization, dense_readout, image_input, widths
from mfcnn.models._vanilla import check_image_shape

__all__ = ["alexnet"]


def alexnet(
    input_shape: Sequence[int] = (224, 224, 3),
    classes: int = 10,
    width_factor: float = 1,
    seed: int | None = None,
    dtype: Any = None,
) -> keras.Model:
    """AlexNet: five convolutions, three max poolings, three dense layers, relu, no dropout.

    Channels 64, 192, 384, 256, 256 and units 4096, 4096, each times the width factor; 57,044,810
    parameters for 224 x 224 images, ten classes and width factor 1.

    Args:
        input_shape: (height, width, channels), at least 63 x 63.
        classes: number of outputs.
        width_factor: factor on channels and units, positive; the products are rounded.
        seed: integer of at least 0; the same seed gives the same network. None draws a new one,
            which follows `keras.utils.set_random_seed`.
        dtype: dtype or policy of weights and computation; by default the Keras policy.

    Returns:
        A `keras.Model` from images [b, *input_shape] to outputs [b, classes].

    Raises:
        ValueError: for a width factor that is not positive or smaller images.

    Example:
        >>> model = mfcnn.models.alexnet((63, 63, 3), width_factor=0.05, seed=0)
        >>> model(tf.zeros([1, 63, 63, 3])).shape
        TensorShape([1, 10])

    Source: linearization paper, section 2 (ten outputs, dropout disabled).
    """
    *channels, d1, d2 = widths((64, 192, 384, 256, 256, 4096, 4096), width_factor)
    shape = check_image_shape(input_shape, 63, known=True)
    classes = arguments.integer("classes", classes, 1)
    draw = UniformInitialization(seed)
    options = {"activation": "relu", "dtype": dtype}
    images = {"data_format": "channels_last"}
    inputs = image_input(shape, dtype)
    # Two rows of zeros on each side, which 'same' would split unevenly under stride 4.
    x = keras.layers.ZeroPadding2D(2, name="padding", dtype=dtype, **images)(inputs)
    windows = ((11, 4, "valid"), (5, 1, "same"), (3, 1, "same"), (3, 1, "same"), (3, 1, "same"))
    for index, (filters, (window, stride, padding)) in enumerate(zip(channels, windows), 1):
        x = keras.layers.Conv2D(
            filters,
            window,
            stride,
            padding,
            name=f"convolution_{index}",
            **images,
            **options,
            **draw(window * window * x.shape[-1]),
        )(x)
        if index in (1, 2, 5):
            x = keras.layers.MaxPooling2D(3, 2, name=f"pool_{index}", dtype=dtype, **images)(x)
    outputs = dense_readout(x, (d1, d2), classes, draw, dtype)
    return keras.Model(inputs, outputs, name="alexnet")
