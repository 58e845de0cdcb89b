"""Mean field theory: where signals and gradients go in a deep random network."""

import warnings
from typing import Any

from mfcnn.meanfield._basins import Basin, variance_basins
from mfcnn.meanfield._covariance import covariance_trajectory, fixed_point_covariance
from mfcnn.meanfield._critical import critical_point, critical_weight_variance
from mfcnn.meanfield._finite_width import (
    MeanFieldNTK,
    mean_field_ntk,
    relu_critical_ratio,
    trained_output_variance,
)
from mfcnn.meanfield._fixed_points import (
    FixedPoint,
    NoFixedPointError,
    fixed_point,
    fixed_points,
)
from mfcnn.meanfield._gradients import log_gradient_norms
from mfcnn.meanfield._jacobian_moments import JacobianMoments, jacobian_moments
from mfcnn.meanfield._linearization import Linearization, linearize_covariance
from mfcnn.meanfield._modes import mode_depth_scales, mode_eigenvalues, variance_profile
from mfcnn.meanfield._spectrum import (
    JacobianSpectrum,
    jacobian_density,
    jacobian_spectrum,
)
from mfcnn.meanfield._stem import stem_covariance, stem_variances
from mfcnn.meanfield._trainability import trainability
from mfcnn.meanfield._verdict import Trainability

__all__ = [
    "Basin",
    "FixedPoint",
    "JacobianMoments",
    "JacobianSpectrum",
    "Linearization",
    "MeanFieldNTK",
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
    "jacobian_spectrum",
    "linearize_covariance",
    "log_gradient_norms",
    "mean_field_ntk",
    "mode_depth_scales",
    "mode_eigenvalues",
    "relu_critical_ratio",
    "stem_covariance",
    "stem_variances",
    "trainability",
    "trained_output_variance",
    "variance_basins",
    "variance_profile",
]


def __getattr__(name: str) -> Any:
    """`jacobian_singular_values` measures and has moved to `mfcnn.empirical`; it stays here too."""
    if name != "jacobian_singular_values":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mfcnn import empirical  # not at import: empirical builds on this package

    warnings.warn(
        "mfcnn.meanfield.jacobian_singular_values is now mfcnn.empirical.jacobian_singular_values.",
        DeprecationWarning,
        stacklevel=2,
    )
    return empirical.jacobian_singular_values


def __dir__() -> list[str]:
    return list(__all__)
