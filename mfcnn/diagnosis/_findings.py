"""What the numbers mean: findings, and the verdict.

Two thresholds, for a squared gradient over that of the last layer and for the distance 1 - c of two
inputs over that at the first layer. The tangent kernel of a network is a sum over its layers of
terms proportional to the squared gradients, and its eigenvalues for the difference of two inputs
are proportional to 1 - c: either ratio r bounds the condition number from below by 1 / r. Gradient
descent needs of the order of 1 / r steps, the best first-order method sqrt(1 / r). So

    r < 1e-4    10,000 steps of plain gradient descent for what other layers do in one: a warning,
    r < 1e-6    1,000 steps even for the best momentum: an error.

An exploding gradient is the same from the other side: the first layers bound the learning rate, and
the last ones do not move.
"""

import math
from collections.abc import Sequence

import numpy as np

from mfcnn import meanfield
from mfcnn.diagnosis._records import Finding, Layer
from mfcnn.diagnosis._theory import Run

__all__ = ["LOST", "SLOW", "effective_depth", "findings", "verdict"]

SLOW, LOST = 1e-4, 1e-6
_HALF = 0.5
_LARGE_OUTPUT = 1e4  # a standard deviation of 100 at the outputs
_REPAIR = "mfcnn.repair(model, x) gives it weights on the critical line."


def findings(layers: Sequence[Layer], runs: Sequence[Run]) -> list[Finding]:
    """All that is wrong, errors first."""
    weighted = [one for one in layers if one.parameters and np.isfinite(one.gradient.value)]
    found = [*_not_finite(layers)]
    if not found and len(weighted) > 1:
        found += [*_gradients(weighted, runs), *_information(weighted), *_units(layers)]
        found += _output(weighted[-1])
    return sorted(found, key=lambda finding: finding.severity != "error")


def _severity(ratio_log10: float) -> str | None:
    if ratio_log10 < math.log10(LOST):
        return "error"
    return "warning" if ratio_log10 < math.log10(SLOW) else None


def _not_finite(layers: Sequence[Layer]) -> list[Finding]:
    for one in layers:
        if not np.isfinite(one.variance.value):
            return [
                Finding(
                    one.name,
                    one.variance.value,
                    "its values overflow or are not numbers.",
                    f"Start from smaller variances: {_REPAIR}",
                    "error",
                )
            ]
    for one in reversed(layers):
        if math.isinf(one.gradient.value):
            reason = "the gradient that comes back to it overflows."
            return [Finding(one.name, math.inf, reason, _REPAIR, "error")]
    return []


def _gradients(weighted: Sequence[Layer], runs: Sequence[Run]) -> list[Finding]:
    """Squared gradients of the first layer over the last."""
    end = weighted[-1].gradient.log10
    ratios = [one.gradient.log10 - end for one in weighted]
    first = ratios[0]
    severity = _severity(-abs(first))
    if severity is None:
        return []
    # From the output: the first layer behind which it is beyond the threshold for good.
    sign = math.copysign(1.0, first)
    limit = -math.log10(SLOW)
    beyond = [sign * ratio > limit for ratio in ratios]
    place = next((i for i, is_beyond in enumerate(beyond) if not is_beyond), len(beyond)) - 1
    what = "explodes" if sign > 0 else "vanishes"
    reason = (
        f"the squared gradient {what} on the way back: here it is 10^{ratios[place]:.1f}, at the "
        f"first layer {weighted[0].name} 10^{first:.1f} times that of the last."
    )
    return [Finding(weighted[place].name, 10.0**first, reason, _advice(runs), severity)]


def _advice(runs: Sequence[Run]) -> str:
    """What to do with the longest run of equal layers."""
    if not runs:
        return _REPAIR
    run = runs[0]
    name = run.activation.name
    try:
        critical, _ = meanfield.critical_point(run.activation, 1 / run.depth)
    except ValueError:
        return _REPAIR
    return (
        f"Its {run.depth} equal layers have weight_variance {run.weight_variance:.3g}; {name} is "
        f"critical at {critical:.3g}. {_REPAIR}"
    )


