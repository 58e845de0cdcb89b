"""Initializers of convolution kernels: orthogonal, delta-orthogonal, Gaussian with a profile.

A kernel has the shape [*window, c_in, c_out] with a window of one, two or three dimensions, as in
`keras.layers.Conv1D`, `Conv2D` and `Conv3D`. Each initializer is stateless: its values depend only
on (seed, shape, dtype, layout). An int seed or None (drawn once, at construction, from Keras's
global seed) gives the same kernel at every call; a `keras.random.SeedGenerator` gives a new one at
each. Eager calls and graphs draw the same values; XLA draws others of the same law. Layers that are
to differ need seeds that differ, or one `stack`:

    ConvolutionDeltaOrthogonal(seed=0)((3, 3, 64, 64))                # [3, 3, 64, 64]
    ConvolutionDeltaOrthogonal(seed=0).stack(10_000, (3, 3, 64, 64))  # [10000, 3, 3, 64, 64]

What the axes of a kernel mean (transposed and depthwise convolutions store them otherwise), the
groups and the strides are taken from the Keras layer that is being built, or from the arguments
layout, groups and strides where there is none; see `_layouts.py`.

References: Xiao et al. 2018, "Dynamical isometry and a mean field theory of CNNs", section 2.3,
2.4 and 2.1.6, Algorithms 1 and 2; Mezzadri 2007, "How to generate random matrices from the
classical compact groups" for the signs of the QR factor.
"""

from mfcnn.initializers._gaussian import ConvolutionGaussian
from mfcnn.initializers._mirrored import Mirrored
from mfcnn.initializers._orthogonal import ConvolutionDeltaOrthogonal, ConvolutionOrthogonal
from mfcnn.initializers._stacking import stack_initializer

__all__ = [
    "ConvolutionDeltaOrthogonal",
    "ConvolutionGaussian",
    "ConvolutionOrthogonal",
    "Mirrored",
    "stack_initializer",
]
