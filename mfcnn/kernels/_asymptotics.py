"""The spectrum of NNGP and NTK at large depth: limits, rates, and laws to lay over measured curves.

Setting of the NTK paper, section 3: inputs normalised to variance q*, so that the diagonal of the
NNGP kernel is q* in every layer. `layer` counts affine maps: a network with `depth` hidden layers
and a readout has layer = depth + 1, and its NTK diagonal is the sum of `layer` powers of chi_1.

Near the limit a pair of inputs is one number or two, its amplitudes epsilon (NNGP) and delta (NTK):

    ordered, chaotic  q_ab = q_ab* + chi_c^l epsilon
                      p_ab = p_ab* + chi_c^l (delta + l (1 + chi_2 p_ab* / chi_c) epsilon)
    critical          u = a l + (a^2 - b) / a log l + epsilon,   a = chi_2 / 2,   b = chi_3 / 6
                      q_ab = q* - 1 / u
                      p_ab = q* u / (3 a) + (q* (4 b - a^2) / (3 a) - 1) / (2 a)

The critical law solves e' = e + a e^2 + b e^3 for e = q_ab - q* and p' = q* + e' + (1 + 2 a e +
3 b e^2) p to O(log(l) / l); its leading order is the paper's p_ab = l q* / 3.

An activation with kinks has chi_2 = inf at c = 1. There T' is a series in s = sqrt(1 - c),

    weight_variance T' = chi_1 - kink s + bend s^2,

so that in the ordered phase p_ab approaches its limit as chi_1^(l/2), and on the critical line

    u = kink / 3 l + (kink / 2 - 3 bend / (4 kink)) log l + epsilon
    q_ab = q* (1 - 1 / u^2)
    p_ab = 3 q* / (4 kink) (u + (5 bend / 4 - kink^2 / 6) / kink)

which is l q* / 4 to leading order.
"""

from typing import Any, NamedTuple

import numpy as np

from mfcnn import activations, arguments, meanfield, profiles

__all__ = [
    "Limits",
    "SpectrumLaw",
    "limits",
    "mode_corrections",
    "offdiagonal_decay",
    "offdiagonal_law",
    "spectrum_law",
]

_NEAR = 2.0**-8  # sqrt(1 - c) where a kink shows; its square is exact in binary


