"""The three phases of the NTK paper: a point of each, with the bias of one critical point."""

from collections.abc import Mapping

from mfcnn import meanfield

__all__ = ["FACTORS", "TITLES", "variances"]

# sigma_w^2 over its critical value. The paper prints no variances for its Figures 1 and 4.
FACTORS = {"ordered": 0.8, "critical": 1.0, "chaotic": 1.3}
TITLES = {"ordered": "ordered phase", "critical": "critical line", "chaotic": "chaotic phase"}


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
