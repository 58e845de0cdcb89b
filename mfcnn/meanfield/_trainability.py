"""The verdict before training: which depth can train, in numbers and in one sentence."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mfcnn import activations, arguments
from mfcnn.meanfield._averaging import check_padding, check_valid_depth, profile_and_size
from mfcnn.meanfield._fixed_points import (
    Basin,
    FixedPoint,
    NoFixedPointError,
    fixed_point,
    variance_basins,
)
from mfcnn.meanfield._gradients import Propagation, propagate
from mfcnn.meanfield._modes import averaging_matrix, depth_scales, mode_eigenvalues
from mfcnn.meanfield._spectrum import jacobian_moments, jacobian_spectrum

__all__ = ["Trainability", "trainability"]

# Figure 2 of the CNN paper: networks trained up to about six depth scales.
_DEPTH_SCALES = 6.0
# Layers, and layers times positions, that are passed through one by one; deeper ones act as the
# last of these. Twenty thousand layers take seconds, the values 100 MB.
_MOST_LAYERS, _MOST_VALUES = 20_000, 2_500_000


@dataclasses.dataclass(frozen=True)
class Trainability:
    """What mean field theory expects of a network; str() is the sentence.

    Attributes:
        depth: the number of layers.
        phase: "ordered", "critical", "chaotic", or "unbounded" if the variance grows without bound.
        q_star: variance of the pre-activations at the fixed point that this input goes to.
        chi_1: growth of squared gradients per layer, backwards, at the fixed point.
        xi_c: depth scale of the correlation of two inputs at the fixed point, in layers.
        max_depth: six depth scales of the slowest mode, the depth up to which networks were found
            to train: 6 xi_c, less with zeros at the border.
        gradient_ratio: squared gradient of the first layer's weights over that of the last, with
            this input, padding and depth.
        log10_gradient_ratio: its decimal logarithm, finite where the ratio overflows.
        jacobian_mean: mean squared singular value of the input-output Jacobian, likewise.
        jacobian_variance: their variance; both may overflow to infinity in deep chaos.
        log_spread: standard deviation of log(singular value); 0 is dynamical isometry.
        s_min: the smallest of 1,000 singular values.
        s_max: the largest of them.
        condition_number: s_max / s_min.
        surviving_modes: the number of spatial modes that reach this depth (6 xi_k >= depth).
        modes: the number of all modes; 1 for a network without space.
        trainable: whether depth <= max_depth.
        padding: "circular", "same" or "valid".
        fixed_points: every stable q* with the variances that go there; see `variance_basins`.
        output_variance: of the last layer's pre-activations, the mean over positions.
    """

    depth: int
    phase: str
    q_star: float
    chi_1: float
    xi_c: float
    max_depth: float
    gradient_ratio: float
    log10_gradient_ratio: float
    jacobian_mean: float
    jacobian_variance: float
    log_spread: float
    s_min: float
    s_max: float
    condition_number: float
    surviving_modes: int
    modes: int
    trainable: bool
    padding: str = "circular"
    fixed_points: tuple[Basin, ...] = ()
    output_variance: float = np.nan

    def __str__(self) -> str:
        """The sentence."""
        if self.phase == "unbounded":
            return (
                f"Unbounded: the variance of the signals grows without bound and overflows or "
                f"saturates within {self.depth} layers: this will not train."
            )
        modes = (
            f"; {self.surviving_modes} of {self.modes} spatial modes arrive"
            if self.modes > 1
            else ""
        )
        return (
            f"{self._phase_in_words()}: {self._fate_in_words()}. Squared gradients first to last "
            f"layer {_power(self.log10_gradient_ratio)}, log-spread of the Jacobian's singular "
            f"values {self.log_spread:.3g} ({self.s_min:.3g} to {self.s_max:.3g}){modes}."
            f"{self._other_fixed_points()}"
        )

    def _phase_in_words(self) -> str:
        if self.phase == "critical":
            return "Critical (chi_1 = 1, xi_c infinite)"
        name = f"{self.phase.capitalize()} phase"
        if self._is_nearly_critical():
            name += ", as good as critical at this depth"
        distance = self.chi_1 - 1
        chi_1 = (
            f"chi_1 = {self.chi_1:.6g}" if abs(distance) > 1e-3 else f"chi_1 - 1 = {distance:.3g}"
        )
        return f"{name} ({chi_1}, xi_c = {self.xi_c:.4g})"

    def _is_nearly_critical(self) -> bool:
        return self.max_depth > 100 * self.depth

    def _fate_in_words(self) -> str:
        """Phase, border and depth weighed together."""
        fate = {
            "ordered": "all inputs become alike and gradients vanish",
            "chaotic": "near inputs become unlike and gradients explode",
            "critical": "signals and gradients pass at every depth",
        }[self.phase]
        limit = f"6 xi_c = {self.max_depth:.4g}"
        if self.max_depth < 0.99 * _DEPTH_SCALES * self.xi_c:
            fate = "the zeros at the border use up signals and gradients"
            limit = f"6 xi of the slowest mode = {self.max_depth:.4g}"
        if np.isinf(self.max_depth):
            return f"{fate}: {self.depth} layers should train"
        if self.trainable:
            return f"{fate} beyond {limit} layers; {self.depth} are within: this should train"
        return f"{fate} beyond {limit} layers; {self.depth} are too many: this will not train"

    def _other_fixed_points(self) -> str:
        others = [basin for basin in self.fixed_points if basin.q_star != self.q_star]
        words = [
            f"variances from {low:.3g} to {_number(high)} go to q* = {_number(q)}"
            for q, low, high in others
        ]
        return f" Other inputs go elsewhere: {'; '.join(words)}." if words else ""


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
    if size is None and padding != "circular":
        raise ValueError(f"size must be given for padding={padding!r}. Received: size=None")
    profile, sizes = profile_and_size(variance_profile, 1 if size is None else size)
    if padding == "valid":
        check_valid_depth(sizes, profile, depth)
    inputs = None
    if input_variance is not None:
        inputs = arguments.variances("input_variance", input_variance, positive=True)
    start = 1.0 if inputs is None else weight_variance * float(np.mean(inputs)) + bias_variance
    try:
        point = fixed_point(activation, weight_variance, bias_variance, max(start, 1e-300))
    except NoFixedPointError:
        return _unbounded(depth, padding)
    if inputs is None:
        inputs = np.array(max(_second_moment(activation, point.q_star), 1e-24))
    law = activation, weight_variance, bias_variance
    passes = _passes(*law, depth, inputs, profile, sizes, padding)
    rates = _mode_rates(point, passes, profile, sizes, padding)
    return _verdict(
        activation,
        weight_variance,
        point,
        passes,
        rates,
        depth,
        orthogonal,
        padding,
        variance_basins(*law),
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
    )


def _second_moment(activation: activations.Activation, q: float) -> float:
    return float(activation.second_moment(q)) if q > 0 else 0.0


def _is_uniform(profile: np.ndarray, padding: str) -> bool:
    """Whether equal variances stay equal: on a torus, or if only the centre tap has a weight."""
    centre = tuple((k - 1) // 2 for k in profile.shape)
    return padding == "circular" or profile[centre] > 1 - 1e-12


def _mode_rates(
    point: FixedPoint,
    passes: Propagation,
    profile: np.ndarray,
    sizes: tuple[int, ...],
    padding: str,
) -> np.ndarray:
    """xi_k of each spatial mode."""
    if padding != "same" or _is_uniform(profile, padding):
        return depth_scales(point, np.abs(mode_eigenvalues(profile, sizes)).ravel())
    # Below the uniform fixed point, with the slopes that the last layer has at each position.
    matrix = passes.slopes[-1].ravel()[:, None] * averaging_matrix(profile, sizes)
    rates = np.abs(np.linalg.eigvals(matrix)) * (point.chi_c / point.chi_1)
    with np.errstate(divide="ignore"):
        return np.where(rates < 1, -1 / np.log(np.maximum(rates, 1e-300)), np.inf)


def _verdict(
    activation: activations.Activation,
    weight_variance: float,
    point: FixedPoint,
    passes: Propagation,
    scales: np.ndarray,
    depth: int,
    orthogonal: bool,
    padding: str,
    basins: tuple[Basin, ...],
) -> Trainability:
    q = passes.variances.reshape(len(passes.variances), -1).mean(axis=1)
    more = depth - q.size
    q = np.append(q, np.full(more, q[-1]))
    last = 0.0 if point.phase == "critical" else np.log(np.mean(passes.slopes[-1]))
    log_ratio = passes.log_gradients[0] - passes.log_gradients[-1] + more * last
    moments = jacobian_moments(activation, weight_variance, depth, q, orthogonal)
    spectrum = jacobian_spectrum(activation, max(weight_variance, 1e-300), depth, q, orthogonal)
    # Zeros at the border slow nothing down: the slowest mode is the torus's at most.
    limit = _DEPTH_SCALES * min(point.xi_c, float(np.max(scales)))
    with np.errstate(over="ignore"):
        mean = float(np.exp(np.float64(passes.log_jacobian + more * last)))
        return Trainability(
            depth=depth,
            phase=point.phase,
            q_star=point.q_star,
            chi_1=point.chi_1,
            xi_c=point.xi_c,
            max_depth=limit,
            gradient_ratio=float(np.exp(np.float64(log_ratio))),
            log10_gradient_ratio=float(log_ratio / np.log(10)),
            jacobian_mean=mean,
            jacobian_variance=float(np.float64(mean) ** 2 * moments.relative_variance),
            log_spread=spectrum.log_spread,
            s_min=spectrum.s_min,
            s_max=spectrum.s_max,
            condition_number=spectrum.condition_number,
            surviving_modes=int(np.sum(_DEPTH_SCALES * scales >= depth)),
            modes=scales.size,
            trainable=bool(depth <= limit),
            padding=padding,
            fixed_points=basins,
            output_variance=float(q[-1]),
        )


def _power(exponent: float) -> str:
    return f"{10**exponent:.3g}" if abs(exponent) < 4 else f"10^{exponent:.3g}"


def _number(value: float) -> str:
    return "infinity" if np.isinf(value) else f"{value:.3g}"


def _unbounded(depth: int, padding: str) -> Trainability:
    values: dict[str, Any] = {f.name: np.inf for f in dataclasses.fields(Trainability)}
    values.update(depth=depth, phase="unbounded", xi_c=0.0, max_depth=0.0, modes=1, trainable=False)
    values.update(surviving_modes=0, padding=padding, fixed_points=())
    return Trainability(**values)