def _information(weighted: Sequence[Layer]) -> list[Finding]:
    """The distance of two inputs."""
    with np.errstate(all="ignore"):
        gaps = np.log10(np.maximum([1 - one.correlation.value for one in weighted], 1e-300))
    ratios = gaps - gaps[0]
    severity = _severity(float(ratios[-1]))
    if severity is None:
        return []
    beyond = ratios < math.log10(SLOW)
    place = len(beyond) - int(np.argmin(beyond[::-1])) if not beyond.all() else 0
    one = weighted[min(place, len(weighted) - 1)]
    reason = (
        f"inputs become alike: from here on two inputs differ (1 - correlation) by less than "
        f"{SLOW:g} of what they do at {weighted[0].name}, at the end by 10^{ratios[-1]:.1f}."
    )
    return [Finding(one.name, float(10 ** gaps[-1]), reason, _REPAIR, severity)]


def _units(layers: Sequence[Layer]) -> list[Finding]:
    """Dead and saturated units: the worst layer of each."""
    found = []
    for name, words in (
        ("dead", "of its units are zero for every input: they get no gradient."),
        ("saturated", "of its values are where the activation is flat: gradients hardly pass."),
    ):
        shares = [getattr(one, name).value for one in layers]
        if np.any(np.nan_to_num(shares) > _HALF):
            worst = int(np.nanargmax(shares))
            change = "Use smaller weight variances, or larger batches to be sure."
            share = shares[worst]
            severity = "error" if share == 1 and name == "dead" else "warning"
            reason = f"{share:.0%} {words}"
            found.append(Finding(layers[worst].name, share, reason, change, severity))
    return found


def _output(last: Layer) -> list[Finding]:
    if last.variance.value < _LARGE_OUTPUT:
        return []
    reason = f"its outputs have the variance {last.variance.value:.1e}: the first loss is as large."
    return [Finding(last.name, last.variance.value, reason, _REPAIR, "warning")]


def effective_depth(layers: Sequence[Layer]) -> tuple[int, int]:
    """The layers with weights whose squared gradient is above `SLOW` of the largest, and all."""
    logs = [one.gradient.log10 for one in layers if one.parameters]
    logs = [value for value in logs if not math.isnan(value)]
    if not logs:
        return 0, 0
    return sum(value > max(logs) + math.log10(SLOW) for value in logs), len(logs)


def verdict(
    found: Sequence[Finding],
    phases: Sequence[tuple[Run, meanfield.FixedPoint | None]],
    depths: tuple,
) -> str:
    """One sentence, and one for each run of equal layers."""
    errors = [one for one in found if one.severity == "error"]
    learning, all_layers = depths
    if errors:
        text = f"This will not train: at {errors[0].layer} {errors[0].reason}"
    elif found:
        text = f"This may train slowly: at {found[0].layer} {found[0].reason}"
    else:
        text = "This should train: signals and gradients pass from end to end."
    if learning < all_layers:
        text += f" {learning} of {all_layers} layers with weights learn at one learning rate."
    for run, phase in phases:
        text += f" {run.first} to {run.last}, {run.depth} layers: {_phase_in_words(phase)}."
    return text


def _phase_in_words(phase: meanfield.FixedPoint | None) -> str:
    if phase is None:
        return "the variance grows without bound"
    if math.isinf(phase.xi_c):
        return f"{phase.phase} (chi_1 = {phase.chi_1:.4g})"
    return (
        f"{phase.phase} phase (chi_1 = {phase.chi_1:.4g}, depth scale xi_c = {phase.xi_c:.3g}: "
        f"networks train to about 6 xi_c = {6 * phase.xi_c:.3g} layers)"
    )
