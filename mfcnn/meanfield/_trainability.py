"""The verdict before training: which depth can train."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mfcnn import activations, arguments
from mfcnn.meanfield._averaging import check_padding, check_valid_depth, profile_and_size
from mfcnn.meanfield._basins import variance_basins
from mfcnn.meanfield._fixed_points import FixedPoint, NoFixedPointError, fixed_point
from mfcnn.meanfield._gradients import Propagation, propagate
from mfcnn.meanfield._jacobian_moments import jacobian_moments
from mfcnn.meanfield._leaps import NOTHING, Beyond, beyond, beyond_border, windows
from mfcnn.meanfield._modes import averaging_matrix, depth_scales, mode_eigenvalues
from mfcnn.meanfield._spectrum import jacobian_spectrum
from mfcnn.meanfield._verdict import DEPTH_SCALES, Trainability

__all__ = ["trainability"]

# Layers, and layers times positions, that are passed through one by one; see `_leaps` and
# `beyond_border` for those behind. Twenty thousand layers take seconds, the values 100 MB.
_MOST_LAYERS, _MOST_VALUES = 20_000, 2_500_000
_SINGULAR_VALUES = 1000  # of a network whose width is not given
# Of variances whose singular values are computed: beyond it slopes are distributed as at its ends.
_RANGE = 1e-100, 1e100


def trainability(
    activation: Any,
    weight_variance: float,
    bias_variance: float,
    depth: int,
    variance_profile: Any = None,
    orthogonal: bool = False,
    size: Any = None,
    padding: str = "circular",
    input_variance: ArrayLike | None = None,
    width: int | None = None,
) -> Trainability:
    """Predicts, before training, whether a network of this depth can train.

    Phase and depth scale are those of the fixed point that the input goes to; gradients, Jacobian
    and output are those of the network itself, layer by layer from its input. The spread and the
    extremes of the singular values are those of translation-invariant layers of these variances:
    what zeros at the border add to them is in gradient_ratio and jacobian_mean.

    Args:
        activation: a name or an `Activation`.
        weight_variance: sigma_w^2, non-negative.
        bias_variance: sigma_b^2, non-negative.
        depth: the number of layers, a positive integer.
        variance_profile: what `mfcnn.profiles.parse` takes; None is uniform, 3 x 3. Orthogonal
            kernels have the profile "orthogonal" or "delta".
        orthogonal: whether the weights are orthogonal (or delta-orthogonal) rather than Gaussian.
        size: the spatial size of the input, an integer or one for each dimension; None for a
            network without space, or to leave the modes out.
        padding: "circular", "same" (zeros) or "valid"; all but the first need the size.
        input_variance: mean square of the first layer's inputs, a number or one for each position;
            None for inputs that are at the fixed point already.
        width: the number of channels, for what it changes: `Trainability.width_deviation`, the
            extreme singular values, and with delta-orthogonal kernels the output's variance,
            which is that of vectors on a sphere (by 2 / width). None is the limit of many.

    Returns:
        A `Trainability`, whose str() is one sentence.

    Raises:
        ValueError: for a negative variance, depth < 1 or more than padding="valid" leaves room for,
            or a profile that is not one.

    Example:
        >>> import mfcnn
        >>> verdict = mfcnn.meanfield.trainability("tanh", 1.5, 0.05, depth=50)
        >>> verdict.phase, verdict.trainable, round(verdict.max_depth, 1)
        ('ordered', True, 94.7)

    Source: CNN paper, sections 2.1.5, 2.2 and 3.1.
    """
    activation = activations.get(activation)
    weight_variance = arguments.variance("weight_variance", weight_variance)
    bias_variance = arguments.variance("bias_variance", bias_variance)
    depth, orthogonal = arguments.depth(depth), arguments.boolean("orthogonal", orthogonal)
    padding = check_padding(padding)
    width = None if width is None else arguments.integer("width", width, 1)
    if size is None and padding != "circular":
        raise ValueError(f"size must be given for padding={padding!r}. Received: size=None")
    profile, sizes = profile_and_size(variance_profile, 1 if size is None else size)
    if padding == "valid":
        check_valid_depth(sizes, profile, depth)
    inputs = None
    if input_variance is not None:
        inputs = arguments.variances("input_variance", input_variance, positive=True)
    start = 1.0
    if inputs is not None:
        with np.errstate(over="ignore"):
            mean = np.mean(inputs / inputs.max()) * inputs.max()
            start = float(np.clip(weight_variance * mean + bias_variance, 1e-300, 1e300))
    try:
        point = fixed_point(activation, weight_variance, bias_variance, start)
    except NoFixedPointError:
        return _unbounded(depth, padding, width)
    if inputs is None:
        inputs = np.array(max(_second_moment(activation, point.q_star), 1e-24))
    law = activation, weight_variance, bias_variance
    passes = outputs = _passes(*law, depth, inputs, profile, sizes, padding)
    sphere = np.inf
    if orthogonal and width is not None and _is_uniform(profile, "same"):
        # Delta-orthogonal kernels turn each position's vector: its length is not random. That
        # raises the variances; the slopes that gradients meet are no lower for it, since they are
        # orthogonal to the signal and so rather where it is small.
        sphere = float(width)
        outputs = _passes(*law, depth, inputs, profile, sizes, padding, sphere)
    border = _border_rates(passes, profile, sizes, padding)
    scales = _mode_scales(point, border, profile, sizes)
    more = NOTHING
    if len(passes.slopes) < depth and border is None:
        law = activation, max(weight_variance, 1e-300), bias_variance
        seen = windows(inputs, passes.slopes.shape[1:], profile, padding)
        more = beyond(law, passes, outputs, seen, depth, sphere)
    elif len(passes.slopes) < depth and border is not None:
        more = beyond_border(passes, border, depth)
    return Trainability(
        depth=depth,
        phase=point.phase,
        q_star=point.q_star,
        chi_1=point.chi_1,
        xi_c=point.xi_c,
        padding=padding,
        width=width,
        fixed_points=variance_basins(*law),
        log10_output_variance=float((outputs.log_mean_variances[-1] + more.variance) / np.log(10)),
        **_depth_limit(point, scales, depth),
        **_gradients(passes, more),
        **_jacobian(activation, weight_variance, orthogonal, width, sizes, passes, depth, more),
    )


def _passes(
    activation: activations.Activation,
    weight_variance: float,
    bias_variance: float,
    depth: int,
    inputs: np.ndarray,
    profile: np.ndarray,
    sizes: tuple[int, ...],
    padding: str,
    sphere: float = np.inf,
) -> Propagation:
    """Through the layers one by one, of one position where all are alike."""
    if padding != "valid" and inputs.ndim == 0 and _is_uniform(profile, padding):
        passes_size, padded = (1,) * profile.ndim, "circular"  # all positions are alike
    else:
        passes_size, padded = sizes, padding
    layers = min(depth, _MOST_LAYERS, max(2, _MOST_VALUES // int(np.prod(passes_size))))
    return propagate(
        activation,
        max(weight_variance, 1e-300),
        bias_variance,
        layers,
        inputs,
        profile,
        passes_size,
        padded,
        sphere,
    )


def _second_moment(activation: activations.Activation, q: float) -> float:
    return float(activation.second_moment(q)) if q > 0 else 0.0


def _is_uniform(profile: np.ndarray, padding: str) -> bool:
    """Whether equal variances stay equal: on a torus, or if only the centre tap has a weight."""
    centre = tuple((k - 1) // 2 for k in profile.shape)
    return padding == "circular" or profile[centre] > 1 - 1e-12


def _border_rates(
    passes: Propagation, profile: np.ndarray, sizes: tuple[int, ...], padding: str
) -> np.ndarray | None:
    """What a layer multiplies the modes of backward signals by at zeros; None without any."""
    if padding != "same" or _is_uniform(profile, padding):
        return None
    # Below the uniform fixed point, with the slopes that the last layer has at each position.
    matrix = passes.slopes[-1].ravel()[:, None] * averaging_matrix(profile, sizes)
    return np.abs(np.linalg.eigvals(matrix))


def _mode_scales(
    point: FixedPoint, border: np.ndarray | None, profile: np.ndarray, sizes: tuple[int, ...]
) -> np.ndarray:
    """xi_k of each spatial mode."""
    if border is None:
        return depth_scales(point, np.abs(mode_eigenvalues(profile, sizes)).ravel())
    rates = border * (point.chi_c / point.chi_1 if point.chi_1 > 0 else 1.0)
    with np.errstate(divide="ignore"):
        return np.where(rates < 1, -1 / np.log(np.maximum(rates, 1e-300)), np.inf)


def _depth_limit(point: FixedPoint, scales: np.ndarray, depth: int) -> dict[str, Any]:
    # Zeros at the border slow nothing down: the slowest mode is the torus's at most.
    limit = DEPTH_SCALES * min(point.xi_c, float(np.max(scales)))
    return {
        "max_depth": limit,
        "trainable": bool(depth <= limit),
        "surviving_modes": int(np.sum(DEPTH_SCALES * scales >= depth)),
        "modes": scales.size,
    }


def _gradients(passes: Propagation, more: Beyond) -> dict[str, Any]:
    log_ratio = passes.log_gradients[0] - passes.log_gradients[-1] + more.gradient_ratio
    with np.errstate(over="ignore", under="ignore"):
        return {
            "gradient_ratio": float(np.exp(np.float64(log_ratio))),
            "log10_gradient_ratio": float(log_ratio / np.log(10)),
        }


def _jacobian(
    activation: activations.Activation,
    weight_variance: float,
    orthogonal: bool,
    width: int | None,
    sizes: tuple[int, ...],
    passes: Propagation,
    depth: int,
    more: Beyond,
) -> dict[str, Any]:
    log_q = np.append(passes.log_mean_variances, more.log_variances)
    q = np.exp(np.clip(log_q, *np.log(_RANGE)))
    moments = jacobian_moments(activation, weight_variance, depth, q, orthogonal)
    values = _SINGULAR_VALUES if width is None else width * int(np.prod(sizes))
    spectrum = jacobian_spectrum(
        activation, max(weight_variance, 1e-300), depth, q, orthogonal, values
    )
    with np.errstate(over="ignore", under="ignore"):
        mean = float(np.exp(np.float64(passes.log_jacobian + more.jacobian)))
        variance = float(np.float64(mean) ** 2 * moments.relative_variance)
    # A layer's factor is a mean over `width` terms d g^2, g normal: 3 E[d^2] / E[d]^2 - 1 each.
    terms = 3 * moments.relative_variance - (0 if orthogonal else depth)
    return {
        "jacobian_mean": mean,
        "jacobian_variance": variance,
        "log_spread": spectrum.log_spread,
        "s_min": spectrum.s_min,
        "s_max": spectrum.s_max,
        "condition_number": spectrum.condition_number,
        "width_deviation": np.nan if width is None else float(np.sqrt(terms / width)),
    }


def _unbounded(depth: int, padding: str, width: int | None) -> Trainability:
    values: dict[str, Any] = {f.name: np.inf for f in dataclasses.fields(Trainability)}
    values.update(depth=depth, phase="unbounded", xi_c=0.0, max_depth=0.0, modes=1, trainable=False)
    values.update(surviving_modes=0, padding=padding, fixed_points=(), width=width)
    values.update(width_deviation=np.nan)
    return Trainability(**values)
