"""Networks of finite width: their tangent kernel, its spectrum and its statistics."""

from mfcnn.empirical.kernel import METHODS, OUTPUTS, MethodChoice, choose_method, ntk
from mfcnn.empirical.spectrum import (
    effective_rank,
    feature_effective_rank,
    lambda_max,
    ntk_vector_product,
)

__all__ = [
    "METHODS",
    "OUTPUTS",
    "MethodChoice",
    "choose_method",
    "effective_rank",
    "feature_effective_rank",
    "lambda_max",
    "ntk",
    "ntk_vector_product",
]
