"""Fixed points of the variance and correlation maps, their stability, phase and depth scales.

A layer maps the variance q of the pre-activations and the correlation c of two inputs by

    q -> weight_variance E[phi(u)^2] + bias_variance,                u ~ N(0, q)
    c -> (weight_variance E[phi(u) phi(v)] + bias_variance) / q*,    corr(u, v) = c,

(CNN paper, section 2.1; NTK paper, section 2). Both equations are solved by bracketing, never by
iterating the map: on the critical line that would need infinitely many iterations.
"""

import dataclasses

import numpy as np

from mfcnn import activations
from mfcnn.meanfield._arguments import check_variance
from mfcnn.meanfield._roots import bracketed_root
from mfcnn.meanfield._tables import moment_table

__all__ = ["FixedPoint", "NoFixedPointError", "fixed_point", "fixed_points"]

# Rounding of a moment: sums of about 1,000 positive terms agree with quadrature to 1e-15.
_ROUNDING = 2e-15
_SCAN = 10.0 ** (np.arange(-24 * 8, 12 * 8) / 8 + 0.0463)


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


def fixed_point(activation, weight_variance, bias_variance):
    """The fixed point that inputs of unit variance converge to.

    The map of q never oscillates: d log E[phi^2] / d log q >= -1/2 for every phi. Of several stable
    fixed points it is the one that the variance map reaches from q = 1. With
    bias_variance 0 and phi(0) = 0 it can be q* = 0 (tanh, weight_variance <= 1); then chi_1 and
    chi_q are weight_variance phi'(0)^2 and c* is 1 by convention, as in the ordered phase. For
    a homogeneous phi (relu, linear) on its critical point, (2, 0) for relu, every q is a fixed
    point: q_star is 1, the variance it starts from.

    The phase is "critical" when chi_1 equals 1 to the accuracy with which float64 arguments
    determine it: 64 rounding units, times the sensitivity of chi_1 to an error in q*.

    Args:
      activation: a name, an `Activation` or a known TF or Keras function.
      weight_variance: sigma_w^2, a non-negative number.
      bias_variance: sigma_b^2, a non-negative number.

    Returns:
      A `FixedPoint` of Python floats.

    Raises:
      NoFixedPointError: (a ValueError) if the variance grows without bound, as for relu with
        weight_variance > 2.
      ValueError: for a negative or non-finite variance.
    """
    activation = activations.get(activation)
    weight_variance = check_variance("weight_variance", weight_variance)
    bias_variance = check_variance("bias_variance", bias_variance)
    if weight_variance.ndim or bias_variance.ndim:
        raise ValueError(
            "fixed_point takes numbers, fixed_points arrays. Received: weight_variance="
            f"{weight_variance}, bias_variance={bias_variance}"
        )
    result = _solve(activation, activation, weight_variance[None], bias_variance[None])
    point = FixedPoint(**{name: values[0].item() for name, values in result.items()})
    where = (
        f"for {activation.name} at weight_variance={weight_variance}, bias_variance={bias_variance}"
    )
    if point.phase == "unbounded":
        raise NoFixedPointError(f"The variance grows without bound {where}: no fixed point.")
    return point


def fixed_points(activation, weight_variance, bias_variance):
    """`fixed_point` for arrays: a phase diagram in one call.

    Args:
      activation: a name, an `Activation` or a known TF or Keras function.
      weight_variance: sigma_w^2, non-negative, any shape.
      bias_variance: sigma_b^2, non-negative, broadcast against weight_variance.

    Returns:
      A `FixedPoint` whose fields are arrays of the broadcast shape. Where the variance has no bound
      the phase is "unbounded", q_star is infinite, and the rest, which does not exist, NaN.
    """
    activation = activations.get(activation)
    weight_variance, bias_variance = np.broadcast_arrays(
        check_variance("weight_variance", weight_variance),
        check_variance("bias_variance", bias_variance),
    )
    shape = weight_variance.shape
    result = _solve(
        moment_table(activation), activation, weight_variance.ravel(), bias_variance.ravel()
    )
    return FixedPoint(**{name: values.reshape(shape) for name, values in result.items()})


