"""The stem of a CNN: what a few strided convolutions make of images, in the limit of width."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from mfcnn import activations, arguments, profiles
from mfcnn.meanfield._averaging import average
from mfcnn.meanfield._covariance import second_moments_of_pairs
from mfcnn.meanfield._tables import moment_table

__all__ = ["stem_covariance", "stem_variances"]


def stem_variances(
    images: ArrayLike,
    activation: Any,
    weight_variance: float,
    bias_variance: float,
    strides: Sequence[int] = (1, 2, 2),
    kernel_size: int = 3,
    padding: str = "circular",
) -> np.ndarray:
    """Mean square of the stem's output at each position: the input of the deep block.

    Args:
        images: [m, height, width, channels].
        activation: a name or an `Activation`.
        weight_variance: sigma_w^2 of the Gaussian kernels, of uniform profile.
        bias_variance: sigma_b^2.
        strides: one for each convolution; () for no stem.
        kernel_size: side of the windows.
        padding: "circular" or "same" (zeros).

    Returns:
        float64 [m, *size]: E[phi(h)^2] behind the last convolution; without a stem the mean square
        of the image's channels.

    Raises:
        ValueError: for negative variances, strides below 1 or images of another rank.

    Example:
        >>> import mfcnn, numpy as np
        >>> images = np.ones((1, 8, 8, 3))
        >>> found = mfcnn.meanfield.stem_variances(images, "linear", 0.5, 0.0, strides=(1, 2))
        >>> found.shape, round(float(found[0, 0, 0]), 6)
        ((1, 4, 4), 0.25)

    Source: CNN paper, section 3 (the network), eq. 2.13.
    """
    activation = activations.get(activation)
    x, layer = _prepared(images, weight_variance, bias_variance, strides, kernel_size, padding)
    values = tf.constant(np.mean(x**2, axis=-1))
    table = moment_table(activation)
    for stride in _checked_strides(strides):
        second, scale, _ = table.variance_step(tf.math.log(layer(values, stride, 1)))
        values = second * tf.exp(scale)
    return values.numpy()


def stem_covariance(
    images: ArrayLike,
    activation: Any,
    weight_variance: float,
    bias_variance: float,
    strides: Sequence[int] = (1, 2, 2),
    kernel_size: int = 3,
    padding: str = "circular",
) -> np.ndarray:
    """Covariance of the stem's last pre-activations, the start of `covariance_trajectory`.

    Args:
        images: [m, height, width, channels].
        activation: a name or an `Activation`.
        weight_variance: sigma_w^2 of the Gaussian kernels, of uniform profile.
        bias_variance: sigma_b^2.
        strides: one for each convolution, at least one.
        kernel_size: side of the windows.
        padding: "circular" or "same" (zeros).

    Returns:
        float64 [m, *size, m, *size].

    Raises:
        ValueError: for negative variances, no strides or images of another rank.

    Example:
        >>> import mfcnn, numpy as np
        >>> images = np.random.default_rng(0).normal(size=(2, 8, 8, 1))
        >>> mfcnn.meanfield.stem_covariance(images, "erf", 1.5, 0.1).shape
        (2, 2, 2, 2, 2, 2)

    Source: CNN paper, section 3 (the network), eq. 2.13.
    """
    activation = activations.get(activation)
    x, layer = _prepared(images, weight_variance, bias_variance, strides, kernel_size, padding)
    steps = _checked_strides(strides)
    if not steps:
        raise ValueError(f"strides must not be empty. Received: strides={strides!r}")
    gram = np.tensordot(x, x, axes=(-1, -1)) / x.shape[-1]
    covariance = tf.constant(gram)
    for index, stride in enumerate(steps):
        if index:
            covariance = second_moments_of_pairs(activation, covariance)
        covariance = layer(covariance, stride, 2)
    return covariance.numpy()


def _checked_strides(strides: Any) -> tuple[int, ...]:
    """The strides as a tuple of integers of at least 1, which may be empty."""
    if isinstance(strides, (tuple, list)) and not strides:
        return ()
    return arguments.integers("strides", strides, 1)


def _prepared(
    images: ArrayLike,
    weight_variance: float,
    bias_variance: float,
    strides: Sequence[int],
    kernel_size: int,
    padding: str,
) -> tuple[np.ndarray, Any]:
    """The images, and a function from second moments to those behind one convolution."""
    x = arguments.array("images", images)
    if x.ndim != 4 or not x.size:
        raise ValueError(
            "images must be [m, height, width, channels]. "
            f"Received: images.shape={np.shape(images)}"
        )
    weight_variance = arguments.variance("weight_variance", weight_variance)
    bias_variance = arguments.variance("bias_variance", bias_variance)
    _checked_strides(strides)
    kernel_size = arguments.integer("kernel_size", kernel_size, 1)
    padding = arguments.choice("padding", padding, ("circular", "same"))
    profile = profiles.parse("uniform", kernel_size, 2)

    def layer(values: tf.Tensor, stride: int, copies: int) -> tf.Tensor:
        values = average(values, profile, padding, copies)
        for copy in range(copies):
            for axis in (3 * copy + 1, 3 * copy + 2):
                places = _centres(values.shape[axis], kernel_size, stride)
                values = tf.gather(values, places, axis=axis)
        return weight_variance * values + bias_variance

    return x, layer


def _centres(size: int, window: int, stride: int) -> np.ndarray:
    """The positions on which the windows of a strided SAME convolution are centred."""
    count = -(-size // stride)
    before = max((count - 1) * stride + window - size, 0) // 2
    return (np.arange(count) * stride - before + (window - 1) // 2) % size
