"""Predictions of deep networks beside their limits, and how two kernels' directions meet."""

from typing import Any, NamedTuple

import numpy as np

from mfcnn import arguments
from mfcnn.kernels._eigenvalues import check_matrices, check_matrix
from mfcnn.kernels._prediction import check_targets, predict

__all__ = ["EigenvectorOverlap", "data_dependent_part", "eigenvector_overlap", "ordered_limit"]


class EigenvectorOverlap(NamedTuple):
    """How the directions that a training kernel learns meet those that a test kernel reads.

    Attributes:
        overlap: (v_i . w_j)^2 for eigenvector v_i of the training kernel and right singular vector
            w_j of the test-train kernel, [m, min(n_test, m)]; columns have sum one.
        eigenvalues: of the training kernel, descending, [m].
        singular_values: of the test-train kernel, descending, [min(n_test, m)].
        captured: the share of w_1 ... w_k in the span of v_1 ... v_k, for k = 1, 2, ...; k / m for
            directions that have nothing to do with each other.
    """

    overlap: np.ndarray
    eigenvalues: np.ndarray
    singular_values: np.ndarray
    captured: np.ndarray


def eigenvector_overlap(kernel_train_train: Any, kernel_test_train: Any) -> EigenvectorOverlap:
    """The overlap of the training kernel's eigenvectors and the test kernel's singular vectors.

    With Theta = sum_i lambda_i v_i v_i^T and Theta_* = sum_j s_j u_j w_j^T the prediction is
    sum_ij u_j s_j (w_j . v_i) (v_i . y) / lambda_i: what is learnt along v_i reaches the test
    inputs by its overlaps alone.

    Args:
        kernel_train_train: kernel on the training inputs, [m, m].
        kernel_test_train: kernel of test and training inputs, [n_test, m].

    Returns:
        An `EigenvectorOverlap`. Where eigenvalues coincide single entries depend on the basis, and
        sums over their whole subspace do not.

    Raises:
        ValueError: for matrices that are not finite, not symmetric or do not fit together.

    Example:
        >>> kernel = [[2.0, 0.0], [0.0, 1.0]]
        >>> mfcnn.kernels.eigenvector_overlap(kernel, kernel).captured
        array([1., 1.])

    Source: NTK paper, section 1, second contribution.
    """
    matrix, test = check_matrices(kernel_train_train, kernel_test_train)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    _, singular_values, right = np.linalg.svd(test, full_matrices=False)
    overlap = (vectors[:, ::-1].T @ right.T) ** 2
    sums = np.cumsum(np.cumsum(overlap, 0), 1)
    count = np.arange(singular_values.size)
    captured = sums[count, count] / (count + 1)
    return EigenvectorOverlap(overlap, values[::-1].copy(), singular_values, captured)


def data_dependent_part(
    kernel_train_train: Any,
    kernel_test_train: Any,
    y_train: Any,
    diagonal: float,
    off_diagonal: float,
    ridge: float = 0.0,
) -> np.ndarray:
    """Delta^(l) y: the prediction minus that of the data-independent limit of the kernel.

    The limit kernel is diagonal * 1 + off_diagonal * (ones - 1) on the training inputs and
    off_diagonal between test and training inputs. Its prediction is closed form,
    off_diagonal * sum(y) / (diagonal + ridge + (m - 1) off_diagonal), and is also right in the
    ordered phase (diagonal = off_diagonal) with ridge > 0, and zero for diagonal -> infinity.

    Args:
        kernel_train_train: [m, m].
        kernel_test_train: [n_test, m].
        y_train: targets, [m, k] or [m].
        diagonal: p^(l) or its limit (may be numpy.inf: the chaotic limit, prediction zero).
        off_diagonal: p_ab*.
        ridge: sigma of the regularised predictors.

    Returns:
        float64 [n_test, k].

    Raises:
        ValueError: as `predict`, and if the limit kernel has no positive eigenvalue for the mean.

    Example:
        >>> kernel = [[2.0, 1.0], [1.0, 2.0]]
        >>> part = mfcnn.kernels.data_dependent_part(kernel, [[1.0, 1.0]], [1.0, 2.0], 2.0, 1.0)
        >>> float(abs(part[0, 0])) < 1e-15
        True

    Source: NTK paper, equations 7 and 10; section 3.2 for the ridge.
    """
    diagonal = arguments.number("diagonal", diagonal, above=0, infinite=True)
    off_diagonal = arguments.number("off_diagonal", off_diagonal)
    prediction = predict(kernel_train_train, kernel_test_train, y_train, ridge=ridge)
    y = check_targets(y_train, np.shape(kernel_train_train)[0])
    total = diagonal + ridge + (y.shape[0] - 1) * off_diagonal
    if not total > 0:
        raise ValueError(
            "diagonal + ridge + (m - 1) off_diagonal must be positive. Received: "
            f"diagonal={diagonal}, off_diagonal={off_diagonal}"
        )
    return prediction - (off_diagonal / total) * np.sum(y, axis=0, keepdims=True)


def ordered_limit(
    correction_train_train: Any, correction_test_train: Any, y_train: Any
) -> np.ndarray:
    """The limit of the prediction in the ordered phase, where the kernel itself is singular.

    For Theta = p* 1 1^T + s A with s -> 0 the prediction converges to
    A_* A^-1 y + (1 - A_* A^-1 1) (1^T A^-1 y) / (1^T A^-1 1): that of A after an unknown constant
    has been taken out, with no trace of p* or of the size of s.

    Args:
        correction_train_train: A on the training inputs up to a factor, [m, m]; for example the
            NTK at a large depth minus its limit. Positive or negative definite on vectors of sum
            zero.
        correction_test_train: A of test and training inputs with the same factor, [n_test, m].
        y_train: targets, [m, k] or [m].

    Returns:
        float64 [n_test, k].

    Raises:
        ValueError: if A is singular to working precision, and for shapes that do not fit.

    Example:
        >>> mfcnn.kernels.ordered_limit([[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5]], [1.0, 3.0])
        array([[2.]])

    Source: slides, "Ordered Regime: Generalization (II), (III)".
    """
    a = check_matrix("correction_train_train", correction_train_train, square=True)
    test = check_matrix("correction_test_train", correction_test_train)
    y = check_targets(y_train, a.shape[0])
    if test.shape[1] != len(a):
        raise ValueError(
            f"correction_test_train must have {len(a)} columns, one for each training input. "
            f"Received: correction_test_train.shape={test.shape}"
        )
    # The bordered system of the constant and A: regular also where A alone is singular.
    scale = np.max(np.abs(a))
    border = np.full((a.shape[0], 1), scale)
    bordered = np.block([[a, border], [border.T, np.zeros((1, 1))]])
    if np.linalg.cond(bordered) > 1e14:
        raise ValueError(
            "correction_train_train is singular to working precision: the limit has no correct "
            "digit. Use fewer layers, or fewer or other inputs."
        )
    solution = np.linalg.solve(bordered, np.concatenate([y, np.zeros((1, y.shape[1]))]))
    return test @ solution[:-1] + scale * solution[-1:]
