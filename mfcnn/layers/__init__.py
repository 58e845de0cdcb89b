"""Keras layers: deep stacks as one loop, convolutions on a torus."""

from mfcnn.layers.deep import DeepConvolution, DeepDense
from mfcnn.layers.periodic import PeriodicConvolution

__all__ = ["DeepConvolution", "DeepDense", "PeriodicConvolution"]
