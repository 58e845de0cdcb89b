"""Independent draws of many layers' weights from any Keras initializer."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments
from mfcnn.initializers._base import float_dtype

__all__ = ["stack_initializer"]

_TRUNCATED_STDDEV = 0.87962566103423978  # of a standard normal cut at two standard deviations


def stack_initializer(initializer: Any, depth: int, shape: Any, dtype: Any = None) -> tf.Tensor:
    """Draws `depth` independent weights from any Keras initializer as one tensor.

    The law of each layer is that of `initializer(shape)`: fans are those of one layer. mfcnn's
    initializers and Keras's random normal, truncated normal, uniform, variance scaling (Glorot,
    He, LeCun) and constant ones take one batched draw. Any other is called once a layer: from its
    configuration with a seed of the layer's own if it has an int seed, else as it is.

    Args:
        initializer: a Keras initializer, its name or configuration, or a callable
            (shape, dtype) -> tensor.
        depth: number of layers, at least 1.
        shape: shape of one layer's weight.
        dtype: a floating dtype; the Keras default if None.

    Returns:
        A tensor of shape [depth, *shape].

    Raises:
        ValueError: for a depth below 1, or what the initializer itself refuses.

    Example:
        >>> mfcnn.initializers.stack_initializer("he_normal", 1000, (16, 16)).shape
        TensorShape([1000, 16, 16])
    """
    depth, dtype = arguments.depth(depth), float_dtype(dtype)
    if not isinstance(shape, (tuple, list)) or len(shape):
        shape = arguments.integers("shape", shape, 0)
    shape, initializer = tuple(shape), arguments.initializer("initializer", initializer)
    stock = keras.initializers
    call = type(initializer).__call__
    if hasattr(initializer, "stack"):
        return initializer.stack(depth, shape, dtype)
    if call in (stock.Zeros.__call__, stock.Ones.__call__, stock.Constant.__call__):
        value = initializer(shape, dtype=dtype.name)
        return tf.tile(value[None], [depth] + [1] * len(shape))
    if call is stock.VarianceScaling.__call__:
        initializer = _variance_scaling_of_layer(initializer, shape)
        call = type(initializer).__call__
    elementwise = (stock.RandomNormal, stock.TruncatedNormal, stock.RandomUniform)
    if call in [kind.__call__ for kind in elementwise]:
        return initializer((depth, *shape), dtype=dtype.name)
    layers = _initializers_of_layers(initializer, depth)
    return tf.stack([tf.cast(layer(shape, dtype=dtype.name), dtype) for layer in layers])


def _initializers_of_layers(initializer: Any, depth: int) -> list[Any]:
    """The initializer with a seed of its own for each layer, where it has an int seed."""
    if not isinstance(getattr(initializer, "seed", None), int):
        return [initializer] * depth
    # Consecutive seeds from a scrambled start: distinct for sure, and apart from seed + 1's.
    start = int(np.random.SeedSequence(initializer.seed % 2**64).generate_state(1)[0])
    config = initializer.get_config()
    return [
        type(initializer).from_config({**config, "seed": (start + layer) % 2**31})
        for layer in range(depth)
    ]


def _variance_scaling_of_layer(initializer: Any, shape: tuple[int, ...]) -> Any:
    """The elementwise Keras initializer with the variance that VarianceScaling gives `shape`."""
    window = math.prod(shape[:-2])
    fan_in = window * shape[-2] if len(shape) > 1 else math.prod(shape)
    fan_out = window * shape[-1] if len(shape) > 1 else math.prod(shape)
    axes: Any = getattr(initializer, "input_axes", None), getattr(initializer, "output_axes", None)
    if None not in axes:
        fan_in, fan_out = (math.prod(shape[axis] for axis in group) for group in axes)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    stddev = math.sqrt(initializer.scale / max(1.0, fan[initializer.mode]))
    seed = initializer.seed
    if initializer.distribution == "uniform":
        limit = math.sqrt(3) * stddev
        return keras.initializers.RandomUniform(-limit, limit, seed=seed)
    if initializer.distribution == "truncated_normal":
        return keras.initializers.TruncatedNormal(stddev=stddev / _TRUNCATED_STDDEV, seed=seed)
    return keras.initializers.RandomNormal(stddev=stddev, seed=seed)