class Limits(NamedTuple):
    """Where a deep kernel goes.

    Attributes:
        phase: "ordered", "critical" or "chaotic".
        q_star: NNGP diagonal.
        c_star: limit of the correlation of two inputs.
        q_ab: NNGP off-diagonal, c_star q_star.
        chi_1: growth of the NTK diagonal.
        chi_c: decay of off-diagonal corrections.
        chi_2: weight_variance * E[phi'' phi''] at c_star: the slope of weight_variance T'.
        p: NTK diagonal in the limit; infinite but in the ordered phase.
        p_ab: NTK off-diagonal, q_ab / (1 - chi_c); infinite on the critical line.
        xi_1: 1 / |log chi_1|.
        xi_star: 1 / (log chi_1 - log chi_c), infinite but in the chaotic phase.
        chi_3: weight_variance * E[phi''' phi'''] at c_star; NaN for an activation with kinks.
        kink: (chi_1 - weight_variance T'(c)) / sqrt(1 - c) at c -> 1; zero without kinks.
        bend: what is left of it, in the next order of sqrt(1 - c); zero without kinks.
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
    chi_3: float = 0.0
    kink: float = 0.0
    bend: float = 0.0


def limits(activation: Any, weight_variance: float, bias_variance: float) -> Limits:
    """The limits and rates of NNGP and NTK at infinite depth.

    Args:
        activation: a name or a `mfcnn.activations.Activation`.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.

    Returns:
        `Limits`.

    Raises:
        ValueError: for an unknown activation or variances that are none.

    Example:
        >>> mfcnn.kernels.limits("tanh", 0.5, 0.1).phase
        'ordered'

    Source: NTK paper, sections 3.1 to 3.3. Equation 9 prints an extra q*; the recursion is
    p(l+1) = q* + chi_1 p(l).
    """
    activation = activations.get(activation)
    fixed = meanfield.fixed_point(activation, weight_variance, bias_variance)
    q, c = fixed.q_star, fixed.c_star
    second, third, kink, bend = (weight_variance * s for s in _slopes(activation, q, c))
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
        second,
        q / (1 - fixed.chi_1) if ordered else np.inf,
        np.inf if critical else c * q / (1 - fixed.chi_c),
        xi_1,
        fixed.xi_star,
        third,
        kink,
        bend,
    )


def _limit(value: Any) -> Limits:
    if not isinstance(value, Limits):
        raise ValueError(f"limit must be what `limits` returns. Received: limit={value!r}")
    return value


def _layers(value: Any, least: float = 1, name: str = "layers") -> np.ndarray:
    """Numbers of affine maps, float64 of any shape."""
    layers = arguments.array(name, value)
    if not np.all((layers >= least) & (layers == np.round(layers))):
        raise ValueError(
            f"{name} must be whole numbers of at least {least}. Received: {name}={value!r}"
        )
    return layers


def _amplitude(name: str, value: Any) -> np.ndarray | None:
    return None if value is None else arguments.array(name, value)


def _slopes(
    activation: activations.Activation, q: float, c: float
) -> tuple[float, float, float, float]:
    """First and second derivative of T' = E[phi'(u) phi'(v)] by q12; its kink and bend at c = 1."""
    if q == 0:
        return 0.0, 0.0, 0.0, 0.0
    expansion = activation.hermite_basis(q)
    if expansion is not None:
        z, matrix = expansion
        weights = (np.asarray(activation.phi(np.sqrt(q) * z), np.float64) @ matrix) ** 2
        n = np.arange(weights.size)
        second = np.sum(weights * n * (n - 1) * c ** np.maximum(n - 2, 0)) / q**2
        third = np.sum(weights * n * (n - 1) * (n - 2) * c ** np.maximum(n - 3, 0)) / q**3
        return float(second), float(third), 0.0, 0.0
    steps = np.arange(4) * _NEAR
    values = activation.derivative_covariance(q, 1 - steps**2)
    kink, bend, _ = np.linalg.solve(
        steps[1:, None] ** np.arange(1, 4) * [-1, 1, 1], values[1:] - values[0]
    )
    if c == 1:
        bent = kink > 1e-6 * values[0]
        return (np.inf, np.nan, float(kink), float(bend)) if bent else (0.0, 0.0, 0.0, 0.0)
    h = 1e-2 * (1 - c)
    values = activation.derivative_covariance(q, c + h * np.array([-1.0, 1.0, -2.0, 2.0]))
    second = (8 * (values[1] - values[0]) - (values[3] - values[2])) / (12 * h * q)
    return float(second), np.nan, float(kink), float(bend)


