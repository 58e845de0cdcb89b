"""The taps of Keras's convolutions: which input position each of them reads."""

import functools

import keras
import numpy as np
import tensorflow as tf

from mfcnn.kernels import _geometry

__all__ = ["Taps"]


class Taps:
    """A convolution as `geometry.mix` takes it.

    Attributes:
        profile: the share of the variance of each tap, [*window], of sum one.
    """

    def __init__(
        self,
        profile: np.ndarray,
        padding: str,
        strides: tuple[int, ...],
        dilation: tuple[int, ...],
        output_padding: tuple[int | None, ...] | None = None,
    ) -> None:
        """Takes the arguments of the layer; `output_padding` of a transposed convolution alone."""
        self.profile, self.padding, self.strides = profile, padding, strides
        self.dilation, self.output_padding = dilation, output_padding
        self.shifts = functools.lru_cache(maxsize=64)(self._shifts)

    def uniform(self) -> "Taps":
        """The same taps with equal shares; itself if they are equal."""
        equal = np.full(self.profile.shape, 1 / self.profile.size)
        if np.allclose(self.profile, equal, rtol=1e-14, atol=0):
            return self
        return Taps(equal, self.padding, self.strides, self.dilation, self.output_padding)

    @functools.cached_property
    def products(self) -> list[tuple[np.ndarray, ...]]:
        """The profile as a sum of products."""
        return _geometry.product_terms(self.profile)

    def terms(self) -> list[tuple[np.ndarray, ...]]:
        """The profile as a sum of products."""
        return self.products

    def _shifts(self, axis: int, size: int) -> np.ndarray:
        """For each tap of an axis the 0-1 matrix [outputs, size]: Keras's own, of unit vectors."""
        taps, stride = self.profile.shape[axis], self.strides[axis]
        dilation, padding = self.dilation[axis], self.padding
        basis = np.eye(size)
        if padding == "causal":
            basis, padding = np.pad(basis, [(0, 0), (dilation * (taps - 1), 0)]), "valid"
        if padding == "circular":
            reach = dilation * (taps - 1) + 1
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            places = np.arange(-(total // 2), size + total - total // 2) % size
            basis, padding = basis[:, places], "valid"
        one_hot = np.eye(taps)
        with tf.init_scope():  # numbers, also while a graph is traced
            if self.output_padding is None:
                result = keras.ops.conv(
                    basis[:, :, None],
                    one_hot[:, None, :],
                    stride,
                    padding,
                    data_format="channels_last",
                    dilation_rate=dilation,
                )
            else:
                result = keras.ops.conv_transpose(
                    basis[:, :, None],
                    one_hot[:, :, None],
                    stride,
                    padding,
                    self.output_padding[axis],
                    "channels_last",
                    dilation,
                )
            return np.asarray(result, np.float64).transpose(2, 1, 0)
