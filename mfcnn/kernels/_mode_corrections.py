"""Corrections to a CNN's kernels that vary over positions, by Fourier modes."""

from typing import Any

import numpy as np

from mfcnn import arguments, meanfield, profiles
from mfcnn.kernels._asymptotics import checked_layers, checked_limit
from mfcnn.kernels._limits import Limits

__all__ = ["mode_corrections"]


def mode_corrections(
    limit: Limits, layers: Any, epsilon: Any, delta: Any, variance_profile: Any
) -> tuple[np.ndarray, np.ndarray]:
    """How corrections that vary over positions propagate through a CNN, by Fourier modes.

    Along one diagonal of the kernel over pairs of positions, the corrections of NNGP and NTK to
    q_ab* and p_ab* are fields over positions. With rho_k the eigenvalues of the averaging operator,

        epsilon_k(l) = (rho_k chi_c)^l epsilon_k
        delta_k(l) = (rho_k chi_c)^l (delta_k + l (1 + chi_2 p_ab* / chi_c) epsilon_k)

    Flatten and global pooling read the mode k = 0 alone, where rho_0 = 1.

    Args:
        limit: `Limits` of the ordered or chaotic phase.
        layers: numbers of convolutions l, an array [n].
        epsilon: field at l = 0, [..., *spatial].
        delta: the NTK's, likewise.
        variance_profile: what `mfcnn.profiles.parse` takes; a name is of 3 or 3 x 3 taps.

    Returns:
        (epsilon, delta) at the layers, [n, ..., *spatial].

    Raises:
        ValueError: for layers below zero, fields that are not finite or do not fit, and on the
            critical line, where corrections decay by no power.

    Example:
        >>> ordered = mfcnn.kernels.limits("tanh", 0.5, 0.1)
        >>> field = np.ones([4, 4])
        >>> mfcnn.kernels.mode_corrections(ordered, [1, 2], field, field, None)[0].shape
        (2, 4, 4)

    Source: NTK paper, equations 32 to 34, derived anew: equation 34 prints rho_k without its power
    l in the first formula.
    """
    if checked_limit(limit).phase == "critical":
        raise ValueError("limit must be of the ordered or the chaotic phase. Received: critical")
    if np.isinf(limit.chi_2):
        raise ValueError(
            "limit must have a finite chi_2: with a kink the NTK's correction is no power of the "
            f"NNGP's. Take a smooth activation, or the chaotic phase. Received: limit={limit!r}"
        )
    epsilon, delta = arguments.array("epsilon", epsilon), arguments.array("delta", delta)
    named = variance_profile is None or isinstance(variance_profile, str)
    rank = min(epsilon.ndim, 2) if named else None
    profile = profiles.parse(variance_profile, rank=rank or None)
    for name, field in (("epsilon", epsilon), ("delta", delta)):
        if field.ndim < profile.ndim or field.shape != epsilon.shape:
            raise ValueError(
                f"{name} must be a field [..., *spatial] of at least {profile.ndim} axes, of "
                f"epsilon's shape. Received: {name}.shape={field.shape}"
            )
    axes = tuple(range(-profile.ndim, 0))
    rho = meanfield.mode_eigenvalues(profile, epsilon.shape[-profile.ndim :])
    layers = checked_layers(layers, 0).reshape([-1] + [1] * epsilon.ndim)
    modes, ntk_modes = (np.fft.fftn(field, axes=axes) for field in (epsilon, delta))
    decay = (rho * limit.chi_c) ** layers
    # chi_c^(l - 1) for l > 0: chi_c may be zero.
    rate = limit.chi_c ** np.maximum(layers - 1, 0) * (limit.chi_c + limit.chi_2 * limit.p_ab)
    results = decay * modes, decay * ntk_modes + layers * rho**layers * rate * modes
    epsilon, delta = (np.fft.ifftn(field, axes=axes).real for field in results)
    return epsilon, delta
