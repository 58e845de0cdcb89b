"""The covariance of pre-activations, layer by layer, over positions and inputs, at finite depth.

The covariance of m inputs is an array [m, *size, m, *size]: 1D images give rank 4, 2D images rank 6
(CNN paper, eqs. 2.3 and 2.13; one input there). A layer maps it by

    Sigma -> A_v * (weight_variance E[phi(u) phi(v)] + bias_variance),
    (A_v * C)[a, a'] = sum_beta v_beta C[a + beta, a' + beta],      periodic.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from mfcnn import activations, arguments, profiles
from mfcnn.meanfield._averaging import average, check_padding, check_valid_depth, interior
from mfcnn.meanfield._fixed_points import FixedPoint
from mfcnn.meanfield._tables import moment_table

__all__ = ["covariance_trajectory", "fixed_point_covariance", "second_moments_of_pairs"]


def covariance_trajectory(
    covariance: ArrayLike,
    activation: Any,
    weight_variance: float,
    bias_variance: float,
    variance_profile: Any,
    depth: int,
    padding: str = "circular",
    last_only: bool = False,
) -> np.ndarray | list[np.ndarray]:
    """Covariances of layers 0 to depth by the exact iteration, as one tf loop.

    Args:
        covariance: of the pre-activations of layer 0, [m, *size, m, *size], symmetric and positive
            semi-definite.
        activation: a name or an `Activation`.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        variance_profile: what `mfcnn.profiles.parse` takes; its rank is that of the images.
        depth: the number of layers to go on, >= 0.
        padding: "circular", "same" (zeros) or "valid" (the image loses k - 1 positions a layer).
        last_only: whether only the last layer's covariance comes back: deep networks of many
            positions need no room for the others.

    Returns:
        float64 numpy array [depth + 1, m, *size, m, *size], or [m, *size, m, *size] with last_only;
        with padding="valid" a list of depth + 1 arrays, each of its layer's size.

    Raises:
        ValueError: for a negative variance, a profile that is not one, a covariance of another rank
            or not symmetric, or a variance that overflows on the way.

    Example:
        >>> import mfcnn, numpy as np
        >>> start = np.eye(4).reshape(1, 4, 1, 4)
        >>> path = mfcnn.meanfield.covariance_trajectory(start, "erf", 1.5, 0.1, "uniform", 2)
        >>> path.shape, round(float(path[2, 0, 0, 0, 0]), 4)
        ((3, 1, 4, 1, 4), 0.7319)

    Source: CNN paper, eqs. 2.3 and 2.13.
    """
    activation = activations.get(activation)
    values = arguments.array("covariance", covariance)
    profile = profiles.parse(variance_profile, rank=max(1, values.ndim // 2 - 1))
    values = _check_covariance(values, profile)
    depth, padding = arguments.depth(depth, least=0), check_padding(padding)
    last_only = arguments.boolean("last_only", last_only)
    weight_variance = arguments.variance("weight_variance", weight_variance)
    bias_variance = arguments.variance("bias_variance", bias_variance)
    half = values.ndim // 2
    size = values.shape[1:half]
    if padding == "valid":
        check_valid_depth(size, profile, depth)
    n = int(np.prod(values.shape[:half]))
    border = "same" if padding == "same" else "circular"
    share = average(tf.ones((1, *size), tf.float64), profile, border).numpy().min()
    second_moments = _second_moments(
        activation, weight_variance, bias_variance, np.diag(values.reshape(n, n)), share, depth
    )
    start = tf.constant(values)

    @tf.function(autograph=False)
    def run() -> tf.Tensor:
        layer = functools.partial(
            _layer, second_moments, weight_variance, bias_variance, profile, border
        )
        return _last(layer, start, depth)[None] if last_only else _history(layer, start, depth)

    result = run().numpy()
    finite = np.isfinite(result).all(axis=tuple(range(1, result.ndim)))
    if not finite.all():
        raise ValueError(
            f"The covariance leaves the range of float64 by layer {np.argmin(finite)} of {depth}."
        )
    if padding != "valid":
        return result[-1] if last_only else result
    layers = [depth] if last_only else range(depth + 1)
    parts = [_cropped(part, size, profile, layer) for part, layer in zip(result, layers)]
    return parts[-1] if last_only else parts


def _layer(
    second_moments: Callable[[tf.Tensor], tf.Tensor],
    weight_variance: float,
    bias_variance: float,
    profile: np.ndarray,
    border: str,
    covariance: tf.Tensor,
) -> tf.Tensor:
    shape = covariance.shape
    n = int(np.prod(shape[: len(shape) // 2]))
    second = tf.reshape(second_moments(tf.reshape(covariance, [n, n])), shape)
    return weight_variance * average(second, profile, border, copies=2) + bias_variance


def _last(layer: Callable[[tf.Tensor], tf.Tensor], start: tf.Tensor, depth: int) -> tf.Tensor:
    state = (tf.constant(0), start)
    return tf.while_loop(lambda i, _: i < depth, lambda i, c: (i + 1, layer(c)), state)[1]


def _history(layer: Callable[[tf.Tensor], tf.Tensor], start: tf.Tensor, depth: int) -> tf.Tensor:
    def step(index: tf.Tensor, current: tf.Tensor, history: tf.TensorArray) -> tuple[Any, ...]:
        current = layer(current)
        return index + 1, current, history.write(index + 1, current)

    history = tf.TensorArray(tf.float64, size=depth + 1, element_shape=start.shape)
    state = (tf.constant(0), start, history.write(0, start))
    return tf.while_loop(lambda i, *_: i < depth, step, state)[2].stack()


def _cropped(
    covariance: np.ndarray, size: tuple[int, ...], profile: np.ndarray, layers: int
) -> np.ndarray:
    kept = (slice(None), *interior(size, profile, layers))
    return covariance[kept + kept]


def fixed_point_covariance(point: FixedPoint, size: Any, inputs: int = 1) -> np.ndarray:
    """q* (delta + (1 - delta) c*) over positions and inputs.

    Args:
        point: a `FixedPoint`.
        size: spatial size, an integer for one dimension, or one for each.
        inputs: their number m.

    Returns:
        float64 [m, *size, m, *size].

    Raises:
        ValueError: for a size or a number of inputs below 1.

    Example:
        >>> import mfcnn
        >>> point = mfcnn.meanfield.fixed_point("relu", 1.0, 0.5)
        >>> mfcnn.meanfield.fixed_point_covariance(point, 2).reshape(2, 2)
        array([[1., 1.],
               [1., 1.]])

    Source: CNN paper, eq. 2.6.
    """
    size = arguments.sizes("size", size, max(1, np.size(size)))
    inputs = arguments.integer("inputs", inputs, 1)
    if not isinstance(point, FixedPoint):
        raise arguments.ArgumentTypeError(f"point must be a FixedPoint. Received: point={point!r}")
    n = inputs * int(np.prod(size))
    matrix = point.q_star * (point.c_star + (1 - point.c_star) * np.eye(n))
    return matrix.reshape((inputs, *size, inputs, *size))


def _second_moments(
    activation: activations.Activation,
    weight_variance: float,
    bias_variance: float,
    variances: np.ndarray,
    least_share: float,
    depth: int,
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from a covariance matrix [n, n] to E[phi(u) phi(v)] of all its pairs."""
    known = activation.closed_form
    if known is not None:
        return lambda matrix: _pairs(known, matrix)
    table = moment_table(activation)
    q = np.array([np.min(variances), np.max(variances)])
    low, high = q
    # The average of A_v keeps variances between the images of the smallest and the largest, but
    # for the share that zeros outside the image take.
    shares = np.array([least_share, 1.0])
    for _ in range(depth):
        second = table.second_moment(np.maximum(q, 1e-25))  # the table's end; 0 for dead signals
        q, last = weight_variance * second * shares + bias_variance, q
        low, high = min(low, *q), max(high, *q)
        if np.all(np.abs(q - last) < 1e-12 * q):
            break
    maps = activation.dual(low, high)
    return lambda matrix: _pairs(maps, matrix)


