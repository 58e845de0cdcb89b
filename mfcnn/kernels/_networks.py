"""Kernels of infinitely wide networks by name: the public constructors."""

from collections.abc import Sequence
from typing import Any

from mfcnn.kernels import _base
from mfcnn.kernels._convolutional import ConvolutionalKernel
from mfcnn.kernels._fully_connected import FullyConnectedKernel

__all__ = ["convolutional", "fully_connected"]


def fully_connected(
    depth: int | Sequence[int],
    activation: Any,
    weight_variance: Any,
    bias_variance: Any,
    dtype: Any = "float64",
) -> _base.Kernel:
    """The NNGP and NTK of an infinitely wide fully connected network.

    Args:
        depth: number of hidden layers; 0 is the linear model. A sequence of depths gives all their
            kernels in one pass, stacked in front.
        activation: a name or a `mfcnn.activations.Activation`.
        weight_variance: sigma_w^2, a float, or a scalar tensor to differentiate by.
        bias_variance: sigma_b^2, likewise.
        dtype: "float64" or "float32".

    Returns:
        A callable kernel(x1, x2=None, get=("nngp", "ntk")) of inputs [n, features]; see
        `mfcnn.kernels.Kernel` for its further arguments.

    Raises:
        ValueError: for arguments outside these ranges.

    Example:
        >>> kernel = mfcnn.kernels.fully_connected(3, "relu", 2.0, 0.0)
        >>> kernel([[1.0, 1.0], [2.0, 0.0]], [[1.0, 1.0]], get="ntk").numpy()
        array([[8.        ],
               [6.31679339]])

    Source: NTK paper, equations 2 and 6.
    """
    return FullyConnectedKernel(depth, activation, weight_variance, bias_variance, dtype)


def convolutional(
    depth: int | Sequence[int],
    activation: Any,
    weight_variance: Any,
    bias_variance: Any,
    kernel_size: int | Sequence[int] = 3,
    readout: str = "flatten",
    padding: str = "circular",
    variance_profile: Any = None,
    dtype: Any = "float64",
) -> _base.Kernel:
    """The NNGP and NTK of a convolutional network with infinitely many channels.

    Args:
        depth: number of convolutions, each followed by the activation; then the linear readout. A
            sequence of depths gives all their kernels in one pass, stacked in front.
        activation: a name or a `mfcnn.activations.Activation`.
        weight_variance: sigma_w^2, a float, or a scalar tensor to differentiate by.
        bias_variance: sigma_b^2, likewise.
        kernel_size: taps in each direction, an integer or one per spatial axis.
        readout: "flatten" (CNN-F) or "pool" (global average, CNN-P).
        padding: "circular", "same" (zeros) or "valid" (none).
        variance_profile: share of the weight variance of each tap: None (uniform), a name such as
            "delta" (all at the centre), or an array [k, k] (images) or [k] (sequences) of sum one;
            see `mfcnn.profiles.parse`.
        dtype: "float64" or "float32".

    Returns:
        A callable kernel(x1, x2=None, get=("nngp", "ntk")) of images [n, height, width, channels]
        or sequences [n, length, channels]; see `mfcnn.kernels.Kernel` for its further arguments.

    Raises:
        ValueError: for arguments outside these ranges.

    Example:
        >>> kernel = mfcnn.kernels.convolutional(2, "relu", 2.0, 0.0, readout="pool")
        >>> images = np.ones([2, 4, 4, 3])
        >>> kernel(images, get="ntk").numpy()
        array([[6., 6.],
               [6., 6.]])

    Source: NTK paper, equations 18, 27 to 31; profile: CNN paper, section 2.1.6.
    """
    return ConvolutionalKernel(
        depth,
        activation,
        weight_variance,
        bias_variance,
        kernel_size,
        readout,
        padding,
        variance_profile,
        dtype,
    )
