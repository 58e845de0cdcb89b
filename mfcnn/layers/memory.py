"""How much memory a training step of a deep stack takes, known before it starts."""

import dataclasses
import math

from mfcnn.layers.deep_loop import checkpoint_strides

__all__ = ["StackMemory", "format_bytes", "stack_memory"]


@dataclasses.dataclass(frozen=True)
class StackMemory:
    """Bytes of one training step of a deep stack."""

    parameters: int
    slots: int
    gradients: int
    activations: int

    @property
    def total(self):
        """The sum in bytes."""
        return self.parameters + self.slots + self.gradients + self.activations

    def __str__(self):
        """The total and its parts, with units."""
        parts = (f"{name} {format_bytes(size)}" for name, size in dataclasses.asdict(self).items())
        return f"{format_bytes(self.total)} ({', '.join(parts)})"


def stack_memory(
    depth,
    layer_parameters,
    activation_size,
    window=9,
    checkpoint_levels=1,
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
        checkpoint_levels: as in `mfcnn.layers.DeepConvolution`.
        slots: optimizer variables for each parameter: sgd 0, momentum 1, rmsprop 1, adam 2.
        itemsize: bytes of a number.
        gradient_copies: 1 where the gradients are written in place (XLA, TPU); 2 where the
            gathered gradients of all layers are copied to one tensor (uncompiled).

    Returns:
        A `StackMemory` in bytes.
    """
    strides = checkpoint_strides(depth, checkpoint_levels)
    kept, length = 0, max(depth - 1, 1)
    for stride in strides:
        kept += math.ceil(length / stride)
        length = stride
    # One layer at work: input, output, both cotangents, and the neighbourhoods of two of them.
    working = 4 + 2 * window
    parameters = depth * layer_parameters
    return StackMemory(
        parameters=parameters * itemsize,
        slots=slots * parameters * itemsize,
        gradients=gradient_copies * parameters * itemsize,
        activations=(kept + working) * activation_size * itemsize,
    )


def format_bytes(size):
    """A size in bytes as text, with a binary prefix."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
