"""The covariance near its fixed point: which perturbation fades how fast (circular padding)."""

from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn import activations, arguments, profiles
from mfcnn.meanfield._averaging import average, profile_and_size
from mfcnn.meanfield._fixed_points import FixedPoint, fixed_point
from mfcnn.meanfield._modes import mode_eigenvalues

__all__ = ["Linearization", "linearize_covariance"]


class Linearization:
    """The linearized covariance dynamics at the fixed point (CNN paper, eqs. 2.7 to 2.12, S9-S22).

    Args:
        point: the fixed point.
        kappa: weight_variance / 2 E[phi(u) phi''(v)] at c*: what a change of one position's
            variance adds to its covariances (eq. S13).
        profile: the variance profile v, an array of sum one with an axis for each dimension.
        size: the spatial size, an integer or one for each dimension.

    Attributes:
        chi_c: eigenvalue of off-diagonal perturbations.
        chi_q: eigenvalue of diagonal perturbations.
        kappa: as given.
        profile: as given.
        eigenvalues: lambda_k of A_v, complex, shape `size`.
        off_diagonal: decay per layer of each mode of the covariances, chi_c |lambda|.
        diagonal: decay per layer of each mode of the variances, chi_q |lambda|.

    Example:
        >>> import mfcnn
        >>> point = mfcnn.meanfield.fixed_point("erf", 2.25, 0.25)
        >>> profile = mfcnn.profiles.parse([0.2, 0.6, 0.2])
        >>> linear = mfcnn.meanfield.Linearization(point, -0.1, profile, 4)
        >>> (linear.diagonal / linear.chi_q).round(3)
        array([1. , 0.6, 0.2, 0.6])
    """

    def __init__(self, point: FixedPoint, kappa: float, profile: np.ndarray, size: Any) -> None:
        """Takes a `FixedPoint`, kappa, the variance profile and the spatial size."""
        if not isinstance(point, FixedPoint):
            raise arguments.ArgumentTypeError(
                f"point must be a FixedPoint of mfcnn.meanfield. Received: point={point!r}"
            )
        self.chi_c, self.chi_q = point.chi_c, point.chi_q
        self.kappa = arguments.number("kappa", kappa)
        self.profile = profile
        self.eigenvalues = mode_eigenvalues(profile, size)
        self.off_diagonal = point.chi_c * np.abs(self.eigenvalues)
        self.diagonal = point.chi_q * np.abs(self.eigenvalues)

    def apply(self, perturbation: np.ndarray, profile: Any = None) -> np.ndarray:
        """One layer of eq. 2.9 for a perturbation [1, *size, 1, *size] of the fixed point.

        J multiplies off-diagonal entries by chi_c and diagonal ones by chi_q, and adds kappa times
        the perturbation of either variance to a covariance; A_v then averages.

        Args:
            perturbation: float64 [1, *size, 1, *size].
            profile: in place of the profile of this linearization.

        Returns:
            float64 of the same shape.
        """
        v = self.profile if profile is None else profiles.parse(profile, rank=self.profile.ndim)
        values = arguments.array("perturbation", perturbation)
        n = int(np.prod(values.shape[: values.ndim // 2]))
        matrix = values.reshape(n, n)
        variances = np.diag(matrix)
        mapped = self.chi_c * matrix + self.kappa * (variances[:, None] + variances)
        np.fill_diagonal(mapped, self.chi_q * variances)
        return average(tf.constant(mapped.reshape(values.shape)), v, copies=2).numpy()


def linearize_covariance(
    activation: Any, weight_variance: float, bias_variance: float, variance_profile: Any, size: Any
) -> Linearization:
    """The `Linearization` at the fixed point, with circular padding.

    Args:
        activation: a name or an `Activation`.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        variance_profile: what `mfcnn.profiles.parse` takes.
        size: spatial size, an integer or one for each dimension.

    Returns:
        A `Linearization`.

    Raises:
        ValueError: for a negative variance or a profile that is not one.

    Example:
        >>> import mfcnn
        >>> linear = mfcnn.meanfield.linearize_covariance("erf", 2.25, 0.25, [0.2, 0.6, 0.2], 4)
        >>> (linear.off_diagonal / linear.chi_c).round(3)
        array([1. , 0.6, 0.2, 0.6])

    Source: CNN paper, eqs. 2.7 to 2.12 and S9 to S22.
    """
    activation = activations.get(activation)
    point = fixed_point(activation, weight_variance, bias_variance)
    kappa = 0.5 * weight_variance * _second_derivative_moment(activation, point)
    return Linearization(point, kappa, *profile_and_size(variance_profile, size))


def _second_derivative_moment(activation: activations.Activation, point: FixedPoint) -> float:
    """E[phi(u) phi''(v)] at c*, as d/dq E[phi(u) phi(v)] - c E[phi'(u) phi'(v)]."""
    q, c = point.q_star, point.c_star
    if q == 0:
        return 0.0
    step = 1e-3  # five points: truncation step^4 / 30 and rounding 1e-16 / step, about 1e-12
    weights = np.array([1, -8, 8, -1]) / (12 * step * q)
    nodes = q * (1 + step * np.array([-2, -1, 1, 2]))
    return weights @ activation.covariance(nodes, c) - c * activation.derivative_covariance(q, c)