def _solve(moments, activation, weight_variance, bias_variance):
    """All fields of FixedPoint as arrays [n]; `moments` evaluates the one-point moments."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        q, chi_1, chi_q, phase, tolerance = _variance_fixed_point(
            moments, activation, weight_variance, bias_variance
        )
        found = phase == ""
        phase[found & (chi_1 < 1 - tolerance)] = "ordered"
        phase[found & (np.abs(chi_1 - 1) <= tolerance)] = "critical"
        phase[phase == ""] = "chaotic"
        chi_1[phase == "unbounded"] = np.nan

        c, chi_c = np.ones_like(q), chi_1.copy()
        c[~found] = chi_c[~found] = np.nan
        chaotic = phase == "chaotic"
        if np.any(chaotic):
            c[chaotic], chi_c[chaotic] = _correlation_fixed_point(
                moments, q[chaotic], weight_variance[chaotic], bias_variance[chaotic]
            )
        critical = phase == "critical"
        xi_c = np.where(critical, np.inf, -1 / np.log(chi_c))
        xi_star = np.where(chaotic, -1 / (np.log(chi_c) - np.log(chi_1)), np.inf)
        stable_q = np.minimum(np.abs(chi_q), 1.0)  # above 1 only by rounding, where q* is marginal
        xi_q = np.where(stable_q == 1, np.inf, -1 / np.log(stable_q))
    xi_star[~found] = np.nan
    xi_q[~found] = np.nan
    return {
        "q_star": q,
        "c_star": c,
        "chi_1": chi_1,
        "chi_c": chi_c,
        "chi_q": chi_q,
        "phase": phase,
        "xi_c": xi_c,
        "xi_q": xi_q,
        "xi_star": xi_star,
    }


def _variance_fixed_point(moments, activation, weight_variance, bias_variance):
    """(q*, chi_1, chi_q, "" or "unbounded", tolerance of chi_1), each [n]."""
    n = weight_variance.size
    phase = np.full(n, "", dtype="<U11")
    eps = 64 * np.finfo(np.float64).eps
    if activation.homogeneity is not None:
        chi = weight_variance * activation.homogeneity
        critical = np.abs(chi - 1) <= eps
        q = np.where(critical, 1.0, bias_variance / (1 - chi))
        phase[(chi > 1 + eps) | (critical & (bias_variance > 0))] = "unbounded"
        q[phase == "unbounded"] = np.inf
        return q, chi.copy(), chi.copy(), phase, np.full(n, eps)

    phi_0, slope_0 = activation.at_zero()
    second = np.asarray(moments.second_moment(_SCAN))
    ratio = second / _SCAN
    growth = weight_variance[:, None] * ratio + bias_variance[:, None] / _SCAN
    excess = np.where(np.isnan(growth), np.inf, growth - 1)
    noise = _ROUNDING * weight_variance[:, None] * ratio
    up, down = excess > noise, excess < -noise
    start = np.searchsorted(_SCAN, 1.0)
    # From q = 1 the variance climbs to the next root above if it grows there, else it falls.
    climbs = up[:, start - 1]
    above = np.argmax(down[:, start:], axis=1) + start
    below = start - 1 - np.argmax(up[:, :start][:, ::-1], axis=1)
    has_above, has_below = down[:, start:].any(axis=1), up[:, :start].any(axis=1)
    # Climbing: the root lies between `above` and the last growing point before it.
    last_up = np.array(
        [np.flatnonzero(row[:k])[-1] if row[:k].any() else 0 for row, k in zip(up, above)]
    )
    low = np.where(climbs, last_up, below)
    high = np.where(climbs, above, np.minimum(below + 1, start))
    first_down = np.array(
        [
            k + 1 + np.argmax(row[k + 1 :]) if row[k + 1 :].any() else k + 1
            for row, k in zip(down, below)
        ]
    )
    high = np.where(climbs, high, np.minimum(first_down, _SCAN.size - 1))
    q = np.full(n, np.nan)
    phase[climbs & ~has_above] = "unbounded"
    q[phase == "unbounded"] = np.inf
    root = np.where(climbs, has_above, has_below)
    if np.any(root):
        w, b = weight_variance[root], bias_variance[root]
        q[root] = bracketed_root(
            lambda x: w * (moments.second_moment(x) / x) + (b / x - 1),
            _SCAN[low[root]],
            _SCAN[high[root]],
        )
    # What is left lies below the scan, where phi is linear to rounding: q = b + w phi'(0)^2 q.
    tiny = np.isnan(q)
    chi_0 = weight_variance * slope_0
    flat = np.abs(chi_0 - 1) <= eps
    q[tiny] = np.where(flat, 0.0, bias_variance / np.where(flat, 1.0, 1 - chi_0))[tiny]
    chi_1, chi_q = chi_0.copy(), chi_0.copy()
    normal = np.isfinite(q) & (q > 1e-200)
    if np.any(normal):
        w = weight_variance[normal]
        chi_1[normal] = w * moments.derivative_second_moment(q[normal])
        chi_q[normal] = w * moments.second_moment_slope(q[normal])
    # A rounding of the map moves q* by eps q* / |1 - chi_q|, and chi_1 by its slope times that.
    tolerance = np.full(n, eps)
    if np.any(normal):
        x = q[normal]
        step = 1e-4
        slope = (
            weight_variance[normal]
            * np.abs(
                moments.derivative_second_moment(x * (1 + step))
                - moments.derivative_second_moment(x * (1 - step))
            )
            / (2 * step)
        )
        tolerance[normal] += eps * slope / np.maximum(np.abs(1 - chi_q[normal]), eps)
    return q, chi_1, chi_q, phase, tolerance


def _correlation_fixed_point(moments, q, weight_variance, bias_variance):
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
