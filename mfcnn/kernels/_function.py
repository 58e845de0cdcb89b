"""The kernel of a dense network on a sphere: one function of the angle between two inputs.

For inputs of one norm all variances of a layer are equal, so that NNGP and NTK after any number of
layers are functions of the first layer's angle t alone. They are smooth in t on [0, pi] (a kernel
of a smooth activation is analytic in cos(t); that of a piecewise linear one, a polynomial in t,
sin(t) and cos(t) in each layer, in t itself), so that a Chebyshev series in t takes their place:
the depth is paid for at some hundred nodes, whatever the number of pairs.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn import arguments, numerics
from mfcnn.kernels import _series

__all__ = ["KernelFunction", "NotResolvedError", "tabulate"]

_DEGREES = (32, 64, 128, 256, 512)
_TOLERANCE = 1e-13  # of the last coefficients beside the largest: rounding of the recursion
_FIELDS = ("nngp", "ntk")


class NotResolvedError(ValueError):
    """The kernel varies too fast with the angle for a series: deep in the chaotic phase."""


class KernelFunction:
    """NNGP and NTK of inputs x, x' of one norm as functions of their correlation cos(x, x').

    Made by `kernel.function(mean_square)`. Calling it evaluates a Chebyshev series of the angle.

    Args:
        coefficients: [2, degree + 1] in 2 angle / pi - 1, of NNGP and NTK.
        mean_square: |x|^2 / features of the inputs.

    Example:
        >>> import mfcnn
        >>> kernel = mfcnn.kernels.fully_connected(5, "relu", 2.0, 0.0)
        >>> function = kernel.function(mean_square=1.0)
        >>> round(float(function(0.5, get="nngp")), 4)
        1.6209
    """

    def __init__(self, coefficients: np.ndarray, mean_square: float) -> None:
        self.coefficients, self.mean_square = coefficients, mean_square

    def __repr__(self) -> str:
        """Degree and norm."""
        degree = self.coefficients.shape[1] - 1
        return f"KernelFunction(mean_square={self.mean_square:g}, degree={degree})"

    def __call__(self, correlation: Any, get: Any = _FIELDS) -> Any:
        """Evaluates the kernels at correlations.

        Args:
            correlation: <x, x'> / (|x| |x'|), any shape; clipped to [-1, 1].
            get: "nngp", "ntk", or a tuple of them.

        Returns:
            A tensor of the shape of `correlation`, or a tuple of them, in its dtype (float64 for
            Python and NumPy numbers that are not float32).
        """
        if not tf.is_tensor(correlation):
            array = np.asarray(correlation)
            kept = array.dtype == np.float32
            correlation = tf.constant(array, tf.float32 if kept else tf.float64)
        names = (get,) if isinstance(get, str) else tuple(get)
        rows = [_FIELDS.index(arguments.choice("get", name, _FIELDS)) for name in names]
        parts = [tf.constant(_series.chains(self.coefficients[k]), correlation.dtype) for k in rows]
        values = tuple(_series.evaluate(correlation, part) for part in parts)
        return values[0] if isinstance(get, str) else values

    def truncated(self, field: str, dtype: Any) -> np.ndarray:
        """The coefficients of a field down to this dtype's rounding: fewer terms in float32."""
        series = self.coefficients[_FIELDS.index(field)]
        kept = np.abs(series) > np.finfo(dtype).eps / 8 * np.max(np.abs(series))
        return series[: np.max(np.nonzero(kept)[0], initial=0) + 1].astype(dtype)


def tabulate(kernel: Any, features: int, mean_square: float) -> KernelFunction:
    """The `KernelFunction` of a kernel that sees inputs only through norms and angles.

    The kernel itself is evaluated, on inputs of two coordinates: the recursion has no second copy.

    Args:
        kernel: a kernel of inputs [n, features].
        features: size of an input, at least 2.
        mean_square: |x|^2 / features.

    Raises:
        NotResolvedError: if `_DEGREES` do not reach rounding.
    """
    mean_square = arguments.number("mean_square", mean_square, above=0)
    radius = math.sqrt(mean_square * features)
    for count in _DEGREES:
        angles = (numerics.chebyshev_nodes(count) + 1) * (math.pi / 2)
        # Half the angle to both sides: the nodes near 0 and pi keep their digits.
        first, second = np.zeros([2, count, features])
        first[:, 0], first[:, 1] = np.cos(angles / 2), np.sin(angles / 2)
        second[:, 0], second[:, 1] = first[:, 0], -first[:, 1]
        values = _pairwise(kernel, radius * first, radius * second)
        coefficients = numerics.chebyshev_coefficients(values)
        size = np.max(np.abs(coefficients), axis=1)
        if np.all(np.max(np.abs(coefficients[:, -4:]), axis=1) < _TOLERANCE * size):
            return KernelFunction(coefficients, mean_square)
    raise NotResolvedError(
        f"{kernel!r} is not resolved by {_DEGREES[-1]} terms of a series in the angle: its depth "
        "in the chaotic phase makes it a delta function. Use fewer layers, or the kernel itself."
    )


def _pairwise(kernel: Any, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The kernels [2, n] of first[i] with second[i]."""
    size = 64  # the diagonal of small blocks
    parts = []
    for start in range(0, len(first), size):
        block = kernel(first[start : start + size], second[start : start + size])
        parts.append(np.stack([np.diagonal(np.asarray(k, np.float64)) for k in block]))
    return np.concatenate(parts, axis=1)
