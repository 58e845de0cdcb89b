"""Networks of finite width: their tangent kernel, its spectrum and its statistics."""

from mfcnn.empirical._jacobian import jacobian_singular_values
from mfcnn.empirical._monte_carlo import Estimate, monte_carlo_kernel, nngp
from mfcnn.empirical._products import lambda_max, ntk_vector_product
from mfcnn.empirical._ranks import effective_rank, feature_effective_rank
from mfcnn.empirical._statistics import NTKMoments, fitted_exponent, ntk_moments, ntk_samples
from mfcnn.empirical._tangent_kernel import METHODS, OUTPUTS, MethodChoice, choose_method, ntk
from mfcnn.meanfield import (  # theory: here for those who knew it here
    MeanFieldNTK,
    mean_field_ntk,
    relu_critical_ratio,
    trained_output_variance,
)

__all__ = [
    "METHODS",
    "OUTPUTS",
    "Estimate",
    "MeanFieldNTK",
    "MethodChoice",
    "NTKMoments",
    "choose_method",
    "effective_rank",
    "feature_effective_rank",
    "fitted_exponent",
    "jacobian_singular_values",
    "lambda_max",
    "mean_field_ntk",
    "monte_carlo_kernel",
    "nngp",
    "ntk",
    "ntk_moments",
    "ntk_samples",
    "ntk_vector_product",
    "relu_critical_ratio",
    "trained_output_variance",
]
