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

__all__ = ["KernelFunction", "NotResolvedError", "tabulate"]

_DEGREES = (32, 64, 128, 256, 512)
_TOLERANCE = 1e-13  # of the last coefficients beside the largest: rounding of the recursion
_FIELDS = ("nngp", "ntk")
_COINCIDENT = 32  # roundings of an inner product of some thousand coordinates


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
        values = evaluate(correlation, tf.constant(self.coefficients[rows], correlation.dtype))
        return values[0] if isinstance(get, str) else tuple(tf.unstack(values))

    def truncated(self, dtype: Any) -> np.ndarray:
        """The coefficients down to this dtype's rounding: fewer terms in float32."""
        size = np.max(np.abs(self.coefficients), axis=1, keepdims=True)
        kept = np.abs(self.coefficients) > np.finfo(dtype).eps / 8 * size
        last = int(np.max(np.nonzero(np.any(kept, axis=0))[0], initial=0))
        return self.coefficients[:, : last + 1].astype(dtype)


def evaluate(correlation: tf.Tensor, coefficients: tf.Tensor) -> tf.Tensor:
    """The series [fields, ...] at correlations of any shape, by Clenshaw's recursion."""
    x = angle(correlation) * (2 / math.pi) - 1
    extra = [1] * x.shape.rank
    columns = [tf.reshape(c, [-1, *extra]) for c in tf.unstack(coefficients, axis=1)]
    first = second = tf.zeros_like(x)[None]
    for column in columns[:0:-1]:
        first, second = column + 2 * x * first - second, first
    return columns[0] + x * first - second


def angle(correlation: tf.Tensor) -> tf.Tensor:
    """The angle of a correlation; what is one to the rounding of an inner product counts as one.

    An angle is the root of a gap: without this an input beside itself would have the angle 1e-8,
    or in float32 3e-4, and a diagonal that is too small by as much.
    """
    same = correlation > 1 - _COINCIDENT * np.finfo(correlation.dtype.as_numpy_dtype).eps
    clipped = tf.clip_by_value(correlation, -1, 1)
    return tf.where(same, tf.zeros_like(clipped), tf.acos(clipped))


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
