"""The entries of NNGP and NTK at large depth: limits, rates, and laws to lay over measured curves.

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

from typing import Any

import numpy as np

from mfcnn import arguments
from mfcnn.kernels._limits import Limits

__all__ = [
    "amplitude",
    "checked_layers",
    "checked_limit",
    "diagonal_entries",
    "entries",
    "offdiagonal_decay",
    "offdiagonal_law",
    "within_diagonal",
]


def checked_limit(value: Any) -> Limits:
    if not isinstance(value, Limits):
        raise ValueError(f"limit must be what `limits` returns. Received: limit={value!r}")
    rates = np.array([value.q_star, value.chi_1, value.chi_c, value.q_ab], np.float64)
    if not (np.all(np.isfinite(rates)) and value.q_star > 0 and np.all(rates[:3] >= 0)):
        raise ValueError(
            "limit must have a finite q_star above 0 and rates chi_1 and chi_c that are not "
            "negative: inputs can be normalised to no other variance. Take a bias_variance above "
            f"0, or other variances. Received: limit={value!r}"
        )
    return value


def checked_layers(value: Any, least: float = 1, name: str = "layers") -> np.ndarray:
    """Numbers of affine maps, float64 of any shape."""
    layers = arguments.array(name, value)
    if not np.all((layers >= least) & (layers == np.round(layers))):
        raise ValueError(
            f"{name} must be whole numbers of at least {least}. Received: {name}={value!r}"
        )
    return layers


def amplitude(name: str, value: Any) -> np.ndarray | None:
    return None if value is None else arguments.array(name, value)


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
        (q_ab, p_ab), float64 of the broadcast shape; NaN at layers that are too few for the law:
        where it leaves the range that the diagonal allows.

    Raises:
        ValueError: for layers below one, for amplitudes that are not finite or do not fit, and
            where no layer is left.

    Example:
        >>> variances = mfcnn.meanfield.critical_point("tanh", q_star=0.5)
        >>> critical = mfcnn.kernels.limits("tanh", *variances)
        >>> mfcnn.kernels.offdiagonal_law(critical, 10)[1].shape
        ()

    Source: see the module's heading; NTK paper, equations 14, 16, 20 to 24 to leading order.
    """
    limit, layers = checked_limit(limit), checked_layers(layers)
    epsilon, delta = amplitude("epsilon", epsilon), amplitude("delta", delta)
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        try:
            np.broadcast_shapes(layers.shape, np.shape(value))
        except ValueError as error:
            raise ValueError(
                f"{name} must broadcast against layers of shape {layers.shape}. Received: "
                f"{name}.shape={np.shape(value)}"
            ) from error
    pairs = zip(
        entries(limit, layers, epsilon, delta),
        diagonal_entries(limit, layers, leading=epsilon is None),
    )
    nngp, ntk = (within_diagonal(*pair, epsilon, delta) for pair in pairs)
    return nngp, ntk


def entries(
    limit: Limits, layers: np.ndarray | int, epsilon: Any, delta: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The law's q_ab and p_ab, whatever they are."""
    if limit.phase == "critical":
        with np.errstate(divide="ignore"):
            return _critical_law(limit, layers, epsilon)[:2]
    epsilon, delta = (np.asarray(0.0) if x is None else x for x in (epsilon, delta))
    decay = limit.chi_c**layers
    off = limit.q_ab + decay * epsilon
    return off, limit.p_ab + _ntk_correction(limit, layers, epsilon) + decay * delta


def within_diagonal(
    values: np.ndarray, diagonal: np.ndarray, epsilon: Any, delta: Any
) -> np.ndarray:
    """Off-diagonal entries, NaN where they exceed the diagonal: no kernel has such entries.

    At leading order (no amplitudes) a law that begins deeper than all the layers is no mistake.
    """
    held = np.abs(values) <= diagonal * (1 + 1e-9)
    if not np.any(held) and not (epsilon is None and delta is None):
        raise ValueError(
            "epsilon and delta must be the amplitudes of one kernel, both, as `offdiagonal_decay` "
            "gives them, and layers enough for the law: its off-diagonal entries exceed the "
            f"diagonal at each of the layers. Received: epsilon={epsilon!r}, delta={delta!r}"
        )
    return np.where(held, values, np.nan)


def _ntk_correction(limit: Limits, layers: np.ndarray | int, epsilon: np.ndarray) -> np.ndarray:
    """What epsilon does to p_ab, off the critical line."""
    decay = limit.chi_c**layers
    if np.isinf(limit.chi_2):
        root = np.sqrt(limit.chi_c)
        gap = np.sqrt(np.maximum(-epsilon * decay / limit.q_star, 0.0))
        return decay * layers * epsilon - limit.kink * limit.p_ab * gap / (root * (1 - root))
    # chi_c^(l - 1): chi_c may be zero.
    rate = limit.chi_c ** (layers - 1) * (limit.chi_c + limit.chi_2 * limit.p_ab)
    return layers * rate * epsilon


def diagonal_entries(
    limit: Limits, layers: np.ndarray | int, leading: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The NNGP's and the NTK's diagonal entry; to leading order the limit itself if ordered."""
    layers = np.asarray(layers, np.float64)
    if leading and limit.phase == "ordered":
        return np.full_like(layers, limit.q_star), np.full_like(layers, limit.p)
    if limit.phase == "critical":
        ntk = limit.q_star * layers
    else:
        with np.errstate(over="ignore"):
            ntk = limit.q_star * np.expm1(layers * np.log(limit.chi_1)) / (limit.chi_1 - 1)
    return np.full_like(layers, limit.q_star), ntk


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
    limit, layer = checked_limit(limit), arguments.integer("layer", layer, 1)
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
            (nngp, ntk), diagonal_entries(limit, layer), entries(limit, layer, None, None)
        ):
            own = np.einsum("ii->i", kernel)
            # Without pooling the diagonal says nothing about pairs: any value will do.
            own[...] = (own - diagonal * share) / (1 - share) if positions > 1 else known
    if limit.phase == "critical":
        gap = limit.q_star - nngp
        if not np.all(gap > 0):
            raise ValueError(
                f"nngp must be below q_star = {limit.q_star:g} off the diagonal. Received: "
                f"nngp={nngp!r}"
            )
        u = np.sqrt(limit.q_star / gap) if np.isinf(limit.chi_2) else 1 / gap
        epsilon = u - _critical_law(limit, layer, 0.0)[2]
        return epsilon, np.zeros_like(epsilon)
    decay = limit.chi_c**layer
    if decay < np.finfo(np.float64).tiny:
        raise ValueError(
            f"layer must be so small that chi_c^layer, chi_c = {limit.chi_c:g}, is not zero: no "
            f"correction is left. Received: layer={layer}"
        )
    epsilon = (nngp - limit.q_ab) / decay
    correction = _ntk_correction(limit, layer, epsilon)
    return epsilon, (ntk - limit.p_ab - correction) / decay
