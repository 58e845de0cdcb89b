"""The critical line chi_1 = 1, where gradients neither vanish nor explode."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mfcnn import activations, arguments
from mfcnn.meanfield._roots import bracketed_root

__all__ = ["critical_point", "critical_weight_variance"]

_SCAN = 10.0 ** (np.arange(-16 * 8, 12 * 8) / 8 + 0.0463)


def critical_point(
    activation: Any, q_star: ArrayLike
) -> tuple[float | np.ndarray, float | np.ndarray]:
    """The point of the critical line at which the variance's fixed point is q_star.

        weight_variance = 1 / E[phi'(u)^2],   bias_variance = q* - E[phi(u)^2] / E[phi'(u)^2]

    with u ~ N(0, q*) (CNN paper, section 2.1.4, chi_1 = 1). The bias variance is a small difference
    (of order q*^3 for tanh), which is computed without cancellation. Where phi is not of sigmoid
    shape (swish, gelu, exp) the fixed point can be unstable, chi_q > 1: inputs then go elsewhere,
    as `fixed_point` tells.

    Args:
        activation: a name, an `Activation` or a known TF or Keras function.
        q_star: the fixed-point variance, a positive number or array.

    Returns:
        (weight_variance, bias_variance), floats or float64 arrays of the shape of q_star.

    Raises:
        ValueError: if q_star is not positive, or no critical point has it (bias_variance < 0, as
            for softplus and small q_star).

    Example:
        >>> import mfcnn
        >>> mfcnn.meanfield.critical_point("relu", 1.0)
        (2.0, 0.0)

    Source: CNN paper, section 2.1.4; NTK paper, section 2.
    """
    activation = activations.get(activation)
    q = arguments.variances("q_star", q_star, positive=True)
    if activation.homogeneity is not None:
        return _like(np.full(q.shape, 1 / activation.homogeneity), np.zeros(q.shape))
    derivative = activation.derivative_second_moment(q)
    bias_variance = activation.deficit(q) / derivative
    # Rounding of a deficit that is zero; below it a negative value is one.
    bias_variance = np.where(np.abs(bias_variance) < 1e-30 * q, 0.0, bias_variance)
    if np.any(bias_variance < 0):
        raise ValueError(
            f"{activation.name} has no critical point at q_star={q_star!r}: chi_1 = 1 there needs "
            f"bias_variance={np.min(bias_variance):.4g}."
        )
    return _like(1 / derivative, bias_variance)


def critical_weight_variance(activation: Any, bias_variance: ArrayLike) -> float | np.ndarray:
    """The weight variance of the critical line at a bias variance.

    Args:
        activation: a name, an `Activation` or a known TF or Keras function.
        bias_variance: sigma_b^2, a non-negative number or array.

    Returns:
        weight_variance, a float or a float64 array of the shape of bias_variance. Where the line
        has several points with this bias variance, it is the one of smallest q_star.

    Raises:
        ValueError: for a negative bias variance, or if no point of the line has it (relu and other
            homogeneous activations are critical only at bias_variance 0).

    Example:
        >>> import mfcnn
        >>> round(mfcnn.meanfield.critical_weight_variance("tanh", 0.05), 5)
        1.76095

    Source: CNN paper, Figure S1.
    """
    activation = activations.get(activation)
    target = arguments.variances("bias_variance", bias_variance)
    if activation.homogeneity is not None:
        if np.any(target > 0):
            raise ValueError(
                f"{activation.name} is critical only at bias_variance=0, "
                f"weight_variance={1 / activation.homogeneity:g}. Received: "
                f"bias_variance={bias_variance!r}"
            )
        return _like(np.full(target.shape, 1 / activation.homogeneity))

    def line(q: np.ndarray) -> np.ndarray:
        return activation.deficit(q) / activation.derivative_second_moment(q)

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        scan = line(_SCAN)
    flat = target.ravel()
    phi_0, slope_0 = activation.at_zero()
    # If phi(0) = 0 and phi is smooth there, the line starts at q* = 0 with bias variance 0 and is
    # flat below the scan.
    origin = np.full(flat.shape, bool(phi_0 == 0 and slope_0 > 0))
    origin &= flat <= max(scan[0], 0.0)
    first = np.array([_first_crossing(scan, value) for value in flat], int)
    missing = ~origin & (first < 0)
    if np.any(missing):
        raise ValueError(
            f"The critical line of {activation.name} has no point with bias_variance="
            f"{flat[missing][0]:g}."
        )
    result = np.full(flat.shape, 1 / slope_0 if np.any(origin) else np.nan)
    rows = np.flatnonzero(~origin)
    if rows.size:
        low, high = _SCAN[first[rows]], _SCAN[first[rows] + 1]
        q = bracketed_root(lambda x: line(x) - flat[rows], low, high)
        result[rows] = 1 / activation.derivative_second_moment(q)
    return _like(result.reshape(target.shape))


def _first_crossing(values: np.ndarray, target: float) -> int:
    """The first i with values[i] < target <= values[i + 1], or -1."""
    crosses = (values[:-1] < target) & (values[1:] >= target)
    return int(np.argmax(crosses)) if crosses.any() else -1


def _like(*arrays: np.ndarray) -> Any:
    values = tuple(a.item() if np.ndim(a) == 0 else a for a in map(np.asarray, arrays))
    return values if len(values) > 1 else values[0]
