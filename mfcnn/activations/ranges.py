"""The variances that the signals of a network of many layers can have: what a table must cover."""

import numpy as np

from mfcnn.activations._activation import Activation

__all__ = ["settled_variance", "variance_ranges"]


def _image(
    activation: Activation,
    low: float,
    high: float,
    weight_variance: float,
    bias_variance: float,
    share: float = 1.0,
) -> tuple[float, float]:
    """The variances that those in [low, high] become in the next layer."""
    y = np.linspace(np.sqrt(low) / (1 + np.sqrt(low)), np.sqrt(high) / (1 + np.sqrt(high)), 9)
    second = activation.second_moment(np.maximum(y / (1 - y), 1e-100) ** 2)
    low = weight_variance * share * second.min() + bias_variance
    return float(low), float(weight_variance * second.max() + bias_variance)


def variance_ranges(
    activation: Activation,
    low: float,
    high: float,
    depth: int,
    weight_variance: float,
    bias_variance: float,
    share: float = 1.0,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The variances of the first layer, and those of all layers after it.

    Args:
        activation: a `mfcnn.activations.Activation`.
        low: smallest variance after the first affine map.
        high: largest.
        depth: number of activations that follow.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        share: the smallest sum of a convolution's taps at a position.

    Returns:
        Two pairs (low, high); the second is mapped into itself, or covers `depth` layers.
    """

    def widened(low: float, high: float) -> tuple[float, float]:
        # By more than what lies between the samples, and rounding.
        slack = 1e-2 * (high - low) + 1e-13 * high
        return max(low - slack, 0.0), high + slack

    parameters = weight_variance, bias_variance, share
    first, rest = widened(low, high), _image(activation, low, high, *parameters)
    for layer in range(1, depth):
        low, high = rest
        new_low, new_high = _image(activation, low, high, *parameters)
        if new_low >= low * (1 - 1e-10) and new_high <= high * (1 + 1e-10):
            break
        # Slow convergence is overtaken: a range that is a little too wide costs little.
        ahead = 0 if layer < 8 else 4
        low = min(low, max(new_low - ahead * (low - new_low), bias_variance))
        rest = low if layer < 40 else bias_variance, max(high, new_high + ahead * (new_high - high))
    return first, widened(*rest)


def settled_variance(
    activation: Activation,
    low: float,
    high: float,
    depth: int,
    weight_variance: float,
    bias_variance: float,
) -> tuple[int, float] | None:
    """(layer, variance) from which on all variances are one to rounding.

    Arguments as of `variance_ranges`; None if that takes more than `depth` or 200 layers.
    """
    for layer in range(min(depth, 200)):
        following = _image(activation, low, high, weight_variance, bias_variance)
        if max(high, *following) - min(low, *following) < 4e-14 * high:
            return layer, following[1]
        low, high = following
    return None
