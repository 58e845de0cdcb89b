"""AlexNet (the one-column version of 2014) with a width factor, without dropout."""

import keras

from mfcnn.models.lenet import UniformInitialization, widths

__all__ = ["alexnet"]


def alexnet(input_shape=(224, 224, 3), classes=10, width_factor=1, seed=None, dtype=None):
    """AlexNet: five convolutions, three max poolings, three dense layers, relu, no dropout.

    Channels 64, 192, 384, 256, 256 and units 4096, 4096, each times the width factor; 57,044,810
    parameters for 224 x 224 images, ten classes and width factor 1.

    Args:
        input_shape: (height, width, channels), at least 63 x 63.
        classes: number of outputs.
        width_factor: factor on channels and units, positive; the products are rounded.
        seed: integer; the same seed gives the same network. None draws a new one.
        dtype: of weights and computation; by default the Keras policy.

    Returns:
        A `keras.Model` from images [b, *input_shape] to outputs [b, classes].

    Raises:
        ValueError: for a width factor that is not positive or smaller images.

    Source: linearization paper, section 2 (ten outputs, dropout disabled).
    """
    *channels, d1, d2 = widths((64, 192, 384, 256, 256, 4096, 4096), width_factor)
    if min(input_shape[:2]) < 63:
        raise ValueError(f"input_shape must be at least 63 x 63. Received: {input_shape}")
    draw = UniformInitialization(seed)
    options = {"activation": "relu", "dtype": dtype}
    images = keras.Input(input_shape, name="images", dtype=dtype)
    # Two rows of zeros on each side, which 'same' would split unevenly under stride 4.
    x = keras.layers.ZeroPadding2D(2, name="padding", dtype=dtype)(images)
    windows = ((11, 4, "valid"), (5, 1, "same"), (3, 1, "same"), (3, 1, "same"), (3, 1, "same"))
    for index, (filters, (window, stride, padding)) in enumerate(zip(channels, windows), 1):
        x = keras.layers.Conv2D(
            filters,
            window,
            stride,
            padding,
            name=f"convolution_{index}",
            **options,
            **draw(window * window * x.shape[-1]),
        )(x)
        if index in (1, 2, 5):
            x = keras.layers.MaxPooling2D(3, 2, name=f"pool_{index}", dtype=dtype)(x)
    x = keras.layers.Flatten(name="flatten", dtype=dtype)(x)
    for index, units in enumerate((d1, d2), 1):
        x = keras.layers.Dense(units, name=f"dense_{index}", **options, **draw(x.shape[-1]))(x)
    outputs = keras.layers.Dense(classes, name="outputs", dtype=dtype, **draw(d2))(x)
    return keras.Model(images, outputs, name="alexnet")
