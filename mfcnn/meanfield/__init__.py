"""Mean field theory: where signals and gradients go in a deep random network."""

from mfcnn.meanfield.critical import critical_point, critical_weight_variance
from mfcnn.meanfield.fixed_points import FixedPoint, NoFixedPointError, fixed_point, fixed_points

__all__ = [
    "FixedPoint",
    "NoFixedPointError",
    "critical_point",
    "critical_weight_variance",
    "fixed_point",
    "fixed_points",
]
