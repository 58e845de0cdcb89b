"""Keras layers: deep stacks as one loop, convolutions on a torus."""

from mfcnn.layers.convolution import PADDINGS
from mfcnn.layers.deep import DeepConvolution, DeepDense, xla_is_faster
from mfcnn.layers.memory import StackMemory, choose_checkpoint_levels, stack_memory
from mfcnn.layers.ntk import NTKConvolution, NTKDense
from mfcnn.layers.periodic import PeriodicConvolution

__all__ = [
    "PADDINGS",
    "DeepConvolution",
    "DeepDense",
    "NTKConvolution",
    "NTKDense",
    "PeriodicConvolution",
    "StackMemory",
    "choose_checkpoint_levels",
    "stack_memory",
    "xla_is_faster",
]
