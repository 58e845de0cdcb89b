"""What a layer's weights are: their variances, from the initializers, and which are trained."""

import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from mfcnn import initializers
from mfcnn.kernels._models import registry

if TYPE_CHECKING:
    from mfcnn.kernels._models.reading import Call

__all__ = ["bias_variance", "constant", "entry_variance", "kernel_profile", "objection"]

# Variance of a normal cut at two standard deviations, in units of sigma^2.
_TRUNCATED = 0.7737413035499232
_KNOWN = (
    "the VarianceScaling family (Glorot, He, LeCun), RandomNormal, TruncatedNormal and "
    "RandomUniform of mean zero, Orthogonal, Zeros, and mfcnn's own"
)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Fan in and fan out as Keras's initializers count them."""
    if len(shape) < 2:
        return (shape[0],) * 2 if shape else (1, 1)
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


def _variance_scaling(initializer: Any, shape: tuple[int, ...]) -> float:
    fan_in, fan_out = fans(shape)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    return initializer.scale / max(1.0, fan[initializer.mode])


def _orthogonal(initializer: Any, shape: tuple[int, ...]) -> float | None:
    if len(shape) < 2:
        return None
    return initializer.gain**2 / max(math.prod(shape[:-1]), shape[-1])


def _uniform(initializer: Any, shape: tuple[int, ...]) -> float | None:
    del shape
    symmetric = initializer.minval == -initializer.maxval
    return initializer.maxval**2 / 3 if symmetric else None


_kinds = keras.initializers
_ENTRY = {
    _kinds.VarianceScaling: _variance_scaling,
    _kinds.RandomNormal: lambda i, _: i.stddev**2 if i.mean == 0 else None,
    _kinds.TruncatedNormal: lambda i, _: _TRUNCATED * i.stddev**2 if i.mean == 0 else None,
    _kinds.RandomUniform: _uniform,
    _kinds.Orthogonal: _orthogonal,
    _kinds.Zeros: lambda *_: 0.0,
    _kinds.Constant: lambda i, _: 0.0 if np.ndim(i.value) == 0 and i.value == 0 else None,
}
_CONSTANTS = {
    _kinds.Zeros: lambda i: 0.0,
    _kinds.Ones: lambda i: 1.0,
    _kinds.Constant: lambda i: float(i.value) if np.ndim(i.value) == 0 else None,
}
# mfcnn's own, which know the variance at each tap in any layer.
_OWN = dict.fromkeys(
    (
        initializers.ConvolutionGaussian,
        initializers.ConvolutionDeltaOrthogonal,
        initializers.ConvolutionOrthogonal,
    ),
    True,
)


def _known(initializer: Any, table: dict) -> Any:
    base, overridden = registry.find(type(initializer), table)
    return None if base is None or overridden else table[base]


def entry_variance(initializer: Any, shape: tuple[int, ...]) -> float | None:
    """Variance of each entry of a weight that a Keras initializer draws; None if unknown."""
    known = _known(initializer, _ENTRY)
    return None if known is None else known(initializer, shape)


def constant(initializer: Any) -> float | None:
    """The value that an initializer gives to all entries; None if it has others."""
    known = _known(initializer, _CONSTANTS)
    return None if known is None else known(initializer)


def kernel_profile(
    initializer: Any, shape: tuple[int, ...], layer: Any = None
) -> tuple[float, np.ndarray] | None:
    """The sum over taps of the variance of an entry, and the share of each tap.

    Args:
        initializer: that of the kernel.
        shape: of the kernel, [*window, ., .].
        layer: whose kernel it is: it says what the last two axes are, the strides and the groups.

    Returns:
        (variance, profile [*window] with sum one), or None for an initializer that does not draw
        entries of mean zero and known variance.
    """
    window = shape[:-2]
    if _known(initializer, _OWN):
        variances = initializer.entry_variances(shape, layer)
        total = float(variances.sum())
        return total, variances / total if total else np.full(window, 1 / math.prod(window))
    entry = entry_variance(initializer, shape)
    taps = math.prod(window)
    return None if entry is None else (entry * taps, np.full(window, 1 / taps))


def weight_variance(
    call: "Call", initializer: Any, shape: tuple[int, ...], channels: int
) -> tuple[float, np.ndarray]:
    """sigma_w^2 = channels * (sum over taps of an entry's variance), and the profile."""
    known = kernel_profile(initializer, shape, call.layer)
    if known is None:
        call.refuse(
            f"the kernel initializer {type(initializer).__name__} has no known infinite-width "
            f"variance. Accepted: {_KNOWN}"
        )
    return known[0] * channels, known[1]


def bias_variance(call: "Call", initializer: Any, shape: tuple[int, ...]) -> float:
    """sigma_b^2 of a bias."""
    narrow = (_kinds.VarianceScaling, _kinds.Orthogonal)
    variance = None if isinstance(initializer, narrow) else entry_variance(initializer, shape)
    if variance is None:
        call.refuse(
            f"the bias initializer {type(initializer).__name__} has no known infinite-width "
            "variance. Accepted: Zeros, and RandomNormal, TruncatedNormal or RandomUniform of "
            "mean zero"
        )
    return variance


def objection(layer: Any) -> str | None:
    """Why the weights of a layer are not free numbers of their initializers' law; or None."""
    if getattr(layer, "quantization_mode", None):
        return f"it is quantized ({layer.quantization_mode}): its weights are not trained numbers"
    if getattr(layer, "lora_enabled", False):
        return (
            f"its low-rank update (LoRA, rank {layer.lora_rank}) has a finite width, so that its "
            "tangent kernel stays random"
        )
    for name, value in vars(layer).items():
        if name.endswith("_constraint") and value is not None:
            return f"its {name} {type(value).__name__} moves the weights after each step"
    return None
