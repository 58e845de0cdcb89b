"""The verdict before training: which depth can train, in numbers and in one sentence."""

import dataclasses

import numpy as np

from mfcnn import activations, arguments, profiles
from mfcnn.meanfield import _spectrum
from mfcnn.meanfield._fixed_points import NoFixedPointError, fixed_point
from mfcnn.meanfield._modes import depth_scales, mode_eigenvalues

__all__ = ["Trainability", "trainability"]

# Figure 2 of the CNN paper: networks trained up to about six depth scales.
_DEPTH_SCALES = 6.0


@dataclasses.dataclass(frozen=True)
class Trainability:
    """What mean field theory expects of a network; str() is the sentence.

    Attributes:
      depth: the number of layers.
      phase: "ordered", "critical", "chaotic", or "unbounded" if the variance grows without bound.
      q_star: variance of the pre-activations at the fixed point.
      chi_1: growth of squared gradients per layer, backwards.
      xi_c: depth scale of the correlation of two inputs, in layers.
      max_depth: 6 xi_c, the depth up to which networks were found to train.
      gradient_ratio: squared gradient of the first layer over that of the last, chi_1^(depth-1).
      log10_gradient_ratio: its decimal logarithm, finite where the ratio overflows.
      jacobian_mean: mean squared singular value of the input-output Jacobian.
      jacobian_variance: its variance; both may overflow to infinity in deep chaos.
      log_spread: standard deviation of log(singular value) if their squares are log-normal with
        this mean and variance, sqrt(log(1 + variance / mean^2)) / 2: 0 is dynamical isometry.
      surviving_modes: the number of spatial Fourier modes that reach this depth (6 xi_k >= depth).
      modes: the number of all Fourier modes; 1 for a network without space.
      trainable: whether depth <= 6 xi_c.
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
    surviving_modes: int
    modes: int
    trainable: bool

    def __str__(self):
        """The sentence."""
        if self.phase == "unbounded":
            return (
                f"Unbounded: the variance of the signals grows without bound and overflows or "
                f"saturates within {self.depth} layers: this will not train."
            )
        scale = "infinite" if np.isinf(self.max_depth) else f"{self.max_depth:.3g}"
        fate = {
            "ordered": "all inputs become alike and gradients vanish",
            "chaotic": "near inputs become unlike and gradients explode",
            "critical": "signals and gradients pass at every depth",
        }[self.phase]
        verdict = (
            f"depth {self.depth} is within 6 xi_c = {scale}: this should train"
            if self.trainable
            else f"depth {self.depth} is beyond 6 xi_c = {scale}: this will not train"
        )
        modes = (
            f"; {self.surviving_modes} of {self.modes} spatial modes arrive"
            if self.modes > 1
            else ""
        )
        return (
            f"{self.phase.capitalize()} phase (chi_1 = {self.chi_1:.6g}, xi_c = {self.xi_c:.4g}): "
            f"{fate}; {verdict}. Squared gradients first to last layer {_power(self)}, "
            f"log-spread of the Jacobian's singular values {self.log_spread:.3g}{modes}."
        )


def trainability(
    activation,
    weight_variance,
    bias_variance,
    depth,
    variance_profile=None,
    orthogonal=False,
    size=None,
):
    """Predicts, before training, whether a network of this depth can train.

    Args:
      activation: a name or an `Activation`.
      weight_variance: sigma_w^2, non-negative.
      bias_variance: sigma_b^2, non-negative.
      depth: the number of layers, a positive integer.
      variance_profile: spatial variance profile of the filters, [k] or [k1, k2] of sum 1; "delta"
        and "uniform" name the 3 x 3 ones. None is uniform, 3 x 3.
      orthogonal: whether the weights are orthogonal (or delta-orthogonal) rather than Gaussian.
      size: the spatial size, an integer or one for each dimension; None leaves the modes out.

    Returns:
      A `Trainability`, whose str() is one sentence.

    Raises:
      ValueError: for a negative variance, depth < 1, a profile that is not one or a size smaller
        than the kernel.
    """
    activation = activations.get(activation)
    depth, orthogonal = arguments.depth(depth), arguments.boolean("orthogonal", orthogonal)
    profile = profiles.parse(variance_profile)
    try:
        point = fixed_point(activation, weight_variance, bias_variance)
    except NoFixedPointError:
        return _unbounded(depth)
    magnitude = np.ones(1) if size is None else np.abs(mode_eigenvalues(profile, size))
    scales = depth_scales(point, magnitude)
    moments = _spectrum.jacobian_moments(
        activation, weight_variance, depth, point.q_star, orthogonal=orthogonal
    )
    with np.errstate(divide="ignore"):
        growth = 0.0 if point.phase == "critical" else np.log10(point.chi_1)
        log10_ratio = float((depth - 1) * growth) if depth > 1 else 0.0
    with np.errstate(over="ignore"):
        ratio = float(np.float64(10.0) ** log10_ratio)
    return Trainability(
        depth=depth,
        phase=point.phase,
        q_star=point.q_star,
        chi_1=point.chi_1,
        xi_c=point.xi_c,
        max_depth=_DEPTH_SCALES * point.xi_c,
        gradient_ratio=ratio,
        log10_gradient_ratio=log10_ratio,
        jacobian_mean=moments.mean,
        jacobian_variance=moments.variance,
        log_spread=float(0.5 * np.sqrt(np.log1p(moments.relative_variance))),
        surviving_modes=int(np.sum(_DEPTH_SCALES * scales >= depth)),
        modes=int(scales.size),
        trainable=bool(depth <= _DEPTH_SCALES * point.xi_c),
    )


def _power(verdict):
    exponent = verdict.log10_gradient_ratio
    return f"{verdict.gradient_ratio:.3g}" if abs(exponent) < 4 else f"10^{exponent:.3g}"


def _unbounded(depth):
    values = {f.name: np.inf for f in dataclasses.fields(Trainability)}
    values.update(
        depth=depth, phase="unbounded", xi_c=0.0, max_depth=0.0, surviving_modes=0, modes=1
    )
    return Trainability(**values | {"trainable": False})
