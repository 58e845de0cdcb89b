"""Spatial modes of the covariance: what a convolution's variance profile does to each of them.

Near the fixed point the layers multiply the mode k of the covariance by lambda_k chi_c, with
lambda_k an eigenvalue of the average A_v over the filter. With circular padding that is the Fourier
transform of the variance profile v (CNN paper, eqs. 2.9 to 2.13). Zeros at the border take a part
of every mode: a uniform filter of 3 x 3 has the largest eigenvalue
((1 + 2 cos(pi / (n + 1))) / 3)^2 on n x n positions.
"""

from typing import Any

import numpy as np

from mfcnn import profiles
from mfcnn.meanfield._averaging import check_padding, profile_and_size
from mfcnn.meanfield._fixed_points import FixedPoint, fixed_point

__all__ = ["depth_scales", "mode_depth_scales", "mode_eigenvalues", "variance_profile"]

_MOST_POSITIONS = 4096  # of a dense eigenvalue problem: half a minute


def variance_profile(name: Any, kernel_size: Any = 3, rank: int = 2) -> np.ndarray:
    """A variance profile as an array: what `mfcnn.profiles.parse` makes of it.

    Args:
        name: "gs0" (delta) to "gs4" (uniform), the five profiles of the CNN paper's Figure 4,
            "orthogonal" or what else `mfcnn.profiles.parse` takes.
        kernel_size: the filter's length, one for all directions or one for each.
        rank: the number of spatial dimensions, 1, 2 or 3.

    Returns:
        float64 [kernel_size] * rank, not negative, of sum 1; the centre is at (kernel_size-1)//2.

    Raises:
        ValueError: for an unknown name or an array that is no profile.

    Example:
        >>> import mfcnn
        >>> mfcnn.meanfield.variance_profile("GS2", kernel_size=4, rank=1)
        array([0.125, 0.625, 0.125, 0.125])

    Source: CNN paper, section 2.1.6 and Figure 4.
    """
    return profiles.parse(name, kernel_size, rank, "name")


def mode_eigenvalues(profile: Any, size: Any, padding: str = "circular") -> np.ndarray:
    """Eigenvalues of the averaging operator A_v on the covariance's main diagonal.

        circular:  lambda_k = sum_beta v_beta exp(2 pi i k beta / n),  beta from the centre
        same:      those of the matrix [v_(b - a)] over positions a, b, by descending size
        valid:     as circular: a plane wave keeps its form where no border is reached

    Args:
        profile: the variance profile v, what `mfcnn.profiles.parse` takes.
        size: the spatial size n, an integer or one for each dimension.
        padding: "circular", "same" (zeros) or "valid".

    Returns:
        complex128 of shape `size` (real up to rounding for a symmetric profile); circular entry 0
        is 1, and each is n-fold in the covariance over n positions.

    Raises:
        ValueError: for a profile that is not one, or zeros on over 4,096 positions.

    Example:
        >>> import mfcnn
        >>> mfcnn.meanfield.mode_eigenvalues([0.25, 0.5, 0.25], 4).real.round(3)
        array([1. , 0.5, 0. , 0.5])
        >>> values = mfcnn.meanfield.mode_eigenvalues("uniform", 7, padding="same")
        >>> float(abs(values).max().round(3))
        0.901

    Source: CNN paper, section 2.1.4 and Figure 4(b).
    """
    profile, sizes = profile_and_size(profile, size)
    padding = check_padding(padding)
    if padding == "same":
        return _zero_padded_eigenvalues(profile, sizes)
    values = profile.astype(np.complex128)
    for axis, (n, k) in enumerate(zip(sizes, profile.shape)):
        offsets = np.arange(k) - (k - 1) // 2
        waves = np.exp(2j * np.pi * np.outer(np.arange(n), offsets) / n)
        values = np.moveaxis(np.tensordot(waves, values, axes=(1, axis)), 0, axis)
    return values


def averaging_matrix(profile: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """A_v with zeros outside as a matrix over all positions, float64 [n, n]."""
    count = int(np.prod(sizes))
    if count > _MOST_POSITIONS:
        raise ValueError(
            f"size must have at most {_MOST_POSITIONS} positions with padding='same'. "
            f"Received: size={sizes}"
        )
    total = np.zeros((count, count))
    for index in np.ndindex(*profile.shape):
        shifts = [np.eye(n, k=i - (k - 1) // 2) for n, i, k in zip(sizes, index, profile.shape)]
        matrix: np.ndarray = np.ones((1, 1))
        for shift in shifts:
            matrix = np.kron(matrix, shift)
        total += profile[index] * matrix
    return total


def _zero_padded_eigenvalues(profile: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    matrix = averaging_matrix(profile, sizes)
    symmetric = np.array_equal(matrix, matrix.T)
    values = np.linalg.eigvalsh(matrix) if symmetric else np.linalg.eigvals(matrix)
    order = np.argsort(-np.abs(values), kind="stable")
    return values[order].astype(np.complex128).reshape(sizes)


def mode_depth_scales(
    activation: Any,
    weight_variance: float,
    bias_variance: float,
    variance_profile: Any,
    size: Any,
    padding: str = "circular",
) -> np.ndarray:
    """How many layers each spatial mode of the covariance survives.

        xi_k = -1 / log(chi_c |lambda_k|)        (CNN paper, eq. 2.12)

    Args:
        activation: a name or an `Activation`.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        variance_profile: the filter's variance profile v, what `mfcnn.profiles.parse` takes.
        size: the spatial size, an integer or one for each dimension.
        padding: "circular", "same" (zeros) or "valid". With zeros the variance is lower at the
            border than q*, where chi_c is taken: exact for small q*, else a bound for tanh's like.

    Returns:
        float64 of shape `size`: circular entry 0 is the uniform mode with xi_c, infinite on the
        critical line; 0 for a mode that one layer removes.

    Raises:
        ValueError: for a negative variance or a profile that is not one.

    Example:
        >>> import mfcnn
        >>> mfcnn.meanfield.mode_depth_scales("tanh", 1.5, 0.05, "uniform", (2, 2)).round(2)
        array([[15.79,  0.86],
               [ 0.86,  0.44]])

    Source: CNN paper, eq. 2.12.
    """
    magnitude = np.abs(mode_eigenvalues(variance_profile, size, padding))
    point = fixed_point(activation, weight_variance, bias_variance)
    return depth_scales(point, magnitude)


def depth_scales(point: FixedPoint, magnitude: np.ndarray) -> np.ndarray:
    """-1 / log(chi_c |lambda|) at a fixed point, exact where chi_c |lambda| is 1."""
    rate = -np.log(np.maximum(magnitude, 1e-300)) + (1 / point.xi_c if point.xi_c > 0 else np.inf)
    # |lambda| of an undamped mode is 1 to the rounding of its sum.
    rate = np.where((magnitude > 1 - 1e-14) & (point.xi_c == np.inf), 0.0, rate)
    with np.errstate(divide="ignore"):
        return np.where(magnitude < 1e-15, 0.0, 1 / rate)
