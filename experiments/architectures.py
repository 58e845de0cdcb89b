"""FCN, CNN-F and CNN-P, the architectures of the NTK paper, and inputs at their fixed point."""

from collections.abc import Callable

import numpy as np

from experiments import samples
from mfcnn import kernels

__all__ = ["ARCHITECTURES", "inputs", "make_kernel"]

ARCHITECTURES = ("fcn", "cnn_f", "cnn_p")


def inputs(
    rng: np.random.Generator,
    m: int,
    size: int,
    limit: kernels.Limits,
    weight_variance: float,
    bias_variance: float,
) -> np.ndarray:
    """Images [m, size, size, 3] whose pixels all have pre-activations of variance q*."""
    x = rng.normal(size=(m, size, size, 3))
    return samples.at_fixed_point(x, limit, weight_variance, bias_variance, pixels=True)


def make_kernel(
    architecture: str,
    depths: list[int],
    activation: str,
    weight_variance: float,
    bias_variance: float,
) -> Callable:
    """The kernel of an architecture at several depths, of images."""
    arguments = (depths, activation, weight_variance, bias_variance)
    if architecture == "fcn":
        kernel = kernels.fully_connected(*arguments)
        return lambda x, **kwargs: kernel(x.reshape(len(x), -1), **kwargs)
    readout = "flatten" if architecture == "cnn_f" else "pool"
    return kernels.convolutional(*arguments, readout=readout)
