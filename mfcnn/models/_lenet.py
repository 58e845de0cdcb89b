"""LeNet-5 with max pooling, relu and a width factor, as in the linearization paper."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from mfcnn import arguments
from mfcnn.models._vanilla import check_image_shape

__all__ = ["UniformInitialization", "lenet"]


class UniformInitialization:
    """Weights and biases uniform in +-1 / sqrt(fan_in), an independent seed for each layer.

    This is PyTorch's default, with which the linearization paper starts.
    """

    def __init__(self, seed: int | None = None) -> None:
        """The seed decides all draws; None takes one from Keras's global seed."""
        self._seeds = np.random.SeedSequence(arguments.seed_or_drawn(seed))

    def __call__(self, fan_in: int) -> dict[str, Any]:
        """Arguments kernel_initializer and bias_initializer for a layer with this fan_in."""
        kernel_seed, bias_seed = self._seeds.spawn(1)[0].generate_state(2).tolist()
        limit = 1 / math.sqrt(fan_in)
        return {
            "kernel_initializer": keras.initializers.RandomUniform(-limit, limit, kernel_seed),
            "bias_initializer": keras.initializers.RandomUniform(-limit, limit, bias_seed),
        }


def lenet(
    input_shape: Sequence[int] = (28, 28, 1),
    classes: int = 10,
    width_factor: float = 1,
    seed: int | None = None,
    dtype: Any = None,
) -> keras.Model:
    """LeNet: two 5x5 convolutions with 2x2 max pooling, three dense layers, relu.

    Channels 6, 16 and units 120, 84, each times the width factor; 61,706 parameters on MNIST at
    width factor 1. The first convolution pads images of fewer than 32 pixels, so that 28 x 28 and
    32 x 32 images both reach 5 x 5. There is no softmax: train with the mean squared error on
    one-hot targets, as the paper does, or with cross entropy from logits.

    Args:
        input_shape: (height, width, channels).
        classes: number of outputs.
        width_factor: factor on channels and units, positive; the products are rounded.
        seed: integer of at least 0; the same seed gives the same network. None draws a new one,
            which follows `keras.utils.set_random_seed`.
        dtype: dtype or policy of weights and computation; by default the Keras policy.

    Returns:
        A `keras.Model` from images [b, *input_shape] to outputs [b, classes].

    Raises:
        ValueError: for a width factor that is not positive or images below 12 pixels.

    Example:
        >>> mfcnn.models.lenet(seed=0).count_params()
        61706

    Source: linearization paper, section 2.
    """
    c1, c2, d1, d2 = widths((6, 16, 120, 84), width_factor)
    shape = check_image_shape(input_shape, 12, known=True)
    classes = arguments.integer("classes", classes, 1)
    draw = UniformInitialization(seed)
    options = {"activation": "relu", "dtype": dtype}
    images = {"data_format": "channels_last"}
    padding = "same" if min(shape[:2]) < 32 else "valid"
    inputs = x = image_input(shape, dtype)
    for index, (filters, around) in enumerate(((c1, padding), (c2, "valid")), 1):
        x = keras.layers.Conv2D(
            filters,
            5,
            padding=around,
            name=f"convolution_{index}",
            **images,
            **options,
            **draw(25 * x.shape[-1]),
        )(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool_{index}", dtype=dtype, **images)(x)
    outputs = dense_readout(x, (d1, d2), classes, draw, dtype)
    return keras.Model(inputs, outputs, name="lenet")


def dense_readout(
    x: Any, units: Sequence[int], classes: int, draw: UniformInitialization, dtype: Any
) -> Any:
    """Flattens images; dense relu layers of these units, then the linear outputs."""
    x = keras.layers.Flatten(name="flatten", data_format="channels_last", dtype=dtype)(x)
    for index, width in enumerate(units, 1):
        options = {"activation": "relu", "dtype": dtype, **draw(x.shape[-1])}
        x = keras.layers.Dense(width, name=f"dense_{index}", **options)(x)
    return keras.layers.Dense(classes, name="outputs", dtype=dtype, **draw(x.shape[-1]))(x)


def image_input(shape: tuple[int, ...], dtype: Any) -> Any:
    """A symbolic batch of images in the precision that a dtype or policy computes in."""
    if dtype is None:
        return keras.Input(shape, name="images")
    accepted = "a dtype, a policy, their name or None"
    policy = arguments.interpreted("dtype", dtype, keras.dtype_policies.get, accepted)
    return keras.Input(shape, name="images", dtype=policy.compute_dtype)


def widths(base: Sequence[int], width_factor: float) -> tuple[int, ...]:
    """The widths times the factor, rounded, at least 1.

    Raises:
        ValueError: for a factor that is not positive and finite.
    """
    width_factor = arguments.number("width_factor", width_factor, above=0)
    return tuple(max(1, round(b * width_factor)) for b in base)
