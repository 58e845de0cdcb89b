"""Fixed points of the variance and correlation maps, their stability, phase and depth scales.

A layer maps the variance q of the pre-activations and the correlation c of two inputs by

    q -> weight_variance E[phi(u)^2] + bias_variance,                u ~ N(0, q)
    c -> (weight_variance E[phi(u) phi(v)] + bias_variance) / q*,    corr(u, v) = c,

(CNN paper, section 2.1; NTK paper, section 2). Both equations are solved by bracketing, never by
iterating the map: on the critical line that would need infinitely many iterations.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mfcnn import activations, arguments
from mfcnn.meanfield._basins import EPSILON, basins, reached
from mfcnn.meanfield._roots import bracketed_root
from mfcnn.meanfield._saturation import saturated_correlation
from mfcnn.meanfield._tables import moment_table

__all__ = [
    "FixedPoint",
    "NoFixedPointError",
    "fixed_point",
    "fixed_points",
]


class NoFixedPointError(ValueError):
    """The variance has no fixed point below 1e12: it grows without bound."""


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """Where signals go in a deep network, and how fast.

    Attributes:
        q_star: variance of the pre-activations that the layers converge to.
        c_star: correlation of two inputs that the layers converge to.
        chi_1: weight_variance E[phi'(u)^2]: growth of gradients, and of 1 - c at c = 1, per layer.
        chi_c: weight_variance E[phi'(u) phi'(v)] at c_star: decay of c - c_star per layer.
        chi_q: weight_variance E[phi'^2 + phi phi'']: decay of q - q_star per layer.
        phase: "ordered" (chi_1 < 1), "critical" or "chaotic".
        xi_c: -1 / log(chi_c), depth scale of the correlation in layers; infinite when critical.
        xi_q: -1 / log|chi_q|, depth scale of the variance.
        xi_star: -1 / (log(chi_c) - log(chi_1)), the depth beyond which a chaotic network can't
            generalize (NTK paper, section 3.1); infinite in the other phases, where chi_c = chi_1.
    """

    q_star: float
    c_star: float
    chi_1: float
    chi_c: float
    chi_q: float
    phase: str
    xi_c: float
    xi_q: float
    xi_star: float


def fixed_point(
    activation: Any, weight_variance: float, bias_variance: float, input_variance: float = 1.0
) -> FixedPoint:
    """The fixed point that inputs of a given variance converge to.

    The map of q never oscillates: d log E[phi^2] / d log q >= -1/2 for every phi. Of several stable
    fixed points (`variance_basins` lists them) it is the one that the map reaches from
    input_variance. With bias_variance 0 and phi(0) = 0 it can be q* = 0 (tanh, weight_variance
    <= 1); then chi_1 and chi_q are weight_variance phi'(0)^2 and c* is 1 by convention, as in the
    ordered phase. For a homogeneous phi (relu, linear) on its critical point, (2, 0) for relu,
    every q is a fixed point: q_star is the variance it starts from.

    The phase is "critical" when chi_1 equals 1 to the accuracy with which float64 arguments
    determine it: 64 rounding units, times the sensitivity of chi_1 to an error in q*.

    Args:
        activation: a name, an `Activation` or a known TF or Keras function.
        weight_variance: sigma_w^2, a non-negative number.
        bias_variance: sigma_b^2, a non-negative number.
        input_variance: of the first layer's pre-activations, a positive number.

    Returns:
        A `FixedPoint` of Python floats.

    Raises:
        NoFixedPointError: (a ValueError) if the variance grows without bound, as for relu with
            weight_variance > 2.
        ValueError: for a negative or non-finite variance.

    Example:
        >>> import mfcnn
        >>> point = mfcnn.meanfield.fixed_point("tanh", 1.5, 0.05)
        >>> point.phase, round(point.chi_1, 4), round(point.xi_c, 2)
        ('ordered', 0.9386, 15.79)

    Source: CNN paper, section 2.1.2 and eq. 2.7; NTK paper, section 2.
    """
    activation = activations.get(activation)
    weight_variance = arguments.variance("weight_variance", weight_variance)
    bias_variance = arguments.variance("bias_variance", bias_variance)
    start = arguments.variance("input_variance", input_variance, positive=True)
    result = _solve(
        activation, activation, np.array([weight_variance]), np.array([bias_variance]), start
    )
    point = FixedPoint(**{name: values[0].item() for name, values in result.items()})
    if point.phase == "unbounded":
        raise NoFixedPointError(
            f"The variance grows without bound for {activation.name} at weight_variance="
            f"{weight_variance}, bias_variance={bias_variance}: no fixed point."
        )
    return point


def fixed_points(
    activation: Any,
    weight_variance: ArrayLike,
    bias_variance: ArrayLike,
    input_variance: float = 1.0,
) -> FixedPoint:
    """`fixed_point` for arrays: a phase diagram in one call.

    Args:
        activation: a name, an `Activation` or a known TF or Keras function.
        weight_variance: sigma_w^2, non-negative, any shape.
        bias_variance: sigma_b^2, non-negative, broadcast against weight_variance.
        input_variance: of the first layer's pre-activations, a positive number.

    Returns:
        A `FixedPoint` whose fields are arrays of the broadcast shape. Where the variance has no
        bound the phase is "unbounded", q_star is infinite, and the rest, which does not exist, NaN.

    Raises:
        ValueError: for a negative or non-finite variance.

    Example:
        >>> import mfcnn
        >>> mfcnn.meanfield.fixed_points("tanh", [1.0, 2.0], 0.05).phase.tolist()
        ['ordered', 'chaotic']

    Source: CNN paper, Figure S1.
    """
    activation = activations.get(activation)
    weight_variance, bias_variance = np.broadcast_arrays(
        arguments.variances("weight_variance", weight_variance),
        arguments.variances("bias_variance", bias_variance),
    )
    start = arguments.variance("input_variance", input_variance, positive=True)
    result = _solve(
        moment_table(activation), activation, weight_variance.ravel(), bias_variance.ravel(), start
    )
    shape = weight_variance.shape
    arrays: dict[str, Any] = {name: values.reshape(shape) for name, values in result.items()}
    return FixedPoint(**arrays)


def _solve(
    moments: Any,
    activation: activations.Activation,
    weight_variance: np.ndarray,
    bias_variance: np.ndarray,
    start: float,
) -> dict[str, np.ndarray]:
    """All fields of FixedPoint as arrays [n]; `moments` evaluates the one-point moments."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found_basins = basins(moments, activation, weight_variance, bias_variance)
        q = np.array([reached(row, start) for row in found_basins])
        found = np.isfinite(q)
        chi_1, chi_q, tolerance = _slopes(moments, activation, q, weight_variance)
        phase = np.select(
            [~found, chi_1 < 1 - tolerance, chi_1 <= 1 + tolerance],
            ["unbounded", "ordered", "critical"],
            "chaotic",
        )
        c, chi_c = np.where(found, 1.0, np.nan), chi_1.copy()
        chaotic = phase == "chaotic"
        if np.any(chaotic):
            c[chaotic], chi_c[chaotic] = _correlations(
                moments, activation, q[chaotic], weight_variance[chaotic], bias_variance[chaotic]
            )
        xi_c = np.where(phase == "critical", np.inf, -1 / np.log(chi_c))
        xi_star = np.where(chaotic, -1 / (np.log(chi_c) - np.log(chi_1)), np.inf)
        stable_q = np.minimum(np.abs(chi_q), 1.0)  # above 1 only by rounding, where q* is marginal
        xi_q = np.where(stable_q == 1, np.inf, -1 / np.log(stable_q))
    return {
        "q_star": q,
        "c_star": c,
        "chi_1": chi_1,
        "chi_c": chi_c,
        "chi_q": chi_q,
        "phase": phase,
        "xi_c": xi_c,
        "xi_q": np.where(found, xi_q, np.nan),
        "xi_star": np.where(found, xi_star, np.nan),
    }


def _slopes(
    moments: Any, activation: activations.Activation, q: np.ndarray, weight_variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(chi_1, chi_q, tolerance of chi_1) at the fixed points; NaN where there is none."""
    slope = activation.homogeneity
    if slope is None:
        slope = activation.at_zero()[1]
    chi_1 = np.where(np.isfinite(q), weight_variance * slope, np.nan)
    chi_q, tolerance = chi_1.copy(), np.full(q.shape, EPSILON)
    rows = np.isfinite(q) & (q > 1e-200)
    if activation.homogeneity is None and np.any(rows):
        x, w, step = q[rows], weight_variance[rows], 1e-4
        chi_1[rows] = w * moments.derivative_second_moment(x)
        chi_q[rows] = w * moments.second_moment_slope(x)
        # A rounding of the map moves q* by eps q* / |1 - chi_q|, and chi_1 by its slope times that.
        above, below = (moments.derivative_second_moment(x * (1 + s)) for s in (step, -step))
        change = w * np.abs(above - below) / (2 * step)
        tolerance[rows] += EPSILON * change / np.maximum(np.abs(1 - chi_q[rows]), EPSILON)
    return chi_1, chi_q, tolerance


def _correlations(
    moments: Any,
    activation: activations.Activation,
    q: np.ndarray,
    weight_variance: np.ndarray,
    bias_variance: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(c*, chi_c) of chaotic points, each [n]; in closed form where phi is a step."""
    rows = zip(q, weight_variance, bias_variance)
    found = [saturated_correlation(activation, *row) for row in rows]
    rest = np.array([one is None for one in found])
    result = np.array([(np.nan, np.nan) if one is None else one for one in found]).T
    if np.any(rest):
        result[:, rest] = _correlation_fixed_point(
            moments, q[rest], weight_variance[rest], bias_variance[rest]
        )
    return result[0], result[1]


def _correlation_fixed_point(
    moments: Any, q: np.ndarray, weight_variance: np.ndarray, bias_variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(c*, chi_c) of chaotic points, each [n]."""
    # c* solves weight_variance (E[phi^2] - E[phi phi](c)) = q (1 - c): the quotient falls from
    # chi_1 > 1 at c = 1 to at most 1 at c = 0, since E[phi' phi'] grows with c.
    pair = moments.pair_moments(q)
    means = np.asarray(moments.mean(q))
    uncorrelated = (bias_variance == 0) & (weight_variance * means**2 < 1e-28 * q)
    gap = bracketed_root(
        lambda gap: np.where(uncorrelated, gap - 1.0, weight_variance * pair.secant(gap) - 1.0),
        np.zeros_like(q),
        np.ones_like(q),
    )
    # E[phi' phi'] is not negative for c >= 0 but where it is the rounding of E[phi'^2].
    return 1.0 - gap, weight_variance * np.maximum(pair.derivative(gap), 0.0)
