"""Independent Gaussian kernels whose variance depends on the tap."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments, profiles
from mfcnn.initializers._base import ConvolutionInitializer, Shape
from mfcnn.initializers._layouts import Layout

__all__ = ["ConvolutionGaussian"]


@keras.saving.register_keras_serializable(package="mfcnn")
class ConvolutionGaussian(ConvolutionInitializer):
    """Independent normal entries with Var K[beta, i, j] = weight_variance * v_beta / c_in.

    A pre-activation then has weight_variance times the inputs' second moment as its variance. In a
    transposed convolution the entries' variance is that times the product of the strides, since an
    output is a sum over as many times fewer taps: the mean over the outputs' variances is the same.

    Args:
        variance_profile: v of sum one, as `mfcnn.profiles.parse` takes it: None or "uniform",
            "delta", "orthogonal", "gs0" to "gs4" in any case, or an array of the window's shape.
        weight_variance: sigma_w^2; finite, not negative.
        seed: int, None or `keras.random.SeedGenerator`.
        layout: "convolution", "transposed" or "depthwise"; None is that of the layer being built,
            and "convolution" where there is none.
        strides: of the convolution; None likewise, and one.
        groups: of the convolution; None likewise, and one.

    Raises:
        ValueError: for a profile that is negative, not of the window's shape or of another sum
            than 1, a bad weight_variance or seed; at a call for a shape of rank other than 3, 4, 5.

    Example:
        >>> gaussian = mfcnn.initializers.ConvolutionGaussian("delta", weight_variance=2.0)
        >>> layer = keras.layers.Conv2D(64, 3, kernel_initializer=gaussian)
        >>> layer.build((None, 8, 8, 100))
        >>> float(gaussian.entry_variances(layer.kernel.shape)[1, 1])
        0.02

    Source: CNN paper, section 2.1.6.
    """

    def __init__(
        self,
        variance_profile: Any = None,
        weight_variance: float = 1.0,
        seed: Any = None,
        *,
        layout: str | None = None,
        strides: int | tuple[int, ...] | None = None,
        groups: int | None = None,
    ) -> None:
        super().__init__(seed, layout, strides, groups)
        parsed = profiles.parse(variance_profile)
        named = variance_profile is None or isinstance(variance_profile, str)
        self.variance_profile = variance_profile if named else parsed
        self.weight_variance = arguments.variance("weight_variance", weight_variance)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, serializable."""
        profile = self.variance_profile
        return {
            "variance_profile": profile.tolist() if isinstance(profile, np.ndarray) else profile,
            "weight_variance": self.weight_variance,
            **super().get_config(),
        }

    def _check_shape(self, shape: Any, layout: Layout) -> Shape:
        shape = super()._check_shape(shape, layout)
        self._variances(shape, layout)
        return shape

    def _variances(self, shape: Shape, layout: Layout) -> np.ndarray:
        window = shape[:-2]
        profile = profiles.parse(self.variance_profile, window, len(window))
        factor = layout.spread(window) / layout.channels(shape)
        return self.weight_variance * factor * profile

    def _draw_stack(
        self,
        seed: tf.Tensor,
        depth: int,
        shape: Shape,
        dtype: tf.DType,
        layout: Layout,
        in_place: bool,
    ) -> tf.Tensor:
        stddev = np.sqrt(self._variances(shape, layout))[..., None, None]
        # One call for all layers: the generator fills in order, so that depth does not matter.
        compute_dtype = tf.float64 if dtype == tf.float64 else tf.float32
        normals = tf.random.stateless_normal((depth, *shape), seed, dtype=compute_dtype)
        return tf.cast(normals * tf.constant(stddev, compute_dtype), dtype)
