"""Weights of one layer on the critical line: their variances, and the kernels that have them."""

import math
from typing import Any, NamedTuple

import keras
import numpy as np

from mfcnn import initializers
from mfcnn.activations import Activation
from mfcnn.diagnosis._tracing import DEPTHWISE, SEPARABLE

__all__ = ["Kernel", "critical_weights", "kernel_initializer", "kernels", "variance_before"]


def variance_before(function: Activation | None, depth: int) -> float:
    """The variance q in front of an activation at which a network of this depth is to work."""
    if function is None or function.homogeneity is not None:
        return 1.0
    return 1 / max(depth, 1)


def critical_weights(function: Activation, q: float, target: float) -> tuple[float, float, float]:
    """(weight_variance, bias_variance, mean to take out) with chi_1 = 1 behind an activation.

    The bias fills up what is missing to the target, but adds no more than it does at a fixed point
    at the target: it is the same for all inputs, and makes them alike. Where even a fixed point at
    q would need a negative bias variance, the mean of phi is taken out; where that is not enough,
    the variance is kept and chi_1 is less than one.

    Args:
        function: phi.
        q: the variance of its pre-activations.
        target: that of the next ones.
    """
    if function.homogeneity is not None:  # another target is another scale, once
        return target / (function.homogeneity * q), 0.0, 0.0
    variance = 1 / float(function.derivative_second_moment(q))
    mean = 0.0
    # At a fixed point, bias variance = q - weight_variance E[phi^2], without cancellation.
    here, there = (
        float(function.deficit(v) / function.derivative_second_moment(v)) for v in (q, target)
    )
    if min(here, there) < -1e-12 * q:
        mean = float(function.mean(q))
        here += variance * mean**2
        there += float(function.mean(target)) ** 2 / float(
            function.derivative_second_moment(target)
        )
        if here < -1e-12 * q:
            return target / (float(function.second_moment(q)) - mean**2), 0.0, mean
    return variance, float(np.clip(here + target - q, 0.0, max(there, 0.0))), mean


class Kernel(NamedTuple):
    """A kernel of a layer.

    Attributes:
        variable: [*window, channels, filters], or [*window, channels, multiplier].
        initializer: the layer's attribute for its initializer.
        by_channel: whether each channel has filters of its own.
    """

    variable: Any
    initializer: str
    by_channel: bool

    def of_constants(self, values: np.ndarray) -> np.ndarray:
        """What the kernel makes of a constant in each channel, away from borders."""
        kernel = np.asarray(self.variable, np.float64)
        kernel = kernel.sum(axis=tuple(range(kernel.ndim - 2)))
        return (values[:, None] * kernel).ravel() if self.by_channel else values @ kernel


def kernels(layer: Any) -> list[Kernel]:
    """The kernels of a layer, in the order in which its inputs meet them."""
    if isinstance(layer, SEPARABLE):
        return [
            Kernel(layer.depthwise_kernel, "depthwise_initializer", True),
            Kernel(layer.pointwise_kernel, "pointwise_initializer", False),
        ]
    if isinstance(layer, DEPTHWISE):
        return [Kernel(layer.kernel, "depthwise_initializer", True)]
    return [Kernel(layer._kernel, "kernel_initializer", False)]


def kernel_initializer(
    layer: Any, kernel: Kernel, variance: float, twins: tuple[bool, bool], seed: int
) -> tuple[str, Any]:
    """The kind of kernel, and an initializer of this weight variance.

    Args:
        layer: whose kernel it is.
        kernel: one of `kernels(layer)`.
        variance: sigma_w^2; where inputs are twins, of a layer on one of each pair.
        twins: whether the inputs and the outputs are twins.
        seed: of the kernel.
    """
    shape = list(kernel.variable.shape)
    if kernel.by_channel:
        deviation = math.sqrt(variance / math.prod(shape[:-2]))
        return "gaussian", keras.initializers.RandomNormal(0.0, deviation, seed)
    for axis, paired in zip((-2, -1), twins):
        shape[axis] //= 1 + paired
    strides = 1 if isinstance(layer, SEPARABLE) else getattr(layer, "strides", 1)
    plain = max(np.ravel(strides)) == 1 and getattr(layer, "groups", 1) == 1
    kind, initializer = _half(plain, tuple(shape), variance, seed)
    if not any(twins):
        return kind, initializer
    return f"mirrored {kind}", initializers.Mirrored(initializer, *twins)


def _half(plain: bool, shape: tuple[int, ...], variance: float, seed: int) -> tuple[str, Any]:
    channels, filters = shape[-2:]
    gain = math.sqrt(variance * max(channels, filters) / channels)
    if len(shape) == 2:
        return "orthogonal", keras.initializers.Orthogonal(gain, seed)
    if plain and channels <= filters:
        return "delta-orthogonal", initializers.ConvolutionDeltaOrthogonal(gain, seed)
    deviation = math.sqrt(variance / math.prod(shape[:-1]))
    return "gaussian", keras.initializers.RandomNormal(0.0, deviation, seed)
