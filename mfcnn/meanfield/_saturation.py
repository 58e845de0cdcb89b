"""The correlation's fixed point where a saturating phi is a step to the signals, q* over 10^7.

phi' is then zero but for |x| << sqrt(q), where the Gaussian density of (u, v) is flat. With the
moments m_k = integral of x^k phi'(x) and c = sin a (Price's theorem, dE[phi phi] / dc =
q E[phi' phi'], and one term of the density's series):

    E[phi' phi'] = (m_0^2 - (m_0 m_2 - c m_1^2) / (q cos^2 a)) / (2 pi q cos a)
    E[phi phi] = E[phi]^2 + (m_0^2 a - (m_0 m_2 tan a - m_1^2 (1 / cos a - 1)) / q) / (2 pi)

to a relative error of the square of m_2 / (m_0 q cos^2 a).
"""

from typing import Any

import numpy as np
from scipy import integrate

from mfcnn.meanfield._roots import bracketed_root

__all__ = ["saturated_correlation"]

_LEAST_VARIANCE = 1e7
_LEAST_COSINE = 0.1  # nearer to c = 1 the density is no longer flat


def saturated_correlation(
    activation: Any, q: float, weight_variance: float, bias_variance: float
) -> tuple[float, float] | None:
    """(c*, chi_c), or None where phi does not saturate or the series does not hold."""
    if q < _LEAST_VARIANCE:
        return None
    x = np.linspace(-64.0, 64.0, 2**14 + 1)
    slope = np.asarray(activation.phi_prime(x))
    if np.max(np.abs(slope[np.abs(x) > 32])) > 1e-12 * np.max(slope):
        return None
    m_1, m_2 = (float(integrate.trapezoid(slope * x**k, x)) for k in (1, 2))
    ends = np.asarray(activation.phi(np.array([-64.0, 64.0])))
    m_0 = float(ends[1] - ends[0])  # exact: m_1 and m_2 only correct by 1 / q
    mean = float(activation.mean(q))

    def excess(c: np.ndarray) -> np.ndarray:
        a = np.arcsin(c)
        correction = (m_0 * m_2 * np.tan(a) - m_1**2 * (1 / np.cos(a) - 1)) / q
        pair = mean**2 + (m_0**2 * a - correction) / (2 * np.pi)
        return weight_variance * pair + bias_variance - q * c

    high = np.sqrt(1 - _LEAST_COSINE**2)
    if excess(np.array([high]))[0] > 0:
        return None
    c = float(bracketed_root(excess, np.zeros(1), np.array([high]))[0])
    cosine = np.sqrt(1 - c * c)
    pair = (m_0**2 - (m_0 * m_2 - c * m_1**2) / (q * cosine**2)) / (2 * np.pi * q * cosine)
    return c, float(weight_variance * pair)
