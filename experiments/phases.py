"""The three phases of the NTK and of the finite-width paper: a point of each."""

from collections.abc import Mapping

from mfcnn import meanfield

__all__ = ["FACTORS", "FINITE_WIDTH_PHASES", "TITLES", "finite_width_starts", "variances"]

# sigma_w^2 over its critical value. The paper prints no variances for its Figures 1 and 4.
FACTORS = {"ordered": 0.8, "critical": 1.0, "chaotic": 1.3}
TITLES = {"ordered": "ordered phase", "critical": "critical line", "chaotic": "chaotic phase"}
FINITE_WIDTH_PHASES = ("ordered", "border", "chaotic")  # in that paper's words


def variances(
    phase: str, activation: str, q_star: float, factors: Mapping[str, float] = FACTORS
) -> tuple[float, float]:
    """(weight_variance, bias_variance) of a phase, all with the bias of the critical point.

    Example:
        >>> round(variances("critical", "erf", 0.5)[0], 3)
        1.36
    """
    weight_variance, bias_variance = map(float, meanfield.critical_point(activation, q_star))
    return factors[phase] * weight_variance, bias_variance


def finite_width_starts() -> dict[tuple[str, str], tuple[float, float]]:
    """(weight_variance, bias_variance) by activation and phase."""
    critical, bias = map(float, meanfield.critical_point("erf", 0.5))
    erf = (0.7 * critical, bias), (critical, bias), (1.6 * critical, bias)
    relu = (1.5, 0.05), (2.0, 0.0), (2.5, 0.05)
    return {
        (activation, phase): variances
        for activation, found in (("erf", erf), ("relu", relu))
        for phase, variances in zip(FINITE_WIDTH_PHASES, found)
    }
