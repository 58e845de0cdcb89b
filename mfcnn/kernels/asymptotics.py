"""The spectrum of NNGP and NTK at large depth: limits, rates, and laws to lay over measured curves.

Setting of the NTK paper, section 3: inputs normalised to variance q*, so that the diagonal of the
NNGP kernel is q* in every layer, and off-diagonal entries that all behave alike. `layer` below
counts affine maps: a network with `depth` hidden layers and a readout has layer = depth + 1, and
its NTK diagonal is the sum of `layer` powers of chi_1.
"""

from typing import NamedTuple

import numpy as np

from mfcnn import activations, meanfield

__all__ = ["Limits", "SpectrumLaw", "limits", "offdiagonal_decay", "spectrum_law"]


class Limits(NamedTuple):
    """Where a deep kernel goes.

    Attributes:
        phase: "ordered", "critical" or "chaotic".
        q_star: NNGP diagonal.
        c_star: limit of the correlation of two inputs.
        q_ab: NNGP off-diagonal, c_star q_star.
        chi_1: growth of the NTK diagonal.
        chi_c: decay of off-diagonal corrections.
        chi_2: weight_variance q-derivative of T', weight_variance * E[phi'' phi''] at c_star.
        p: NTK diagonal in the limit; infinite but in the ordered phase.
        p_ab: NTK off-diagonal, q_ab / (1 - chi_c); infinite on the critical line.
        xi_1: 1 / |log chi_1|.
        xi_star: 1 / (log chi_1 - log chi_c), infinite but in the chaotic phase.
    """

    phase: str
    q_star: float
    c_star: float
    q_ab: float
    chi_1: float
    chi_c: float
    chi_2: float
    p: float
    p_ab: float
    xi_1: float
    xi_star: float


def limits(activation, weight_variance, bias_variance):
    """The limits and rates of NNGP and NTK at infinite depth.

    Args:
        activation: a name or a `mfcnn.activations.Activation`.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.

    Returns:
        `Limits`.

    Source: NTK paper, sections 3.1 to 3.3. Equation 9 prints an extra q*; the recursion is
    p(l+1) = q* + chi_1 p(l).
    """
    activation = activations.get(activation)
    fixed = meanfield.fixed_point(activation, weight_variance, bias_variance)
    q, c = fixed.q_star, fixed.c_star
    slope = _second_slope(activation, q, c)
    ordered, critical = fixed.phase == "ordered", fixed.phase == "critical"
    with np.errstate(divide="ignore"):
        xi_1 = float(1 / np.abs(np.log(fixed.chi_1))) if not critical else np.inf
    return Limits(
        fixed.phase,
        q,
        c,
        c * q,
        fixed.chi_1,
        fixed.chi_c,
        weight_variance * slope,
        q / (1 - fixed.chi_1) if ordered else np.inf,
        np.inf if critical else c * q / (1 - fixed.chi_c),
        xi_1,
        fixed.xi_star,
    )


def _second_slope(activation, q, c):
    """D E[phi'(u) phi'(v)] / d q12 at variances q and correlation c."""
    if q == 0:
        return 0.0
    if c < 0.5:
        h = 1e-3
        values = activation.derivative_covariance(q, np.array([c - h, c + h, c - 2 * h, c + 2 * h]))
        return float((8 * (values[1] - values[0]) - (values[3] - values[2])) / (12 * h * q))
    # One-sided at c -> 1, of fourth order: beyond one there is no correlation.
    h = 2e-3
    values = activation.derivative_covariance(q, c - h * np.arange(5))
    return float(np.dot([25 / 12, -4, 3, -4 / 3, 1 / 4], values) / (h * q))


class SpectrumLaw(NamedTuple):
    """Predicted spectrum of a kernel matrix on m inputs, arrays over layers."""

    lambda_max: np.ndarray
    lambda_rest: np.ndarray
    condition_number: np.ndarray


def spectrum_law(limit, layers, m, epsilon=None, delta=None, positions=1, kernel="ntk", pool=False):
    """lambda_max, lambda_rest and kappa of NTK or NNGP at large depth.

    With p the diagonal and p_ab the off-diagonal entries, a kernel matrix on m inputs has
    lambda_max = p + (m - 1) p_ab and lambda_rest = p - p_ab; global average pooling over d
    positions divides p - p_ab by d (equation 18 and below). The entries are

        ordered   p = q* (1 - chi_1^l) / (1 - chi_1),
                  p_ab = p* + chi_1^l (delta + l (1 + chi_2 p* / chi_1) epsilon)
        critical  p = l q*,  p_ab = l q* / 3
        chaotic   p = q* (chi_1^l - 1) / (chi_1 - 1),
                  p_ab = p_ab* + chi_c^l (delta + l (1 + chi_2 p_ab* / chi_c) epsilon)

    and for the NNGP p = q*, p_ab = q_ab* + chi_c^l epsilon, on the critical line
    q* - 2 / (chi_2 l).

    Args:
        limit: `Limits`.
        layers: numbers of affine maps l, an array.
        m: number of inputs.
        epsilon: amplitude of the NNGP's correction (see `offdiagonal_decay`); zero by default.
        delta: amplitude of the NTK's correction.
        positions: d, the number of positions (1 for fully connected networks and CNN-F).
        kernel: "ntk" or "nngp".
        pool: whether global average pooling is the readout.

    Returns:
        `SpectrumLaw`.

    Raises:
        ValueError: if kernel is neither of the two.

    Source: NTK paper, equations 9, 11, 14 to 18, 20 and the table of appendix C.1; derived anew,
    since equation 11 drops q* from delta^(l) and equation 17 holds to leading order only.
    """
    if kernel not in ("ntk", "nngp"):
        raise ValueError(f"kernel must be 'ntk' or 'nngp'. Received: kernel={kernel!r}")
    layers = np.asarray(layers, np.float64)
    epsilon, delta = epsilon or 0.0, delta or 0.0
    if kernel == "nngp":
        diagonal = np.full_like(layers, limit.q_star)
        if limit.phase == "critical":
            off = limit.q_star - 2 / (limit.chi_2 * layers)
        else:
            off = limit.q_ab + epsilon * limit.chi_c**layers
    elif limit.phase == "critical":
        diagonal, off = limit.q_star * layers, limit.q_star * layers / 3
    else:
        with np.errstate(over="ignore"):
            diagonal = limit.q_star * (limit.chi_1**layers - 1) / (limit.chi_1 - 1)
        slope = 1 + limit.chi_2 * limit.p_ab / limit.chi_c
        off = limit.p_ab + limit.chi_c**layers * (delta + layers * slope * epsilon)
    rest = (diagonal - off) / (positions if pool else 1)
    largest = rest + m * off
    with np.errstate(divide="ignore", invalid="ignore"):
        return SpectrumLaw(largest, rest, largest / rest)


def offdiagonal_decay(limit, nngp, ntk, layer):
    """The amplitudes (epsilon, delta) that fit measured off-diagonal entries at one layer.

    Args:
        limit: `Limits` of the ordered or chaotic phase.
        nngp: mean off-diagonal entry of the NNGP kernel at the layer.
        ntk: the same of the NTK.
        layer: number of affine maps.

    Returns:
        (epsilon, delta) for `spectrum_law` (equations 14 and 20).
    """
    decay = limit.chi_c**layer
    epsilon = (nngp - limit.q_ab) / decay
    slope = 1 + limit.chi_2 * limit.p_ab / limit.chi_c
    return float(epsilon), float((ntk - limit.p_ab) / decay - layer * slope * epsilon)
