"""Keras layers: deep stacks as one loop, convolutions on a torus."""

from mfcnn.layers.convolution import PADDINGS
from mfcnn.layers.deep import DeepConvolution, DeepDense
from mfcnn.layers.memory import StackMemory, stack_memory
from mfcnn.layers.periodic import PeriodicConvolution

__all__ = [
    "PADDINGS",
    "DeepConvolution",
    "DeepDense",
    "PeriodicConvolution",
    "StackMemory",
    "stack_memory",
]
