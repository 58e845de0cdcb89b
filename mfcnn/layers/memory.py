"""How much memory a training step of a deep stack takes, known before it starts."""

import dataclasses
import math

from mfcnn.layers.deep_loop import checkpoint_strides

__all__ = ["StackMemory", "choose_checkpoint_levels", "format_bytes", "stack_memory"]

DEFAULT_BUDGET = 2**30

# What a process holds beside tensors: traces, compiled code, freed pages that the allocator keeps.
# Measured 23 to 55 MiB by benchmarks/deep_stack.py, at any depth.
_PROGRAM = 2**25


@dataclasses.dataclass(frozen=True)
class StackMemory:
    """Bytes of one training step of a deep stack."""

    parameters: int
    slots: int
    gradients: int
    activations: int
    program: int

    @property
    def total(self):
        """The sum in bytes."""
        return sum(dataclasses.astuple(self))

    def __str__(self):
        """The total and its parts, with units."""
        parts = (f"{name} {format_bytes(size)}" for name, size in dataclasses.asdict(self).items())
        return f"{format_bytes(self.total)} ({', '.join(parts)})"


def kept_activations(depth, checkpoint_levels):
    """Number of pre-activations that a backward pass keeps at a time."""
    kept, length = 0, max(depth - 1, 1)
    for stride in checkpoint_strides(depth, checkpoint_levels):
        kept += math.ceil(length / stride)
        length = stride
    return kept


def choose_checkpoint_levels(depth, activation_bytes, budget=DEFAULT_BUDGET):
    """The fewest recomputations whose kept activations fit in a budget.

    Args:
        depth: number of layers.
        activation_bytes: bytes of one activation of the batch.
        budget: bytes for the kept activations.

    Returns:
        0, 1 or 2; 2 also where not even that fits.
    """
    for levels in (0, 1):
        if kept_activations(depth, levels) * activation_bytes <= budget:
            return levels
    return 2


def stack_memory(
    depth,
    layer_parameters,
    activation_size,
    window=9,
    checkpoint_levels=None,
    slots=2,
    itemsize=4,
    gradient_copies=1,
):
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
            gathered gradients of all layers are copied to one tensor (uncompiled).

    Returns:
        A `StackMemory` in bytes.
    """
    if checkpoint_levels is None:
        checkpoint_levels = choose_checkpoint_levels(depth, activation_size * itemsize)
    kept = kept_activations(depth, checkpoint_levels)
    # One layer at work: input, output, both cotangents, and the neighbourhoods of two of them.
    working = 4 + 2 * window
    parameters = depth * layer_parameters
    return StackMemory(
        parameters=parameters * itemsize,
        slots=slots * parameters * itemsize,
        gradients=gradient_copies * parameters * itemsize,
        activations=(kept + working) * activation_size * itemsize,
        program=_PROGRAM,
    )


def format_bytes(size):
    """A size in bytes as text, with a binary prefix."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
