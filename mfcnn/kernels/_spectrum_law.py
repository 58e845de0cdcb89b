"""Eigenvalues and condition number at large depth, from the laws of the entries."""

from typing import Any, NamedTuple

import numpy as np

from mfcnn import arguments
from mfcnn.kernels._asymptotics import (
    amplitude,
    checked_layers,
    checked_limit,
    diagonal_entries,
    entries,
    within_diagonal,
)
from mfcnn.kernels._limits import Limits

__all__ = ["SpectrumLaw", "spectrum_law"]


class SpectrumLaw(NamedTuple):
    """Predicted spectrum of a kernel matrix on m inputs, arrays over layers."""

    lambda_max: np.ndarray
    lambda_rest: np.ndarray
    condition_number: np.ndarray


def spectrum_law(
    limit: Limits,
    layers: Any,
    m: int,
    epsilon: Any = None,
    delta: Any = None,
    positions: int = 1,
    kernel: str = "ntk",
    pool: bool = False,
) -> SpectrumLaw:
    """lambda_max, lambda_rest and kappa of NTK or NNGP at large depth.

    With p the diagonal and p_ab the off-diagonal entries, a kernel matrix on m inputs has
    lambda_max = p + (m - 1) p_ab and lambda_rest = p - p_ab; global average pooling over d
    positions divides p - p_ab by d (equation 18 and below). The diagonal is q* (NNGP) and

        p = q* (chi_1^l - 1) / (chi_1 - 1),   l q* on the critical line   (NTK).

    Args:
        limit: `Limits`.
        layers: numbers of affine maps l, an array.
        m: number of inputs.
        epsilon: amplitudes of the NNGP's correction (see `offdiagonal_law`): one number for all
            pairs, or [m, m], as `offdiagonal_decay` gives them; then the law is the spectrum of
            the matrix, and kappa is lambda_max over the smallest eigenvalue. With one number all
            lesser eigenvalues are equal: in the ordered phase, where the spread of the pairs
            shrinks as slowly as the eigenvalues do, kappa is then right in its rate only. None is
            the leading order, in the ordered phase the limit itself: kappa is infinite.
        delta: amplitudes of the NTK's correction, likewise.
        positions: d, the number of positions (1 for fully connected networks and CNN-F).
        kernel: "ntk" or "nngp".
        pool: whether global average pooling is the readout.

    Returns:
        `SpectrumLaw`, NaN at layers that are too few for the law: where it is the spectrum of no
        kernel, with an eigenvalue below zero.

    Raises:
        ValueError: for values outside of these ranges, and where no layer is left.

    Example:
        >>> ordered = mfcnn.kernels.limits("tanh", 0.5, 0.1)
        >>> law = mfcnn.kernels.spectrum_law(ordered, [10, 20], 5, epsilon=-0.01, kernel="nngp")
        >>> bool(law.condition_number[1] > law.condition_number[0])
        True

    Source: NTK paper, equations 9, 11, 14 to 18, 20 and the table of appendix C.1; derived anew,
    since equation 11 drops q* from delta^(l) and equation 17 holds to leading order only.
    """
    limit, layers = checked_limit(limit), checked_layers(layers)
    m, positions = arguments.integer("m", m, 2), arguments.integer("positions", positions, 1)
    field = ("nngp", "ntk").index(arguments.choice("kernel", kernel, ("ntk", "nngp")))
    epsilon, delta = amplitude("epsilon", epsilon), amplitude("delta", delta)
    pool = arguments.boolean("pool", pool)
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        if np.shape(value) not in ((), (m, m)):
            raise ValueError(
                f"{name} must be a number or of shape {(m, m)}. Received: "
                f"{name}.shape={np.shape(value)}"
            )
    share = 1 / positions if pool else 1.0
    diagonal = diagonal_entries(limit, layers, leading=epsilon is None)[field]
    with np.errstate(divide="ignore", invalid="ignore"):
        if np.ndim(epsilon) == np.ndim(delta) == 0:
            off = entries(limit, layers, epsilon, delta)[field]
            off = within_diagonal(off, diagonal, epsilon, delta)
            # A matrix of equal off-diagonal entries: off >= -p / (m - 1).
            off = np.where((m - 1) * off >= -diagonal * (1 + 1e-9), off, np.nan)
            rest = (diagonal - off) * share
            # 1 + m off / rest, and not the ratio: the diagonal is infinite where chi_1^l is.
            return SpectrumLaw(rest + m * off, rest, 1 + m * off / rest)
        off = entries(limit, layers[..., None, None], epsilon, delta)[field]
        return _matrix_law(np.broadcast_to(off, [*layers.shape, m, m]), diagonal, share)


def _matrix_law(off: np.ndarray, diagonal: np.ndarray, share: float) -> SpectrumLaw:
    """The spectrum of matrices [..., m, m], in units of the diagonal, which may be infinite."""
    matrix = off / diagonal[..., None, None]
    own = np.einsum("...ii->...i", matrix)
    own[...] = share + own * (1 - share)
    values = np.linalg.eigvalsh(matrix)
    # Eigenvalues are known to a few roundings of the largest.
    least = -8 * len(off) * np.finfo(np.float64).eps * values[..., -1]
    values = np.where((values[..., 0] >= least)[..., None], values, np.nan)
    if np.all(np.isnan(values)):
        raise ValueError(
            "epsilon and delta must be the amplitudes of one kernel, both, as `offdiagonal_decay` "
            "gives them, and layers enough for the law: the matrix has negative eigenvalues at "
            f"each of the layers. Received: off-diagonal entries {off!r}"
        )
    ratio = values[..., -1] / values[..., 0]
    rest = np.mean(values[..., :-1], axis=-1)
    return SpectrumLaw(values[..., -1] * diagonal, rest * diagonal, ratio)
