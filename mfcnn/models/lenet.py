"""LeNet-5 with max pooling, relu and a width factor, as in the linearization paper."""

import math

import keras
import numpy as np

__all__ = ["UniformInitialization", "lenet"]


class UniformInitialization:
    """Weights and biases uniform in +-1 / sqrt(fan_in), an independent seed for each layer.

    This is PyTorch's default, with which the linearization paper starts.
    """

    def __init__(self, seed=None):
        """The seed decides all draws; None takes fresh ones."""
        self._seeds = np.random.SeedSequence(seed)

    def __call__(self, fan_in):
        """Arguments kernel_initializer and bias_initializer for a layer with this fan_in."""
        kernel_seed, bias_seed = self._seeds.spawn(1)[0].generate_state(2).tolist()
        limit = 1 / math.sqrt(fan_in)
        return {
            "kernel_initializer": keras.initializers.RandomUniform(-limit, limit, kernel_seed),
            "bias_initializer": keras.initializers.RandomUniform(-limit, limit, bias_seed),
        }


def lenet(input_shape=(28, 28, 1), classes=10, width_factor=1, seed=None, dtype=None):
    """LeNet: two 5x5 convolutions with 2x2 max pooling, three dense layers, relu.

    Channels 6, 16 and units 120, 84, each times the width factor; 61,706 parameters on MNIST at
    width factor 1. The first convolution pads images of fewer than 32 pixels, so that 28 x 28 and
    32 x 32 images both reach 5 x 5. There is no softmax: train with the mean squared error on
    one-hot targets, as the paper does, or with cross entropy from logits.

    Args:
        input_shape: (height, width, channels).
        classes: number of outputs.
        width_factor: factor on channels and units, positive; the products are rounded.
        seed: integer; the same seed gives the same network. None draws a new one.
        dtype: of weights and computation; by default the Keras policy.

    Returns:
        A `keras.Model` from images [b, *input_shape] to outputs [b, classes].

    Raises:
        ValueError: for a width factor that is not positive or images below 12 pixels.

    Source: linearization paper, section 2.
    """
    c1, c2, d1, d2 = widths((6, 16, 120, 84), width_factor)
    height, width, channels = input_shape
    if min(height, width) < 12:
        raise ValueError(f"input_shape must be at least 12 x 12. Received: {input_shape}")
    draw = UniformInitialization(seed)
    options = {"activation": "relu", "dtype": dtype}
    padding = "same" if min(height, width) < 32 else "valid"
    images = keras.Input(input_shape, name="images", dtype=dtype)
    x = keras.layers.Conv2D(
        c1, 5, padding=padding, name="convolution_1", **options, **draw(25 * channels)
    )(images)
    x = keras.layers.MaxPooling2D(2, name="pool_1", dtype=dtype)(x)
    x = keras.layers.Conv2D(c2, 5, name="convolution_2", **options, **draw(25 * c1))(x)
    x = keras.layers.MaxPooling2D(2, name="pool_2", dtype=dtype)(x)
    x = keras.layers.Flatten(name="flatten", dtype=dtype)(x)
    x = keras.layers.Dense(d1, name="dense_1", **options, **draw(x.shape[-1]))(x)
    x = keras.layers.Dense(d2, name="dense_2", **options, **draw(d1))(x)
    outputs = keras.layers.Dense(classes, name="outputs", dtype=dtype, **draw(d2))(x)
    return keras.Model(images, outputs, name="lenet")


def widths(base, width_factor):
    """The widths times the factor, rounded, at least 1.

    Raises:
        ValueError: for a factor that is not positive and finite.
    """
    if not (width_factor > 0 and math.isfinite(width_factor)):
        raise ValueError(f"width_factor must be positive. Received: width_factor={width_factor!r}")
    return tuple(max(1, round(b * width_factor)) for b in base)
