"""What a report holds: quantities, layers, findings; and what a repair has changed."""

import dataclasses
import math
from typing import Any

import numpy as np

__all__ = ["QUANTITIES", "Change", "Changes", "Finding", "Layer", "Quantity", "quantity"]

# What is measured at each layer, in the order of the tables.
QUANTITIES = (
    "mean",
    "variance",
    "correlation",
    "gradient",
    "weight_gradient",
    "dead",
    "saturated",
)


@dataclasses.dataclass(frozen=True)
class Quantity:
    """One number of a layer, measured and expected.

    Attributes:
        value: the mean over the draws; NaN where there is nothing to measure.
        spread: the standard deviation over the draws; NaN for fewer than two.
        theory: at infinite width; NaN where it is not known.
        draws: the number of draws.
        log10: the mean over the draws of the decimal logarithm, which a rare draw does not decide.
    """

    value: float
    spread: float = math.nan
    theory: float = math.nan
    draws: int = 1
    log10: float = math.nan

    @property
    def deviation(self) -> float:
        """Measurement over theory, minus one."""
        return self.value / self.theory - 1 if self.theory else math.nan

    @property
    def standard_errors(self) -> float:
        """Measurement minus theory, in standard errors of the mean over the draws."""
        if not self.spread > 0:
            return math.nan
        return (self.value - self.theory) / (self.spread / math.sqrt(self.draws))


@dataclasses.dataclass(frozen=True)
class Layer:
    """One call of a layer, in the order in which the model runs them.

    All quantities are of its signal: the pre-activations, where the layer has weights and an
    activation, and else its output.

    Attributes:
        name: of the layer.
        kind: its class.
        call: 0 for the first call of the layer, 1 for the second ...
        shape: of the signal for one input.
        parameters: the number of its trained weights.
        mean: over inputs, positions and units.
        variance: the mean square, q in the theory.
        correlation: of two inputs, the mean over pairs.
        gradient: squared norm of the gradient by the signal, by input, for a random cotangent of
            squared norm one at the model's outputs (in front of a last softmax or sigmoid).
        weight_gradient: squared norm of the gradient by the layer's own weights, by input.
        dead: share of the units that are zero for the whole batch behind the activation.
        saturated: share of the values where a bounded activation is flat (under 5 % of its slope).
        reason: why theory does not know it; empty where it does.
    """

    name: str
    kind: str
    call: int
    shape: tuple[int, ...]
    parameters: int
    mean: Quantity
    variance: Quantity
    correlation: Quantity
    gradient: Quantity
    weight_gradient: Quantity
    dead: Quantity
    saturated: Quantity
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """All of it as the row of a table."""
        result: dict[str, Any] = {
            "layer": self.name,
            "kind": self.kind,
            "call": self.call,
            "shape": "x".join(map(str, self.shape)),
            "parameters": self.parameters,
        }
        for name in QUANTITIES:
            quantity = getattr(self, name)
            result[name] = quantity.value
            result[f"{name}_spread"] = quantity.spread
            if name not in ("dead", "saturated"):
                result[f"{name}_theory"] = quantity.theory
                result[f"{name}_standard_errors"] = quantity.standard_errors
        result["reason"] = self.reason
        return result


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that is wrong with a model.

    Attributes:
        layer: the name of the layer where it shows.
        number: the number that says so.
        reason: what it means, in a sentence.
        change: what to do.
        severity: "error" for what keeps the model from training, else "warning".
    """

    layer: str
    number: float
    reason: str
    change: str
    severity: str

    def __str__(self) -> str:
        """All of it in one line."""
        return f"{self.severity}: {self.layer}: {self.reason} {self.change}"


@dataclasses.dataclass(frozen=True)
class Change:
    """What was done with one layer.

    Attributes:
        layer: its name.
        weight_variance: sigma_w^2, the new variance of a weight times the number of inputs; NaN
            where nothing was changed.
        bias_variance: sigma_b^2.
        kernel: "orthogonal", "delta-orthogonal" or "gaussian", behind "mirrored" where units come
            in pairs of opposite sign (`mfcnn.initializers.Mirrored`); "scale" or "kept".
        reason: why so.
    """

    layer: str
    weight_variance: float
    bias_variance: float
    kernel: str
    reason: str


class Changes(tuple[Change, ...]):
    """What `repair` did, a `Change` for each layer; str() is a table."""

    def __str__(self) -> str:
        """A line for each layer."""
        width = max((len(one.layer) for one in self), default=5)
        lines = [f"{'layer':{width}}  weight var.  bias var.  kernel                     reason"]
        for one in self:
            numbers = [
                "" if math.isnan(v) else f"{v:.4g}"
                for v in (one.weight_variance, one.bias_variance)
            ]
            lines.append(
                f"{one.layer:{width}}  {numbers[0]:>11}  {numbers[1]:>9}  {one.kernel:25}  "
                f"{one.reason}"
            )
        return "\n".join(lines)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with a row for each layer."""
        import pandas

        return pandas.DataFrame([dataclasses.asdict(one) for one in self])


def quantity(values: np.ndarray, theory: float) -> Quantity:
    """Of the values of all draws."""
    with np.errstate(all="ignore"):
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        logarithm = float(np.mean(np.log10(np.abs(values))))
        return Quantity(float(np.mean(values)), spread, theory, len(values), logarithm)
