"""How much memory a training step of a deep stack takes, known before it starts."""

import dataclasses
import math
from typing import Any

from mfcnn import arguments

__all__ = [
    "DEFAULT_BUDGET",
    "StackMemory",
    "check_budget",
    "check_levels",
    "checkpoint_strides",
    "choose_checkpoint_levels",
    "format_bytes",
    "kept_activations",
    "stack_memory",
]

DEFAULT_BUDGET = 2**30

# What a process holds beside tensors: traces, compiled code, freed pages that the allocator keeps.
# Measured 23 to 55 MiB by benchmarks/deep_stack.py, at any depth.
PROGRAM = 2**25


@dataclasses.dataclass(frozen=True)
class StackMemory:
    """Bytes of one training step of a deep stack."""

    parameters: int
    slots: int
    gradients: int
    activations: int
    program: int

    @property
    def total(self) -> int:
        """The sum in bytes."""
        return sum(dataclasses.astuple(self))

    def __str__(self) -> str:
        """The total and its parts, with units."""
        parts = (f"{name} {format_bytes(size)}" for name, size in dataclasses.asdict(self).items())
        return f"{format_bytes(self.total)} ({', '.join(parts)})"


def check_levels(value: Any) -> int | None:
    """checkpoint_levels: None (chosen by memory), 0 (keep all), 1 or 2."""
    if value is None:
        return None
    try:
        return arguments.integer("checkpoint_levels", value, 0, 2)
    except ValueError as error:
        raise type(error)(
            "checkpoint_levels must be None (chosen by memory), 0 (keep all), 1 or 2. "
            f"Received: checkpoint_levels={value!r}"
        ) from None


def check_budget(value: Any) -> float:
    """memory_budget: bytes, infinite too."""
    return arguments.number("memory_budget", value, 0, infinite=True)


def checkpoint_strides(depth: int, levels: int) -> tuple[int, ...]:
    """Layers between two checkpoints at each level, from the coarsest to single layers.

    Args:
        depth: number of layers of the stack.
        levels: 0 keeps every pre-activation, 1 and 2 nest that many coarser levels.

    Returns:
        A tuple of `levels + 1` integers, the last of them 1.
    """
    transitions = max(depth - 1, 1)
    root = transitions ** (1.0 / (levels + 1))
    return tuple(math.ceil(round(root**power, 9)) for power in range(levels, 0, -1)) + (1,)


def kept_activations(depth: int, checkpoint_levels: int) -> int:
    """Number of pre-activations that a backward pass keeps at a time."""
    kept, length = 0, max(depth - 1, 1)
    for stride in checkpoint_strides(depth, checkpoint_levels):
        kept += math.ceil(length / stride)
        length = stride
    return kept


def choose_checkpoint_levels(
    depth: int, activation_bytes: int, budget: float = DEFAULT_BUDGET
) -> int:
    """The fewest recomputations whose kept activations fit in a budget.

    Args:
        depth: number of layers.
        activation_bytes: bytes of one activation of the batch.
        budget: bytes for the kept activations.

    Returns:
        0, 1 or 2; 2 also where not even that fits.

    Raises:
        ValueError: for a depth below 1, or a negative number of bytes.

    Example:
        >>> mfcnn.layers.choose_checkpoint_levels(10_000, 2**20)
        1
    """
    depth = arguments.depth(depth)
    activation_bytes = arguments.integer("activation_bytes", activation_bytes, 0)
    budget = arguments.number("budget", budget, 0, infinite=True)
    for levels in (0, 1):
        if kept_activations(depth, levels) * activation_bytes <= budget:
            return levels
    return 2


def stack_memory(
    depth: int,
    layer_parameters: int,
    activation_size: int,
    window: int = 9,
    checkpoint_levels: int | None = None,
    slots: int = 2,
    itemsize: int = 4,
    gradient_copies: int = 1,
) -> StackMemory:
    """Predicts the memory of forward, backward and update of a deep stack.

    Args:
        depth: number of layers.
        layer_parameters: parameters of one layer.
        activation_size: elements of one activation of the batch, b * h * w * c.
        window: positions of the kernel, k * k; 1 for dense layers.
        checkpoint_levels: as in `mfcnn.layers.DeepConvolution`; None: for the default budget.
        slots: optimizer variables for each parameter: sgd 0, momentum 1, rmsprop 1, adam 2.
        itemsize: bytes of a number.
        gradient_copies: 1 where the gradients are written in place (XLA, TPU); 2 where the
            gathered gradients of all layers are copied to one tensor (uncompiled); 0 where each
            layer is updated at once.

    Returns:
        A `StackMemory` in bytes.

    Raises:
        ValueError: for a number that is not an integer of at least zero (depth, window and
            itemsize: one), or other checkpoint_levels than None, 0, 1 and 2.

    Example:
        >>> print(mfcnn.layers.stack_memory(1000, 9 * 16 * 16, 32 * 8 * 8 * 16, slots=0))
        177.2 MiB (parameters 8.8 MiB, slots 0 B, gradients 8.8 MiB, activations 127.6 MiB, ...)
    """
    depth = arguments.depth(depth)
    window, itemsize = (
        arguments.integer(name, value, 1)
        for name, value in (("window", window), ("itemsize", itemsize))
    )
    layer_parameters, activation_size, slots, gradient_copies = (
        arguments.integer(name, value, 0)
        for name, value in (
            ("layer_parameters", layer_parameters),
            ("activation_size", activation_size),
            ("slots", slots),
            ("gradient_copies", gradient_copies),
        )
    )
    levels = check_levels(checkpoint_levels)
    if levels is None:
        levels = choose_checkpoint_levels(depth, activation_size * itemsize)
    kept = kept_activations(depth, levels)
    # One layer at work: input, output, both cotangents, and the neighbourhoods of two of them.
    working = 4 + 2 * window
    parameters = depth * layer_parameters
    return StackMemory(
        parameters=parameters * itemsize,
        slots=slots * parameters * itemsize,
        gradients=gradient_copies * parameters * itemsize,
        activations=(kept + working) * activation_size * itemsize,
        program=PROGRAM,
    )


def format_bytes(size: float) -> str:
    """A size in bytes as text, with a binary prefix."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
