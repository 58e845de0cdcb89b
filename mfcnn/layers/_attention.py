"""Self-attention in the NTK parameterization, whose weights are not random at infinite width."""

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from mfcnn import arguments
from mfcnn.layers._ntk import known_channels

__all__ = ["MECHANISMS", "NTKSelfAttention", "attention_weights"]

MECHANISMS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "softmax": tf.nn.softmax,
    "identity": tf.identity,
    "relu": tf.nn.relu,
    "abs": tf.abs,
}


def attention_weights(
    mechanism: str, logits: tf.Tensor, mask: tf.Tensor | None = None
) -> tf.Tensor:
    """The weights [..., queries, keys] of logits; keys where a mask is False are left out."""
    if mask is not None:
        least = logits.dtype.min / 2 if mechanism == "softmax" else 0.0
        logits = tf.where(mask, logits, tf.constant(least, logits.dtype))
    return MECHANISMS[mechanism](logits)


@keras.saving.register_keras_serializable(package="mfcnn")
class NTKSelfAttention(keras.layers.Layer):
    """y = sqrt(weight_variance / (h d)) concat_h(A_h x v_h) w + sqrt(bias_variance) beta.

    The attention weights of head h are A_h = mechanism(key_variance k_h k_h' / d), with the keys
    k_h = x u_h / sqrt(channels) for queries too, and a scale 1 / d: for many keys they tend to
    mechanism(key_variance K(p, p')), with K the NNGP of the inputs, and the layer's kernel has a
    closed form (`mfcnn.kernels.from_keras`). Queries of their own at this scale would give all
    positions the same weight; `keras.layers.MultiHeadAttention` divides by sqrt(d), and its weights
    stay random. u, v, w and beta are standard normal and trained.

    Args:
        units: number of outputs.
        num_heads: h.
        key_dim: d, the number of keys, and of values, of a head.
        mechanism: "softmax", "identity", "relu" or "abs".
        key_variance: the factor of the keys' mean product.
        weight_variance: sigma_w^2 of values and output together.
        bias_variance: sigma_b^2; at 0 there is no bias.
        seed: integer of at least 0; the same seed gives the same weights. None draws new ones,
            which follow `keras.utils.set_random_seed`.
        **kwargs: those of `keras.layers.Layer`.

    Input shape:
        [batch, *positions, channels]. A mask [batch, positions] leaves keys out.

    Output shape:
        [batch, *positions, units].

    Raises:
        ValueError: for sizes below 1, a negative variance or another mechanism.

    Example:
        >>> layer = mfcnn.layers.NTKSelfAttention(4, num_heads=2, key_dim=8)
        >>> layer(tf.zeros([2, 5, 3])).shape
        TensorShape([2, 5, 4])

    Source: Hron, Bahri, Sohl-Dickstein, Novak, "Infinite attention", 2020, section 3.
    """

    def __init__(
        self,
        units: int,
        num_heads: int = 8,
        key_dim: int = 64,
        mechanism: str = "softmax",
        key_variance: float = 1.0,
        weight_variance: float = 1.0,
        bias_variance: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = arguments.integer("units", units, 1)
        self.num_heads = arguments.integer("num_heads", num_heads, 1)
        self.key_dim = arguments.integer("key_dim", key_dim, 1)
        self.mechanism = arguments.choice("mechanism", mechanism, tuple(MECHANISMS))
        self.key_variance = arguments.variance("key_variance", key_variance)
        self.weight_variance = arguments.variance("weight_variance", weight_variance)
        self.bias_variance = arguments.variance("bias_variance", bias_variance)
        self.seed = arguments.seed(seed)
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(min_ndim=3)

    def build(self, input_shape: Any) -> None:
        """Makes u and v [channels, h, d], w [h, d, units] and beta [units]."""
        channels = known_channels(self, input_shape)
        inner = (channels, self.num_heads, self.key_dim)
        self.key_kernel = self._normal("key_kernel", inner, 0)
        self.value_kernel = self._normal("value_kernel", inner, 1)
        self.kernel = self._normal("kernel", (*inner[1:], self.units), 2)
        self.bias = self._normal("bias", (self.units,), 3) if self.bias_variance else None
        self.input_spec = keras.layers.InputSpec(min_ndim=3, axes={-1: channels})

    def _normal(self, name: str, shape: tuple[int, ...], index: int) -> keras.Variable:
        seed = None if self.seed is None else 4 * self.seed + index
        initializer = keras.initializers.RandomNormal(stddev=1.0, seed=seed)
        return self.add_weight(shape=shape, initializer=initializer, name=name)

    def call(self, x: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
        """Attends from every position to all; those where the mask is False are no keys."""
        shape, channels = tf.shape(x), x.shape[-1]
        positions = tf.reshape(x, [shape[0], -1, channels])
        if mask is not None:
            mask = tf.reshape(tf.cast(mask, tf.bool), [shape[0], 1, 1, -1])
        keys, values = (
            tf.einsum("bpc,chd->bhpd", positions, tf.convert_to_tensor(kernel)) / channels**0.5
            for kernel in (self.key_kernel, self.value_kernel)
        )
        scale = tf.constant(self.key_variance / self.key_dim, x.dtype)
        logits = scale * tf.matmul(keys, keys, transpose_b=True)
        heads = tf.matmul(attention_weights(self.mechanism, logits, mask), values)
        scale = math.sqrt(self.weight_variance / (self.num_heads * self.key_dim))
        y = scale * tf.einsum("bhpd,hdo->bpo", heads, tf.convert_to_tensor(self.kernel))
        if self.bias is not None:
            y = y + math.sqrt(self.bias_variance) * tf.convert_to_tensor(self.bias)
        return tf.reshape(y, tf.concat([shape[:-1], [self.units]], 0))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """[batch, *positions, units]."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        names = "units num_heads key_dim mechanism key_variance weight_variance bias_variance seed"
        return {**super().get_config(), **{name: getattr(self, name) for name in names.split()}}
