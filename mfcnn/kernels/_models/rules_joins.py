"""Rules for what joins signals or scales them: sums, means, products, concatenation, constants."""

from typing import TYPE_CHECKING

import keras
import numpy as np

from mfcnn import borrowed
from mfcnn.kernels._models import pairs
from mfcnn.kernels._models.nodes import Data
from mfcnn.kernels._models.operations import Product
from mfcnn.kernels._models.registry import refuse, rule
from mfcnn.kernels._models.signals import Part, Signal, weighted_sum

if TYPE_CHECKING:
    from mfcnn.kernels._models.reading import Call

__all__: list[str] = []

L = keras.layers
operations = borrowed.keras_numpy_operations


def _sum(call: "Call", signals: tuple[Signal, ...], factors: list[float]) -> Signal:
    if len(signals) != len(factors):
        call.refuse("it adds data or a constant to a random signal")
    try:
        return weighted_sum(list(zip(factors, signals)))
    except pairs.UnrelatedError:
        raise
    except ValueError as error:
        call.refuse(str(error), error)


@rule(L.Add)
def add(call: "Call", *signals: Signal) -> Signal:
    """A sum."""
    return _sum(call, signals, [1.0] * len(signals))


@rule(operations.Add)
def add_two(call: "Call", *signals: Signal) -> Signal:
    """A + b, or a + a, or a + constant, which is refused."""
    return _sum(call, _operands(call, signals), [1.0, 1.0])


@rule(L.Subtract)
def subtract(call: "Call", *signals: Signal) -> Signal:
    """A difference."""
    return _sum(call, signals, [1.0, -1.0])


@rule(operations.Subtract)
def subtract_two(call: "Call", *signals: Signal) -> Signal:
    """A - b."""
    return _sum(call, _operands(call, signals), [1.0, -1.0])


@rule(L.Average)
def mean(call: "Call", *signals: Signal) -> Signal:
    """The mean of several signals."""
    return _sum(call, signals, [1 / len(signals)] * len(signals))


def _operands(call: "Call", signals: tuple[Signal, ...]) -> tuple[Signal, ...]:
    """The signals among the two operands of an operation, in their order."""
    known = iter(signals)
    is_tensor = [isinstance(a, keras.KerasTensor) for a in call.node.arguments.args]
    return tuple(next(known) for one in is_tensor if one)


def _constant(call: "Call") -> float | None:
    """The number that an operation joins to its one signal, or None."""
    others = [a for a in call.node.arguments.args if not isinstance(a, keras.KerasTensor)]
    if len(others) != 1 or np.ndim(others[0]):
        return None
    return float(np.asarray(others[0]))


@rule(operations.Negative)
def negative(call: "Call", signal: Signal) -> Signal:
    """-a."""
    return signal.scaled(-1.0)


@rule(operations.TrueDivide)
def divide(call: "Call", *signals: Signal) -> Signal:
    """A / constant."""
    factor = _constant(call)
    if (
        len(signals) != 1
        or factor is None
        or not isinstance(call.node.arguments.args[0], keras.KerasTensor)
    ):
        call.refuse("it divides by a signal or by an array")
    return signals[0].scaled(1 / factor)


@rule(operations.Multiply)
def multiply_two(call: "Call", *signals: Signal) -> Signal:
    """A times constant, or a * b."""
    if len(signals) == 2:
        return multiply(call, *signals)
    factor = _constant(call)
    if factor is None:
        call.refuse("it multiplies by an array")
    return signals[0].scaled(factor)


@rule(L.Multiply)
def multiply(call: "Call", *signals: Signal) -> Signal:
    """The product of independent signals; one position stands for all."""
    if any(isinstance(part.node, Data) for signal in signals for part in signal.parts):
        call.refuse("it multiplies data and a random signal")
    if any(len(signal.parts) > 1 or signal.flat for signal in signals):
        call.refuse("it multiplies joined or flat signals")
    node, *others = (signal.parts[0].node for signal in signals)
    for other in others:
        if not pairs.independent(node, other):
            call.refuse("its factors are not independent")
        if len(node.sizes) != len(other.sizes):
            call.refuse("its factors have different ranks")
        node = Product(node, other)
    return Signal([Part(call.channels, node)])


@rule(L.Concatenate)
def concatenate(call: "Call", *signals: Signal) -> Signal:
    """Channels side by side."""
    axis = call.layer.axis
    if axis not in (-1, len(call.shape) - 1):
        call.refuse("it joins positions, not channels")
    flat = any(signal.flat for signal in signals)
    return Signal([part for signal in signals for part in signal.parts], flat)


@rule(L.Rescaling)
def rescale(call: "Call", signal: Signal) -> Signal:
    """A times constant."""
    if np.any(call.layer.offset) or np.ndim(call.layer.scale):
        call.refuse("behind weights it may have one scale and no offset")
    return signal.scaled(float(call.layer.scale))


refuse("the larger of two signals is not known here", L.Maximum, L.Minimum)
refuse("it sums products of two signals over channels, which stays random", L.Dot)
