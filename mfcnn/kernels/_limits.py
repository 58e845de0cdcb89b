"""Where NNGP and NTK go at infinite depth, and how fast: what the laws of `_asymptotics` need."""

from typing import Any, NamedTuple

import numpy as np

from mfcnn import activations, meanfield

__all__ = ["Limits", "limits"]

_NEAR = 2.0**-8  # sqrt(1 - c) where a kink shows; its square is exact in binary


class Limits(NamedTuple):
    """Where a deep kernel goes.

    Attributes:
        phase: "ordered", "critical" or "chaotic".
        q_star: NNGP diagonal.
        c_star: limit of the correlation of two inputs.
        q_ab: NNGP off-diagonal, c_star q_star.
        chi_1: growth of the NTK diagonal.
        chi_c: decay of off-diagonal corrections.
        chi_2: weight_variance * E[phi'' phi''] at c_star: the slope of weight_variance T'.
        p: NTK diagonal in the limit; infinite but in the ordered phase.
        p_ab: NTK off-diagonal, q_ab / (1 - chi_c); infinite on the critical line.
        xi_1: 1 / |log chi_1|.
        xi_star: 1 / (log chi_1 - log chi_c), infinite but in the chaotic phase.
        chi_3: weight_variance * E[phi''' phi'''] at c_star; NaN for an activation with kinks.
        kink: (chi_1 - weight_variance T'(c)) / sqrt(1 - c) at c -> 1; zero without kinks.
        bend: what is left of it, in the next order of sqrt(1 - c); zero without kinks.
    """

    phase: str
    q_star: float
    c_star: float
    q_ab: float
    chi_1: float
    chi_c: float
    chi_2: float
    p: float
    p_ab: float
    xi_1: float
    xi_star: float
    chi_3: float = 0.0
    kink: float = 0.0
    bend: float = 0.0


def limits(activation: Any, weight_variance: float, bias_variance: float) -> Limits:
    """The limits and rates of NNGP and NTK at infinite depth.

    Args:
        activation: a name or a `mfcnn.activations.Activation`.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.

    Returns:
        `Limits`.

    Raises:
        ValueError: for an unknown activation or variances that are none.

    Example:
        >>> mfcnn.kernels.limits("tanh", 0.5, 0.1).phase
        'ordered'

    Source: NTK paper, sections 3.1 to 3.3. Equation 9 prints an extra q*; the recursion is
    p(l+1) = q* + chi_1 p(l).
    """
    activation = activations.get(activation)
    fixed = meanfield.fixed_point(activation, weight_variance, bias_variance)
    q, c = fixed.q_star, fixed.c_star
    second, third, kink, bend = (weight_variance * s for s in _slopes(activation, q, c))
    ordered, critical = fixed.phase == "ordered", fixed.phase == "critical"
    with np.errstate(divide="ignore"):
        xi_1 = float(1 / np.abs(np.log(fixed.chi_1))) if not critical else np.inf
    return Limits(
        fixed.phase,
        q,
        c,
        c * q,
        fixed.chi_1,
        fixed.chi_c,
        second,
        q / (1 - fixed.chi_1) if ordered else np.inf,
        np.inf if critical else c * q / (1 - fixed.chi_c),
        xi_1,
        fixed.xi_star,
        third,
        kink,
        bend,
    )


def _slopes(
    activation: activations.Activation, q: float, c: float
) -> tuple[float, float, float, float]:
    """First and second derivative of T' = E[phi'(u) phi'(v)] by q12; its kink and bend at c = 1."""
    if q == 0:
        return 0.0, 0.0, 0.0, 0.0
    expansion = activation.hermite_basis(q)
    if expansion is not None:
        z, matrix = expansion
        weights = (np.asarray(activation.phi(np.sqrt(q) * z), np.float64) @ matrix) ** 2
        n = np.arange(weights.size)
        second = np.sum(weights * n * (n - 1) * c ** np.maximum(n - 2, 0)) / q**2
        third = np.sum(weights * n * (n - 1) * (n - 2) * c ** np.maximum(n - 3, 0)) / q**3
        return float(second), float(third), 0.0, 0.0
    steps = np.arange(4) * _NEAR
    values = activation.derivative_covariance(q, 1 - steps**2)
    kink, bend, _ = np.linalg.solve(
        steps[1:, None] ** np.arange(1, 4) * [-1, 1, 1], values[1:] - values[0]
    )
    if c == 1:
        bent = kink > 1e-6 * values[0]
        return (np.inf, np.nan, float(kink), float(bend)) if bent else (0.0, 0.0, 0.0, 0.0)
    h = 1e-2 * (1 - c)
    values = activation.derivative_covariance(q, c + h * np.array([-1.0, 1.0, -2.0, 2.0]))
    second = (8 * (values[1] - values[0]) - (values[3] - values[2])) / (12 * h * q)
    return float(second), np.nan, float(kink), float(bend)
