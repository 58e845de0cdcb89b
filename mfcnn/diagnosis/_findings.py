"""What the numbers mean: findings, and the verdict.

Of a layer whose pre-activations have the variance q and the squared gradient g (of outputs of size
one) there are two numbers. The gradient itself is what gradient descent sees. The product q g is
what the outputs do when the weights change by a share of themselves, |change|^2 = share^2 q g; it
does not depend on the scale of weights: of relu and other homogeneous layers it is the same in all.

    g < 1e-4 or > 1e4 of the last layer's    gradient descent needs 10,000 steps for what other
                                             layers do in one: a warning. Adam divides it out.
    q g < 1e-14 in every layer               not even Adam, whose epsilon is 1e-7, moves a weight
                                             by its own size in 1,000 steps at rate 1e-3: an error.
    q g > e^6 of the last layer's            chaos: small steps turn the outputs over. Networks
                                             train to about six depth scales (CNN paper, section 3):
                                             an error, from e^3 on a warning. Weights behind which
                                             normalization stands have no scale of their own: they
                                             grow until the steps fit, and a net is slow where
                                             another is lost: an error from 1e10 on. Measured: of
                                             dense relu nets with batch normalization 30 and 40
                                             layers (1e6, 1e9) learn digits in 3,000 steps of Adam,
                                             60 (1e13) do not; ResNet50 (1e5) does in 150.
    1 - c < 1e-4, 1e-6 of the first layer's  two inputs of the correlation c look alike. The NTK's
                                             eigenvalues for their difference are proportional to
                                             1 - c: 10,000 steps of gradient descent are a warning,
                                             1,000 of the best momentum, sqrt of that, an error.
"""

import math
from collections.abc import Sequence

import numpy as np

from mfcnn import meanfield
from mfcnn.diagnosis._records import Finding, Layer
from mfcnn.diagnosis._theory import Run
from mfcnn.diagnosis._tracing import NORMALIZATION_KINDS

__all__ = ["LOST", "SLOW", "effective_depth", "findings", "verdict"]

SLOW, LOST = 1e-4, 1e-6
_EPSILON = 1e-7  # of keras.optimizers.Adam
_CHAOS = 6 / math.log(10)  # six depth scales, as a decimal logarithm
_NORMALIZED_CHAOS = 10.0
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
    """Squared gradients of the first layer over the last, and the outputs' sensitivity."""
    ratios = [one.gradient.log10 - weighted[-1].gradient.log10 for one in weighted]
    shares = [one.gradient.log10 + one.variance.log10 for one in weighted]
    lost = not math.isfinite(shares[-1])
    growth = [-math.inf if lost else share - shares[-1] for share in shares]
    found = []
    if max(growth) > _CHAOS / 2:
        limit = _NORMALIZED_CHAOS if _is_normalized(weighted) else _CHAOS
        found.append(_chaotic(weighted, growth, limit, runs))
    if max(shares) < 2 * math.log10(_EPSILON):
        found.append(_unseen(weighted, shares, runs))
    if abs(ratios[0]) > -math.log10(SLOW) and not found:
        found.append(_uneven(weighted, ratios, runs))
    return found


def _is_normalized(weighted: Sequence[Layer]) -> bool:
    """Whether at least every second layer with a kernel has a normalization of its own."""
    count = sum(one.kind in NORMALIZATION_KINDS for one in weighted)
    return 2 * count >= len(weighted) - count


def _chaotic(
    weighted: Sequence[Layer], growth: Sequence[float], limit: float, runs: Sequence[Run]
) -> Finding:
    place = _last_beyond([value > _CHAOS / 2 for value in growth])
    reason = (
        "the gradient explodes on the way back: a small change of the weights here changes the "
        f"outputs (squared) 10^{growth[place]:.1f} times as much as one at the end, in the worst "
        f"layer 10^{max(growth):.1f} times."
    )
    severity = "error" if max(growth) > limit else "warning"
    return Finding(weighted[place].name, 10.0 ** max(growth), reason, _advice(runs), severity)


def _unseen(weighted: Sequence[Layer], shares: Sequence[float], runs: Sequence[Run]) -> Finding:
    place = int(np.argmax(shares))
    reason = (
        "the gradient vanishes: no change of the weights by their own size changes the outputs "
        f"(squared) by more than 10^{shares[place]:.1f}, which even Adam does not see."
    )
    return Finding(weighted[0].name, 10.0 ** max(shares), reason, _advice(runs), "error")


def _uneven(weighted: Sequence[Layer], ratios: Sequence[float], runs: Sequence[Run]) -> Finding:
    first = ratios[0]
    sign = math.copysign(1.0, first)
    place = _last_beyond([sign * ratio > -math.log10(SLOW) for ratio in ratios])
    reason = (
        f"the squared gradient {'grows' if sign > 0 else 'vanishes'} on the way back: here it is "
        f"10^{ratios[place]:.1f}, at the first layer {weighted[0].name} 10^{first:.1f} times that "
        "of the last. Gradient descent at one rate moves few layers; Adam divides it out."
    )
    return Finding(weighted[place].name, 10.0**first, reason, _advice(runs), "warning")


def _last_beyond(beyond: Sequence[bool]) -> int:
    """From the first layer on: the last one before the first that is not beyond."""
    start = list(beyond).index(True)
    return next((i for i in range(start, len(beyond)) if not beyond[i]), len(beyond)) - 1


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
