"""Effective ranks of matrices and of the features of a network."""

from typing import Any

import keras
import numpy as np

from mfcnn import arguments
from mfcnn.empirical import _tangent_kernel

__all__ = ["effective_rank", "feature_effective_rank"]


def effective_rank(matrix: Any, gram: bool = False) -> float:
    """The effective rank of a matrix: exp of the entropy of its normalized singular values.

    erank(A) = exp(-sum_i p_i log p_i), p_i = s_i / sum_j s_j, between 1 and the rank of A.

    Args:
        matrix: A [n, p]; or with `gram` the symmetric A A^T [n, n], such as a tangent kernel,
            whose eigenvalues are the s_i^2. Give a Gram matrix in float64: rounding at eps
            lambda_max shows in the singular values as sqrt(eps) s_max.
        gram: whether `matrix` is A A^T and the effective rank that of A.

    Returns:
        A float.

    Raises:
        TypeError: for another dtype than float32, float64 and integers.
        ValueError: for a matrix that is not finite, not two-dimensional, zero, or with `gram` not
            symmetric.

    Example:
        >>> round(mfcnn.empirical.effective_rank([[2.0, 0.0], [0.0, 2.0]]), 6)
        2.0

    Source: Roy and Vetterli 2007, definition 1; linearization paper, Figure 5.
    """
    given = np.asarray(matrix)
    if given.dtype.kind == "f" and given.dtype not in (np.float32, np.float64):
        raise arguments.ArgumentTypeError(
            f"matrix must be float32 or float64. Received: matrix.dtype={given.dtype}"
        )
    values = arguments.matrix("matrix", matrix)
    if not np.any(values):
        raise ValueError("matrix must not be zero: its effective rank is not defined")
    if arguments.boolean("gram", gram):
        precision = given.dtype if given.dtype == np.float32 else np.dtype(np.float64)
        singular = _roots_of_eigenvalues(values, precision)
    else:
        singular = np.linalg.svd(values, compute_uv=False)
    p = singular[singular > 0] / np.sum(singular)
    return float(np.exp(-np.sum(p * np.log(p))))


def _roots_of_eigenvalues(values: np.ndarray, precision: np.dtype) -> np.ndarray:
    scale = np.max(np.abs(values))
    if values.shape[0] != values.shape[1] or np.any(np.abs(values - values.T) > 1e-4 * scale):
        raise ValueError(
            "matrix must be square and symmetric, a Gram matrix. "
            f"Received: matrix.shape={values.shape}"
        )
    eigenvalues = np.linalg.eigvalsh(values)
    if not eigenvalues[-1] > 0 or eigenvalues[0] < -1e-3 * eigenvalues[-1]:
        raise ValueError(
            "matrix must be positive semi-definite, a Gram matrix. Received: eigenvalues from "
            f"{eigenvalues[0]:g} to {eigenvalues[-1]:g}"
        )
    # Below this an eigenvalue is rounding, of which half is negative.
    noise = np.finfo(precision).eps * len(values) * eigenvalues[-1]
    return np.sqrt(np.where(eigenvalues > noise, eigenvalues, 0.0))


def feature_effective_rank(model: keras.Model, x: Any, **options: Any) -> float:
    """The effective rank of the features grad_w f_l(w, x_i), a matrix [n k, p] never formed.

    Args:
        model: a built Keras model, best in float64, see `effective_rank`.
        x: inputs [n, ...].
        **options: for `mfcnn.empirical.ntk`.

    Returns:
        A float, at most n k.

    Raises:
        TypeError: as `mfcnn.empirical.ntk`.
        ValueError: likewise, and where the features are zero.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> round(mfcnn.empirical.feature_effective_rank(model, [[1.0], [2.0]]), 3)  # of one column
        1.0

    Source: linearization paper, Figure 5.
    """
    x, _ = _tangent_kernel._check(model, x, None, name="x")
    theta = _tangent_kernel.ntk(model, x, outputs="full", **options).numpy()
    n, _, k, _ = theta.shape
    return effective_rank(theta.transpose(0, 2, 1, 3).reshape(n * k, n * k), gram=True)
