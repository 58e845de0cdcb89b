"""What the verdict says: its numbers, and the sentence made of them."""

import dataclasses

import numpy as np

from mfcnn.meanfield._basins import Basin

__all__ = ["DEPTH_SCALES", "Trainability"]

# Figure 2 of the CNN paper: networks trained up to about six depth scales.
DEPTH_SCALES = 6.0


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
        s_min: the smallest singular value that is not zero; of 1,000 if no width is given, else
            of width times positions.
        s_max: the largest of them.
        condition_number: s_max / s_min.
        surviving_modes: the number of spatial modes that reach this depth (6 xi_k >= depth).
        modes: the number of all modes; 1 for a network without space.
        trainable: whether depth <= max_depth.
        padding: "circular", "same" or "valid".
        fixed_points: every stable q* with the variances that go there; see `variance_basins`.
        log10_output_variance: decimal logarithm of the variance of the last layer's
            pre-activations, the mean over positions; `output_variance` is the variance itself.
        width: the number of channels, or None.
        width_deviation: how far networks of this width are from mean field theory and from each
            other: standard deviation of the log of a squared gradient that one spatial mode
            carries through all layers, sqrt(sum_l (2 + 3 r_l) / width), without the 2 for
            orthogonal weights; r_l = Var(phi'^2) / E[phi'^2]^2. It is 5 / width a layer for relu.
            Signals spread over several positions differ less. NaN if no width is given.
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
    log10_output_variance: float = np.nan
    width: int | None = None
    width_deviation: float = np.nan

    @property
    def output_variance(self) -> float:
        """Of the last layer's pre-activations, the mean over positions; 0 or inf out of range."""
        with np.errstate(over="ignore", under="ignore"):
            return float(np.float64(10) ** self.log10_output_variance)

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
            f"values {self.log_spread:.3g} ({_value(self.s_min)} to {_value(self.s_max)}){modes}."
            f"{self._other_fixed_points()}{self._finite_width()}"
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
        if self.max_depth < 0.99 * DEPTH_SCALES * self.xi_c:
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

    def _finite_width(self) -> str:
        if not self.width_deviation > 1:
            return ""
        return (
            f" But {self.depth} layers are too many for {self.width} channels to follow mean field "
            f"theory: from network to network squared gradients differ by factors of up to "
            f"exp(+-{self.width_deviation:.3g})."
        )


def _power(exponent: float) -> str:
    return f"{10**exponent:.3g}" if abs(exponent) < 4 else f"10^{exponent:.3g}"


def _number(value: float) -> str:
    return "infinity" if np.isinf(value) else f"{value:.3g}"


def _value(singular_value: float) -> str:
    """In words where float64 has overflowed: singular values are positive and finite."""
    if singular_value == 0:
        return "below 1e-308"
    return "above 1e308" if np.isinf(singular_value) else f"{singular_value:.3g}"
