"""Eigenvalues of a kernel matrix, and the learning rate they allow."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from mfcnn import arguments

__all__ = ["Spectrum", "max_learning_rate", "spectrum"]


class Spectrum(NamedTuple):
    """Eigenvalues of a kernel matrix on m inputs; arrays over the axes in front of several.

    Attributes:
        eigenvalues: float64 [m], descending.
        lambda_max: the largest.
        lambda_rest: the mean of all others, the bulk of the NTK paper's two-level spectrum.
        lambda_min: the smallest.
        condition_number: lambda_max / lambda_min; infinite if lambda_min is not above the rounding
            error of the decomposition, where its digits mean nothing.
    """

    eigenvalues: np.ndarray
    lambda_max: float
    lambda_rest: float
    lambda_min: float
    condition_number: float


def check_matrix(name: str, matrix: Any, square: bool = False) -> np.ndarray:
    """The matrix as a float64 array, after checks that name the argument."""
    matrix = arguments.matrix(name, matrix, square)
    if square and np.max(np.abs(matrix - matrix.T)) > 1e-5 * np.max(np.abs(matrix)):
        raise ValueError(f"{name} must be symmetric.")
    return matrix


def check_matrices(
    kernel_train_train: Any, kernel_test_train: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices that belong together: a test input's row has a column for each training one."""
    matrix = check_matrix("kernel_train_train", kernel_train_train, square=True)
    test = check_matrix("kernel_test_train", kernel_test_train)
    if test.shape[1] != len(matrix):
        raise ValueError(
            f"kernel_test_train must have {len(matrix)} columns, one for each training input. "
            f"Received: kernel_test_train.shape={test.shape}"
        )
    return matrix, test


def rounding(kernel_matrix: Any, eigenvalues: np.ndarray) -> float:
    """What rounding may add to an eigenvalue, with eps of the matrix's own dtype.

    Errors of matrix entries add up like a random matrix, to eps lambda_max sqrt(m) / 2 at most, and
    LAPACK's decomposition to three eps lambda_max in small matrices (both measured: 15 eps at
    m = 1000, on spectra of one large eigenvalue and of eighteen decades).
    """
    dtype = np.asarray(kernel_matrix).dtype
    eps = np.finfo(dtype if np.issubdtype(dtype, np.floating) else np.float64).eps
    return (3 + np.sqrt(eigenvalues.size) / 2) * eps * np.max(np.abs(eigenvalues))


def spectrum(kernel_matrix: Any) -> Spectrum:
    """Eigenvalues, lambda_max, lambda_rest, lambda_min and condition number of a kernel matrix.

    Args:
        kernel_matrix: symmetric [m, m]; any float dtype, decomposed in float64. Or several, such
            as the kernels at all depths, [..., m, m].

    Returns:
        A `Spectrum`, of floats for one matrix.

    Raises:
        ValueError: if the matrix is not square, finite and symmetric.

    Example:
        >>> found = mfcnn.kernels.spectrum([[3.0, 1.0], [1.0, 3.0]])
        >>> found.eigenvalues, found.condition_number
        (array([4., 2.]), 2.0)

    Source: NTK paper, section 3 (lambda_max, lambda_rest, kappa).
    """
    if np.ndim(kernel_matrix) > 2 and np.size(kernel_matrix):
        stack = np.asarray(kernel_matrix)
        parts = [spectrum(matrix) for matrix in stack.reshape(-1, *stack.shape[-2:])]
        fields: Iterator[Any] = (np.array(field) for field in zip(*parts))
        return Spectrum(*(f.reshape(stack.shape[:-2] + f.shape[1:]) for f in fields))
    matrix = check_matrix("kernel_matrix", kernel_matrix, square=True)
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1].copy()
    smallest = float(values[-1])
    resolved = smallest > rounding(kernel_matrix, values)
    return Spectrum(
        values,
        float(values[0]),
        float(np.mean(values[1:])) if values.size > 1 else float(values[0]),
        smallest,
        float(values[0]) / smallest if resolved else np.inf,
    )


def max_learning_rate(kernel_matrix: Any, momentum: float = 0.0, nesterov: bool = False) -> float:
    """The largest learning rate of gradient descent on the mean squared error.

    2 / lambda_max; 2 (1 + momentum) / lambda_max with momentum, and for Nesterov's
    2 (1 + momentum) / ((1 + 2 momentum) lambda_max): there a root of the two-step recursion along
    the largest eigenvector reaches -1. The scaling is that of `predict`: with
    df/dt = -learning_rate * Theta (f - y), gradient descent on the loss sum |f - y|^2 / 2 over the
    m inputs of the matrix. For a loss averaged over the inputs and k outputs multiply by m * k; for
    Keras's `mean_squared_error`, the mean of |f - y|^2 without the half, by m * k / 2.

    Args:
        kernel_matrix: NTK on the training inputs, [m, m].
        momentum: of Keras's SGD, in [0, 1).
        nesterov: likewise.

    Returns:
        A float.

    Raises:
        ValueError: if the matrix is not square, finite and symmetric, or has no positive
            eigenvalue; for a momentum outside [0, 1).

    Example:
        >>> mfcnn.kernels.max_learning_rate([[3.0, 1.0], [1.0, 3.0]])
        0.5
        >>> mfcnn.kernels.max_learning_rate([[3.0, 1.0], [1.0, 3.0]], momentum=0.9)
        0.95

    Source: NTK paper, section 4 (eta_theory).
    """
    momentum = arguments.number("momentum", momentum, 0, below=1)
    largest = spectrum(check_matrix("kernel_matrix", kernel_matrix, square=True)).lambda_max
    if largest <= 0:
        raise ValueError(f"kernel_matrix must have a positive eigenvalue. Received: {largest}")
    damping = 1 + 2 * momentum if arguments.boolean("nesterov", nesterov) else 1.0
    return 2.0 * (1 + momentum) / (damping * largest)
