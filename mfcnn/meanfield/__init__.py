"""Mean field theory: where signals and gradients go in a deep random network."""

from mfcnn.meanfield.covariance import (
    Linearization,
    covariance_trajectory,
    fixed_point_covariance,
    linearize_covariance,
)
from mfcnn.meanfield.critical import critical_point, critical_weight_variance
from mfcnn.meanfield.fixed_points import FixedPoint, NoFixedPointError, fixed_point, fixed_points
from mfcnn.meanfield.gradients import log_gradient_norms
from mfcnn.meanfield.jacobian import jacobian_singular_values
from mfcnn.meanfield.modes import mode_depth_scales, mode_eigenvalues, variance_profile
from mfcnn.meanfield.spectrum import JacobianMoments, jacobian_density, jacobian_moments
from mfcnn.meanfield.trainability import Trainability, trainability

__all__ = [
    "FixedPoint",
    "JacobianMoments",
    "Linearization",
    "NoFixedPointError",
    "Trainability",
    "covariance_trajectory",
    "critical_point",
    "critical_weight_variance",
    "fixed_point",
    "fixed_point_covariance",
    "fixed_points",
    "jacobian_density",
    "jacobian_moments",
    "jacobian_singular_values",
    "linearize_covariance",
    "log_gradient_norms",
    "mode_depth_scales",
    "mode_eigenvalues",
    "trainability",
    "variance_profile",
]
