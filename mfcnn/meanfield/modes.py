"""Fourier modes of the covariance: what a convolution's variance profile does to each of them.

Near the fixed point, the layers multiply the mode k of the covariance by lambda_k chi_c, with
lambda_k the Fourier transform of the variance profile v (CNN paper, eqs. 2.9 to 2.13).
"""

import numpy as np

from mfcnn.meanfield.fixed_points import fixed_point

__all__ = [
    "PROFILES",
    "check_profile",
    "check_size",
    "mode_depth_scales",
    "mode_eigenvalues",
    "variance_profile",
]

# The five profiles of figure 4, from one-hot to uniform, by the weight of the uniform part.
PROFILES = {"gs0": 0.0, "gs1": 0.25, "gs2": 0.5, "gs3": 0.75, "gs4": 1.0}
_ALIASES = {"delta": "gs0", "uniform": "gs4"}


def variance_profile(name, kernel_size=3, rank=2):
    """One of the profiles GS0 to GS4 of the CNN paper's figure 4.

        v = (1 - t) delta + t uniform,    t = 0, 1/4, 1/2, 3/4, 1

    The paper says that GS1 to GS3 interpolate between one-hot and uniform; the even steps are ours.

    Args:
      name: "gs0" to "gs4", "delta" (gs0) or "uniform" (gs4).
      kernel_size: the filter's length in each direction, a positive integer.
      rank: the number of spatial dimensions, 1, 2 or 3.

    Returns:
      float64 of shape [kernel_size] * rank that sums to 1; the one-hot sits at (kernel_size-1)//2.
    """
    key = _ALIASES.get(name, name)
    if key not in PROFILES:
        accepted = ", ".join([*PROFILES, *_ALIASES])
        raise ValueError(f"The variance profile must be one of {accepted}. Received: {name!r}")
    if not isinstance(kernel_size, int) or kernel_size < 1 or rank not in (1, 2, 3):
        raise ValueError(
            "kernel_size must be a positive integer and rank 1, 2 or 3. "
            f"Received: kernel_size={kernel_size}, rank={rank}"
        )
    shape = (kernel_size,) * rank
    profile = np.full(shape, PROFILES[key] / kernel_size**rank)
    profile[((kernel_size - 1) // 2,) * rank] += 1 - PROFILES[key]
    return profile


def check_profile(profile):
    """The profile as a float64 array, if it is non-negative and sums to one.

    Args:
      profile: the variance of each position of the filter, [k] or [k1, k2] or [k1, k2, k3].

    Raises:
      ValueError: for a negative entry, a sum that differs from 1 by over 1e-6, or another rank.
    """
    if isinstance(profile, str):
        raise ValueError(
            "variance_profile must be an array; mfcnn.meanfield.variance_profile makes one from a "
            f"name. Received: {profile!r}"
        )
    values = np.asarray(profile, np.float64)
    if values.ndim not in (1, 2, 3) or values.size == 0:
        raise ValueError(
            f"variance_profile must have 1, 2 or 3 dimensions. Received: shape {values.shape}"
        )
    if not np.all(values >= 0):
        raise ValueError(f"variance_profile must be non-negative. Received: {values.tolist()}")
    if not abs(values.sum() - 1) < 1e-6:
        raise ValueError(f"variance_profile must sum to one. Received: sum {values.sum():.9g}")
    return values / values.sum()


def check_size(size, profile):
    """The spatial size as a tuple of the profile's rank, if the filter fits into it.

    Args:
      size: an integer for all directions, or one for each.
      profile: a checked profile.

    Raises:
      ValueError: if a size is smaller than the filter, or their number is another.
    """
    sizes = (size,) * profile.ndim if np.ndim(size) == 0 else tuple(size)
    if len(sizes) != profile.ndim or not all(isinstance(n, int | np.integer) for n in sizes):
        raise ValueError(
            f"size must be an integer or one for each of the {profile.ndim} dimensions of the "
            f"variance_profile. Received: {size}"
        )
    if any(n < k for n, k in zip(sizes, profile.shape)):
        raise ValueError(
            f"size must not be smaller than the kernel, {profile.shape}. Received: {size}"
        )
    return tuple(int(n) for n in sizes)


def mode_eigenvalues(profile, size):
    """Eigenvalues of the averaging operator A_v: the Fourier transform of the profile.

        lambda_k = sum_beta v_beta exp(2 pi i k beta / n),    beta counted from the centre

    Args:
      profile: the variance profile v, [k] or [k1, k2], non-negative, of sum 1.
      size: the spatial size n, an integer or one for each dimension.

    Returns:
      complex128 of shape `size` (real up to rounding for a symmetric profile); entry 0 is 1. Each
      is n-fold in the covariance over n positions (CNN paper, section 2.1.4).

    Raises:
      ValueError: for a profile that is not one or a size smaller than the kernel.
    """
    profile = check_profile(profile)
    sizes = check_size(size, profile)
    values = profile.astype(np.complex128)
    for axis, (n, k) in enumerate(zip(sizes, profile.shape)):
        offsets = np.arange(k) - (k - 1) // 2
        waves = np.exp(2j * np.pi * np.outer(np.arange(n), offsets) / n)
        values = np.moveaxis(np.tensordot(waves, values, axes=(1, axis)), 0, axis)
    return values


def mode_depth_scales(activation, weight_variance, bias_variance, variance_profile, size):
    """How many layers each Fourier mode of the covariance survives.

        xi_k = -1 / log(chi_c |lambda_k|)        (CNN paper, eq. 2.12)

    Args:
      activation: a name or an `Activation`.
      weight_variance: sigma_w^2.
      bias_variance: sigma_b^2.
      variance_profile: the filter's variance profile v, [k] or [k1, k2], of sum 1.
      size: the spatial size, an integer or one for each dimension.

    Returns:
      float64 of shape `size`: entry 0 is the uniform mode with xi_c, infinite on the critical line;
      0 for a mode that one layer removes.

    Raises:
      ValueError: for a negative variance, a profile that is not one, or a size smaller than the
        kernel.
    """
    magnitude = np.abs(mode_eigenvalues(variance_profile, size))
    point = fixed_point(activation, weight_variance, bias_variance)
    return depth_scales(point, magnitude)


def depth_scales(point, magnitude):
    """-1 / log(chi_c |lambda|) at a fixed point, exact where chi_c |lambda| is 1."""
    rate = -np.log(np.maximum(magnitude, 1e-300)) + (1 / point.xi_c if point.xi_c > 0 else np.inf)
    # |lambda| of an undamped mode is 1 to the rounding of its sum.
    rate = np.where((magnitude > 1 - 1e-14) & (point.xi_c == np.inf), 0.0, rate)
    with np.errstate(divide="ignore"):
        return np.where(magnitude < 1e-15, 0.0, 1 / rate)
