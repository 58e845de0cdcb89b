"""Every stable fixed point of the variance, and the variances that go there."""

from typing import Any, NamedTuple

import numpy as np

from mfcnn import activations, arguments
from mfcnn.meanfield._roots import bracketed_root

__all__ = ["EPSILON", "Basin", "basins", "reached", "variance_basins"]

# Rounding of a moment: sums of about 1,000 positive terms agree with quadrature to 1e-15.
_ROUNDING = 2e-15
EPSILON = 64 * np.finfo(np.float64).eps
_SCAN = 10.0 ** (np.arange(-24 * 8, 12 * 8) / 8 + 0.0463)


class Basin(NamedTuple):
    """A stable fixed point of the variance and the variances that go there.

    Attributes:
        q_star: the fixed point; infinite where the variance grows without bound.
        low: variances above this,
        high: and below this go there.
    """

    q_star: float
    low: float
    high: float


def variance_basins(
    activation: Any, weight_variance: float, bias_variance: float
) -> tuple[Basin, ...]:
    """All stable fixed points of the variance, each with the variances that go there.

    Most activations have one. Some that grow at one side (gelu, swish) have two at some variances,
    or one beside growth without bound: which is taken depends on the input.

    Args:
        activation: a name, an `Activation` or a known TF or Keras function.
        weight_variance: sigma_w^2, a non-negative number.
        bias_variance: sigma_b^2, a non-negative number.

    Returns:
        A tuple of `Basin`, by ascending q_star; empty where every variance is a fixed point (relu
        and linear on their critical point).

    Raises:
        ValueError: for a negative or non-finite variance.

    Example:
        >>> import mfcnn
        >>> mfcnn.meanfield.variance_basins("relu", 1.0, 0.5)
        (Basin(q_star=1.0, low=0.0, high=inf),)

    Source: CNN paper, section 2.1.4.
    """
    activation = activations.get(activation)
    weight_variance = arguments.variance("weight_variance", weight_variance)
    bias_variance = arguments.variance("bias_variance", bias_variance)
    w, b = np.array([weight_variance]), np.array([bias_variance])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return basins(activation, activation, w, b)[0]


def reached(basins: tuple[Basin, ...], start: float) -> float:
    """q* of the basin that holds the start; the start itself where all variances are fixed."""
    return next((basin.q_star for basin in basins if start <= basin.high), start)


def basins(
    moments: Any,
    activation: activations.Activation,
    weight_variance: np.ndarray,
    bias_variance: np.ndarray,
) -> list[tuple[Basin, ...]]:
    """The basins of each of the n pairs of variances."""
    if activation.homogeneity is not None:
        return [
            _homogeneous_basins(w * activation.homogeneity, b)
            for w, b in zip(weight_variance, bias_variance)
        ]
    second = np.asarray(moments.second_moment(_SCAN))
    # The sign of each step of the map, q -> q + ..., zero where rounding decides.
    signs = [
        _step_signs(w * second / _SCAN, b / _SCAN) for w, b in zip(weight_variance, bias_variance)
    ]
    crossings = [_crossings(row) for row in signs]
    rows = np.repeat(np.arange(len(crossings)), [len(c) for c in crossings])
    brackets = np.array([pair for row in crossings for pair in row], int).reshape(-1, 2)
    w, b = weight_variance[rows], bias_variance[rows]
    roots = bracketed_root(
        lambda q: w * (moments.second_moment(q) / q) + (b / q - 1),
        _SCAN[brackets[:, 0]],
        _SCAN[brackets[:, 1]],
    )
    slope = activation.at_zero()[1]
    return [
        _basins_of(row, roots[rows == i], _linear_fixed_point(weight_variance[i] * slope, b_i))
        for i, (row, b_i) in enumerate(zip(signs, bias_variance))
    ]


def _homogeneous_basins(chi: float, bias_variance: float) -> tuple[Basin, ...]:
    """Basins of q -> chi q + bias_variance."""
    if abs(chi - 1) <= EPSILON and bias_variance == 0:
        return ()
    grows = chi > 1 - EPSILON
    return (Basin(np.inf if grows else float(bias_variance / (1 - chi)), 0.0, np.inf),)


def _linear_fixed_point(chi: float, bias_variance: float) -> float:
    """Where the map goes below the scan: phi is linear there to rounding."""
    return 0.0 if abs(chi - 1) <= EPSILON else float(bias_variance / (1 - chi))


def _step_signs(second_over_q: np.ndarray, bias_over_q: np.ndarray) -> np.ndarray:
    excess = second_over_q + bias_over_q - 1
    excess = np.where(np.isnan(excess), np.inf, excess)
    return np.where(np.abs(excess) <= _ROUNDING * second_over_q, 0, np.sign(excess))


def _crossings(signs: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of points of the scan between which the step changes its sign."""
    points = np.flatnonzero(signs)
    changes = np.flatnonzero(np.diff(signs[points]))
    return [(points[k], points[k + 1]) for k in changes]


def _basins_of(signs: np.ndarray, roots: np.ndarray, lowest: float) -> tuple[Basin, ...]:
    """Basins from the signs of a scan, its roots in order, and the fixed point below the scan."""
    moving = signs[signs != 0]
    falls_first = moving.size == 0 or moving[0] < 0
    grows_last = moving.size > 0 and moving[-1] > 0
    points = ([lowest] if falls_first else []) + roots.tolist() + ([np.inf] if grows_last else [])
    # Stable and unstable points alternate, and both ends are stable.
    stable, borders = points[::2], [0.0, *points[1::2], np.inf]
    return tuple(Basin(q, low, high) for q, low, high in zip(stable, borders, borders[1:]))
