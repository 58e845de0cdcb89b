"""Keras layers: deep stacks as one loop, convolutions on a torus, attention with a kernel."""

from mfcnn.layers._attention import NTKSelfAttention
from mfcnn.layers._convolution import PADDINGS
from mfcnn.layers._deep import DeepConvolution, DeepDense, xla_is_faster
from mfcnn.layers._memory import StackMemory, choose_checkpoint_levels, stack_memory
from mfcnn.layers._ntk import NTKConvolution, NTKDense
from mfcnn.layers._periodic import PeriodicConvolution
from mfcnn.layers._repeat import Repeat

__all__ = [
    "PADDINGS",
    "DeepConvolution",
    "DeepDense",
    "NTKConvolution",
    "NTKDense",
    "NTKSelfAttention",
    "PeriodicConvolution",
    "Repeat",
    "StackMemory",
    "choose_checkpoint_levels",
    "stack_memory",
    "xla_is_faster",
]
