"""Mean field theory: where signals and gradients go in a deep random network."""

from mfcnn.meanfield.critical import critical_point, critical_weight_variance
from mfcnn.meanfield.fixed_points import FixedPoint, NoFixedPointError, fixed_point, fixed_points
from mfcnn.meanfield.modes import mode_depth_scales, mode_eigenvalues, variance_profile
from mfcnn.meanfield.spectrum import JacobianMoments, jacobian_moments
from mfcnn.meanfield.trainability import Trainability, trainability

__all__ = [
    "FixedPoint",
    "JacobianMoments",
    "NoFixedPointError",
    "Trainability",
    "critical_point",
    "critical_weight_variance",
    "fixed_point",
    "fixed_points",
    "jacobian_moments",
    "mode_depth_scales",
    "mode_eigenvalues",
    "trainability",
    "variance_profile",
]