def second_moments_of_pairs(activation: activations.Activation, covariance: tf.Tensor) -> tf.Tensor:
    """E[phi(u) phi(v)] of all pairs of a covariance [m, *size, m, *size]."""
    shape = covariance.shape
    n = int(np.prod(shape[: len(shape) // 2]))
    matrix = tf.reshape(covariance, [n, n])
    variances = tf.linalg.diag_part(matrix).numpy()
    moments = _second_moments(activation, 1.0, 0.0, variances, 1.0, 0)
    return tf.reshape(moments(matrix), shape)


def _pairs(maps: activations.Dual, matrix: tf.Tensor) -> tf.Tensor:
    q = tf.linalg.diag_part(matrix)
    equal = tf.eye(matrix.shape[0], dtype=tf.bool)
    return maps.maps(q[:, None], q[None, :], matrix, equal)[0]


def _check_covariance(values: np.ndarray, profile: np.ndarray) -> np.ndarray:
    half = values.ndim // 2
    if values.ndim != 2 * profile.ndim + 2 or values.shape[:half] != values.shape[half:]:
        raise ValueError(
            f"covariance must have the shape [m, *size, m, *size] with {profile.ndim} spatial "
            f"dimensions, the rank of variance_profile. Received: shape {values.shape}"
        )
    n = int(np.prod(values.shape[:half]))
    matrix = values.reshape(n, n)
    if not np.allclose(matrix, matrix.T, rtol=1e-9, atol=0) or np.any(np.diag(matrix) < 0):
        raise ValueError("covariance must be symmetric with a non-negative diagonal.")
    return values