def _critical_law(
    limit: Limits, layers: np.ndarray | int, epsilon: np.ndarray | float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(q_ab, p_ab) on the critical line, and u without epsilon; see the module's heading."""
    q, kinked = limit.q_star, np.isinf(limit.chi_2)
    if kinked:
        rate, slope = limit.kink / 3, 3 * q / (4 * limit.kink)
        drift = limit.kink / 2 - 3 * limit.bend / (4 * limit.kink)
        constant = slope * (5 * limit.bend / 4 - limit.kink**2 / 6) / limit.kink
    else:
        rate, b = limit.chi_2 / 2, limit.chi_3 / 6
        drift, slope = (rate * rate - b) / rate, q / (3 * rate)
        constant = (q * (4 * b - rate * rate) / (3 * rate) - 1) / (2 * rate)
    if epsilon is None:
        drift = constant = epsilon = 0.0
    start = rate * layers + drift * np.log(layers)
    u = start + np.asarray(epsilon)
    return q - (q / u**2 if kinked else 1 / u), slope * u + constant, start


def offdiagonal_law(
    limit: Limits, layers: Any, epsilon: Any = None, delta: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """The off-diagonal entries q_ab and p_ab of NNGP and NTK at large depth.

    Args:
        limit: `Limits`.
        layers: numbers of affine maps l, an array.
        epsilon: amplitude of the NNGP's correction, broadcast against layers; None is zero, and on
            the critical line leading order, p_ab = l q* / 3 (l q* / 4 with kinks).
        delta: amplitude of the NTK's correction; not used on the critical line.

    Returns:
        (q_ab, p_ab), float64 of the broadcast shape.

    Raises:
        ValueError: for layers below one, and for amplitudes that are not finite or do not fit.

    Example:
        >>> variances = mfcnn.meanfield.critical_point("tanh", q_star=0.5)
        >>> critical = mfcnn.kernels.limits("tanh", *variances)
        >>> mfcnn.kernels.offdiagonal_law(critical, 10)[1].shape
        ()

    Source: see the module's heading; NTK paper, equations 14, 16, 20 to 24 to leading order.
    """
    limit, layers = _limit(limit), _layers(layers)
    epsilon, delta = _amplitude("epsilon", epsilon), _amplitude("delta", delta)
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        try:
            np.broadcast_shapes(layers.shape, np.shape(value))
        except ValueError as error:
            raise ValueError(
                f"{name} must broadcast against layers of shape {layers.shape}. Received: "
                f"{name}.shape={np.shape(value)}"
            ) from error
    if limit.phase == "critical":
        return _critical_law(limit, layers, epsilon)[:2]
    epsilon, delta = (np.asarray(0.0) if x is None else x for x in (epsilon, delta))
    decay = limit.chi_c**layers
    off = limit.q_ab + decay * epsilon
    return off, limit.p_ab + _ntk_correction(limit, layers, decay, epsilon) + decay * delta


def _ntk_correction(
    limit: Limits,
    layers: np.ndarray | int,
    decay: np.ndarray | float,
    epsilon: np.ndarray,
) -> np.ndarray:
    """What epsilon does to p_ab, off the critical line."""
    if np.isinf(limit.chi_2):
        root = np.sqrt(limit.chi_c)
        gap = np.sqrt(np.maximum(-epsilon * decay / limit.q_star, 0.0))
        return decay * layers * epsilon - limit.kink * limit.p_ab * gap / (root * (1 - root))
    return decay * layers * (1 + limit.chi_2 * limit.p_ab / limit.chi_c) * epsilon


def _diagonal(limit: Limits, layers: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """The NNGP's and the NTK's diagonal entry."""
    layers = np.asarray(layers, np.float64)
    if limit.phase == "critical":
        ntk = limit.q_star * layers
    else:
        with np.errstate(over="ignore"):
            ntk = limit.q_star * np.expm1(layers * np.log(limit.chi_1)) / (limit.chi_1 - 1)
    return np.full_like(layers, limit.q_star), ntk


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
        `SpectrumLaw`.

    Raises:
        ValueError: for values outside of these ranges.

    Example:
        >>> ordered = mfcnn.kernels.limits("tanh", 0.5, 0.1)
        >>> law = mfcnn.kernels.spectrum_law(ordered, [10, 20], 5, epsilon=-0.01, kernel="nngp")
        >>> bool(law.condition_number[1] > law.condition_number[0])
        True

    Source: NTK paper, equations 9, 11, 14 to 18, 20 and the table of appendix C.1; derived anew,
    since equation 11 drops q* from delta^(l) and equation 17 holds to leading order only.
    """
    limit, layers = _limit(limit), _layers(layers)
    m, positions = arguments.integer("m", m, 2), arguments.integer("positions", positions, 1)
    field = ("nngp", "ntk").index(arguments.choice("kernel", kernel, ("ntk", "nngp")))
    epsilon, delta = _amplitude("epsilon", epsilon), _amplitude("delta", delta)
    pool = arguments.boolean("pool", pool)
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        if np.shape(value) not in ((), (m, m)):
            raise ValueError(
                f"{name} must be a number or of shape {(m, m)}. Received: "
                f"{name}.shape={np.shape(value)}"
            )
    share = 1 / positions if pool else 1.0
    diagonal = _diagonal(limit, layers)[field]
    if epsilon is None and limit.phase == "ordered":
        diagonal = np.full_like(layers, (limit.q_star, limit.p)[field])
    with np.errstate(divide="ignore", invalid="ignore"):
        if np.ndim(epsilon) == np.ndim(delta) == 0:
            off = offdiagonal_law(limit, layers, epsilon, delta)[field]
            rest = (diagonal - off) * share
            largest = rest + m * off
            return SpectrumLaw(largest, rest, largest / rest)
        laws = offdiagonal_law(limit, layers[..., None, None], epsilon, delta)
        matrix = np.array(np.broadcast_to(laws[field], [*layers.shape, m, m]))
        own = np.einsum("...ii->...i", matrix)
        own[...] = diagonal[..., None] * share + own * (1 - share)
        values = np.linalg.eigvalsh(matrix)
        largest = values[..., -1]
        rest = np.mean(values[..., :-1], axis=-1)
        return SpectrumLaw(largest, rest, largest / values[..., 0])


def offdiagonal_decay(
    limit: Limits, nngp: Any, ntk: Any, layer: int, positions: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The amplitudes (epsilon, delta) of measured kernels at one layer.

    Args:
        limit: `Limits`.
        nngp: off-diagonal entries of the NNGP kernel at the layer, an array, or the whole matrix
            [m, m].
        ntk: the same of the NTK.
        layer: number of affine maps.
        positions: d for matrices of CNN-P: the diagonal then holds the pairs of positions of one
            image, and is read as its share 1 - 1/d of them.

    Returns:
        (epsilon, delta) for `spectrum_law` and `offdiagonal_law`, of the entries' shape; delta is
        zero on the critical line.

    Raises:
        ValueError: for entries that are not finite, kernels of two shapes, a matrix that is not
            square, or a layer below one.

    Example:
        >>> ordered = mfcnn.kernels.limits("tanh", 0.5, 0.1)
        >>> epsilon, _ = mfcnn.kernels.offdiagonal_decay(ordered, ordered.q_ab, ordered.p_ab, 7)
        >>> float(epsilon)
        0.0

    Source: NTK paper, equations 14, 20 and 21.
    """
    limit, layer = _limit(limit), arguments.integer("layer", layer, 1)
    positions = arguments.integer("positions", positions, 1)
    nngp, ntk = arguments.array("nngp", nngp).copy(), arguments.array("ntk", ntk).copy()
    if nngp.shape != ntk.shape or (nngp.ndim == 2 and nngp.shape[0] != nngp.shape[1]):
        raise ValueError(
            "nngp and ntk must be entries of one shape, or square matrices. Received: "
            f"nngp.shape={nngp.shape}, ntk.shape={ntk.shape}"
        )
    if nngp.ndim == 2:
        share = 1 / positions
        for kernel, diagonal, known in zip(
            (nngp, ntk), _diagonal(limit, layer), offdiagonal_law(limit, layer)
        ):
            own = np.einsum("ii->i", kernel)
            # Without pooling the diagonal says nothing about pairs: any value will do.
            own[...] = (own - diagonal * share) / (1 - share) if positions > 1 else known
    if limit.phase == "critical":
        gap = limit.q_star - nngp
        u = np.sqrt(limit.q_star / gap) if np.isinf(limit.chi_2) else 1 / gap
        epsilon = u - _critical_law(limit, layer, 0.0)[2]
        return epsilon, np.zeros_like(epsilon)
    decay = limit.chi_c**layer
    epsilon = (nngp - limit.q_ab) / decay
    correction = _ntk_correction(limit, layer, decay, epsilon)
    return epsilon, (ntk - limit.p_ab - correction) / decay


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
    if _limit(limit).phase == "critical":
        raise ValueError("limit must be of the ordered or the chaotic phase. Received: critical")
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
    layers = _layers(layers, 0).reshape([-1] + [1] * epsilon.ndim)
    modes, ntk_modes = (np.fft.fftn(field, axes=axes) for field in (epsilon, delta))
    decay = (rho * limit.chi_c) ** layers
    slope = 1 + limit.chi_2 * limit.p_ab / limit.chi_c
    results = decay * modes, decay * (ntk_modes + layers * slope * modes)
    epsilon, delta = (np.fft.ifftn(field, axes=axes).real for field in results)
    return epsilon, delta
