"""Weight and bias variances of a Keras layer, read from its initializers."""

import math

import keras
import numpy as np

__all__ = ["bias_variance", "weight_variance"]

# Variance of a normal cut at two standard deviations, in units of sigma^2.
_TRUNCATED = 0.7737413035499232


def _entry_variance(initializer, shape):
    """Variance of one entry of a weight drawn with a Keras initializer, or None if unknown."""
    kinds = keras.initializers
    fan_in, fan_out = math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
    if isinstance(initializer, kinds.VarianceScaling):
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
        return initializer.scale / fan[initializer.mode]
    if isinstance(initializer, kinds.RandomNormal) and initializer.mean == 0:
        return initializer.stddev**2
    if isinstance(initializer, kinds.TruncatedNormal) and initializer.mean == 0:
        return _TRUNCATED * initializer.stddev**2
    if isinstance(initializer, kinds.RandomUniform) and initializer.minval == -initializer.maxval:
        return initializer.maxval**2 / 3
    if isinstance(initializer, kinds.Orthogonal):
        return initializer.gain**2 / max(fan_in, shape[-1])
    if isinstance(initializer, kinds.Zeros):
        return 0.0
    return None


def weight_variance(layer, initializer, shape):
    """sigma_w^2 and the variance profile of a layer's kernel.

    Args:
        layer: the layer, for messages.
        initializer: its kernel initializer.
        shape: shape of the kernel, [*window, channels_in, channels_out].

    Returns:
        (weight_variance, profile [*window] with sum one).

    Raises:
        ValueError: for an initializer that does not draw zero-mean entries of known variance.
    """
    window, fan_in = shape[:-2], math.prod(shape[:-1])
    uniform = np.full(window, 1 / math.prod(window))
    name = type(initializer).__name__
    if hasattr(initializer, "entry_variances"):  # mfcnn's own
        variances = initializer.entry_variances(shape, layer)
        total = variances.sum()
        return shape[-2] * total, variances / total if total else uniform
    variance = _entry_variance(initializer, shape)
    if variance is None:
        raise ValueError(
            f"layer {layer.name!r}: the kernel initializer {name} has no known infinite-width "
            "variance. Accepted: the VarianceScaling family (Glorot, He, LeCun), RandomNormal, "
            "TruncatedNormal and RandomUniform of mean zero, Orthogonal, Zeros, and mfcnn's own."
        )
    return variance * fan_in, uniform


def bias_variance(layer, initializer, width):
    """sigma_b^2 of a layer's bias; zero without a bias.

    Raises:
        ValueError: for an initializer whose biases are not zero-mean with known variance.
    """
    if not layer.use_bias:
        return 0.0
    variance = _entry_variance(initializer, (width, width))
    scaled = isinstance(initializer, keras.initializers.VarianceScaling)
    if variance is None or scaled or isinstance(initializer, keras.initializers.Orthogonal):
        raise ValueError(
            f"layer {layer.name!r}: the bias initializer {type(initializer).__name__} has no "
            "known infinite-width variance. Accepted: Zeros, and RandomNormal, TruncatedNormal or "
            "RandomUniform of mean zero."
        )
    return variance
