"""The kinds of layers that random models are made of, odd uses of weights among them."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import layers

__all__ = ["KINDS"]

L = keras.layers


@keras.saving.register_keras_serializable(package="tests")
class _Odd(keras.layers.Layer):
    """A layer with a kernel [d, 3] and biases [3], used in one of several odd ways."""

    def __init__(self, use: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.use = use

    def get_config(self) -> dict:
        return {**super().get_config(), "use": self.use}

    def build(self, shape: tuple) -> None:
        d = shape[-1]
        self.kernel = self.add_weight(shape=(d, 3), initializer="glorot_uniform", name="kernel")
        self.other = self.add_weight(shape=(d, 3), initializer="glorot_uniform", name="other")
        self.bias = self.add_weight(shape=(3,), initializer="normal", name="bias")
        self.scale = self.add_weight(shape=(3,), initializer="ones", name="scale")
        self.square = self.add_weight(shape=(d, d), initializer="glorot_uniform", name="square")

    def call(self, x: Any) -> Any:
        k, b, s = (tf.convert_to_tensor(w) for w in (self.kernel, self.bias, self.scale))
        q, o = tf.convert_to_tensor(self.square), tf.convert_to_tensor(self.other)
        return _ODD_USES[self.use](x, k, o, b, s, q)


@tf.custom_gradient
def _twice_the_gradient(x: tf.Tensor) -> Any:
    return tf.identity(x), lambda g: 2 * g


@tf.custom_gradient
def _hidden_gradient(x: tf.Tensor) -> Any:
    return tf.sin(x), lambda g: tf.stop_gradient(g) * tf.cos(x)


@tf.function
def _inside(x: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    return tf.tanh(tf.matmul(x, k))


def _loop(x: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
    return tf.while_loop(
        lambda i, _: i < 3, lambda i, y: (i + 1, tf.tanh(tf.tensordot(y, q, 1))), (0, x)
    )[1]


_MASK = tf.constant([1.0, 0.0, 2.0])
_ODD_USES: dict[str, Callable] = {
    "masked bias": lambda x, k, o, b, s, q: tf.tensordot(x, k, 1) + _MASK * b,
    "bias per unit": lambda x, k, o, b, s, q: tf.tensordot(x, k, 1) + s * b,
    "two signs": lambda x, k, o, b, s, q: tf.tensordot(x, k, 1) + (b - 0.3 * b) * s - b,
    "b minus b": lambda x, k, o, b, s, q: tf.tensordot(x, k, 1) + (b - b) + s,
    "square": lambda x, k, o, b, s, q: tf.tensordot(x, k * k, 1) + b * b,
    "ratio": lambda x, k, o, b, s, q: tf.tensordot(x, k, 1) / (1 + s * s) + b / 3,
    "minus": lambda x, k, o, b, s, q: b - tf.tensordot(x, -k, 1) * s,
    "two roles": lambda x, k, o, b, s, q: tf.tensordot(tf.tensordot(x, q, 1), q, 1) @ k + b * s + b,
    "tied": lambda x, k, o, b, s, q: tf.tensordot(
        tf.tensordot(tf.tensordot(x, k, 1), tf.transpose(k), 1), o, 1
    ),
    "transposed": lambda x, k, o, b, s, q: tf.tensordot(tf.matmul(x, q, transpose_b=True), k, 1),
    "masked kernel": lambda x, k, o, b, s, q: tf.tensordot(x, k * _MASK, 1) + b,
    "weight norm": lambda x, k, o, b, s, q: tf.tensordot(x, s * k / tf.norm(k, axis=0), 1) + b,
    "sum of kernels": lambda x, k, o, b, s, q: tf.tensordot(x, k + 0.5 * o - k / 4, 1),
    "scaled by another": lambda x, k, o, b, s, q: tf.tensordot(x, s[0] * k, 1) * b,
    "bias before and after": lambda x, k, o, b, s, q: tf.tanh(tf.tensordot(x, k, 1) + b) * b + b,
    "product with a bias": lambda x, k, o, b, s, q: (
        tf.tensordot(x, k, 1) + tf.reduce_sum(x, -1, keepdims=True) * b
    ),
    "slices": lambda x, k, o, b, s, q: tf.concat(
        [tf.tensordot(x, k[:, :1], 1), tf.tensordot(x, k[:, 1:], 1) * b[:2]], -1
    ),
    "einsum": lambda x, k, o, b, s, q: tf.einsum("...d,do->...o", x, k) + b,
    "in a function": lambda x, k, o, b, s, q: _inside(x, k) * s,
    "in a loop": lambda x, k, o, b, s, q: tf.tensordot(_loop(x, q), k, 1),
    "custom gradient": lambda x, k, o, b, s, q: _twice_the_gradient(tf.tensordot(x, k, 1) + b),
    "hidden gradient": lambda x, k, o, b, s, q: _hidden_gradient(tf.tensordot(x, k, 1) + b),
    "quantized": lambda x, k, o, b, s, q: tf.quantization.fake_quant_with_min_max_args(
        tf.tensordot(x, k, 1) + b, -1.5, 1.5
    ),
    "quantized by weights": lambda x, k, o, b, s, q: tf.quantization.fake_quant_with_min_max_vars(
        tf.tensordot(x, k, 1), -tf.abs(b[0]) - 0.5, s[0] + 0.2
    ),
    "softsign": lambda x, k, o, b, s, q: tf.nn.softsign(tf.tensordot(x, k, 1) + b),
    "power": lambda x, k, o, b, s, q: tf.tensordot(x, k, 1) ** 2 + b**3,
    "maximum": lambda x, k, o, b, s, q: tf.maximum(tf.tensordot(x, k, 1), b),
    "mixes examples": lambda x, k, o, b, s, q: tf.tensordot(x - tf.reduce_mean(x, 0), k, 1),
    "batch statistics": lambda x, k, o, b, s, q: _standardized(tf.tensordot(x, k, 1)) * s + b,
}


def _standardized(z: tf.Tensor) -> tf.Tensor:
    mean, variance = tf.nn.moments(z, list(range(z.shape.rank - 1)))
    return (z - mean) / tf.sqrt(variance + 0.1)


@keras.saving.register_keras_serializable(package="tests")
class _Resized(keras.layers.Layer):
    """An image resized, cropped or normalized by an operation of TensorFlow."""

    def __init__(self, use: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.use = use

    def get_config(self) -> dict:
        return {**super().get_config(), "use": self.use}

    def call(self, x: Any) -> Any:
        n = tf.shape(x)[0]
        if self.use == "crop":
            boxes = tf.tile([[0.1, 0.0, 0.9, 0.7]], [n, 1])
            return tf.image.crop_and_resize(x, boxes, tf.range(n), [4, 4])
        if self.use == "lrn":
            return tf.nn.local_response_normalization(x, 2, 1.0, 0.5, 0.7)
        if self.use == "dilation":
            return tf.nn.dilation2d(
                x, tf.zeros([2, 2, x.shape[-1]]), [1, 1, 1, 1], "SAME", "NHWC", [1, 1, 1, 1]
            )
        if self.use == "argmax":
            return tf.nn.max_pool_with_argmax(x, 2, 1, "SAME")[0]
        return tf.image.resize(x, [5, 5], self.use, antialias=self.use == "lanczos3")

    def compute_output_spec(self, x: Any) -> Any:
        size = {"crop": 4, "lrn": x.shape[1], "dilation": x.shape[1], "argmax": x.shape[1]}
        side = size.get(self.use, 5)
        return keras.KerasTensor((x.shape[0], side, side, x.shape[3]), x.dtype)


@keras.saving.register_keras_serializable(package="tests")
class _Self(keras.layers.Layer):
    """Attention of a sequence to itself."""

    def __init__(self, kind: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.kind = kind
        self.inner = {
            "heads": lambda: L.MultiHeadAttention(2, 3),
            "groups": lambda: L.GroupQueryAttention(4, 4, 2),
            "additive": L.AdditiveAttention,
            "dot": lambda: L.Attention(use_scale=True),
        }[kind]()

    def get_config(self) -> dict:
        return {**super().get_config(), "kind": self.kind}

    def build(self, shape: tuple) -> None:
        several = self.kind in ("heads", "groups")
        self.inner.build(*((shape, shape) if several else ([shape, shape],)))

    def call(self, x: Any) -> Any:
        return self.inner(x, x) if self.kind in ("heads", "groups") else self.inner([x, x])

    def compute_output_spec(self, x: Any) -> Any:
        return keras.KerasTensor(x.shape, x.dtype)


def _nested(rank: int) -> Callable:
    def make() -> keras.Model:
        return keras.Sequential([L.Dense(4, "tanh"), L.Dense(3, "relu")])

    return make


# Kinds of layers by the rank of an example: images, sequences, vectors.
_IMAGES: dict[str, Callable] = {
    "convolution": lambda: L.Conv2D(3, 3, padding="same", activation="tanh"),
    "strided convolution": lambda: L.Conv2D(4, 3, strides=2, padding="same"),
    "dilated convolution": lambda: L.Conv2D(3, 2, dilation_rate=2, padding="same"),
    "grouped convolution": lambda: keras.Sequential([L.Conv2D(4, 1), L.Conv2D(4, 2, groups=2)]),
    "depthwise": lambda: L.DepthwiseConv2D(2, depth_multiplier=2, activation="relu"),
    "separable": lambda: L.SeparableConv2D(3, 3, padding="same"),
    "transposed convolution": lambda: L.Conv2DTranspose(3, 3, strides=2, padding="same"),
    "valid transposed": lambda: L.Conv2DTranspose(2, 2),
    "circular convolution": lambda: layers.PeriodicConvolution(3, 3, activation="tanh"),
    "ntk convolution": lambda: layers.NTKConvolution(3, 3, "tanh", 1.5, 0.1),
    "bilinear": lambda: L.UpSampling2D(2, interpolation="bilinear"),
    "nearest": lambda: L.UpSampling2D(2),
    "resizing": lambda: L.Resizing(5, 5, interpolation="bicubic"),
    "resize bilinear": lambda: _Resized("bilinear"),
    "resize bicubic": lambda: _Resized("bicubic"),
    "resize lanczos": lambda: _Resized("lanczos3"),
    "resize nearest": lambda: _Resized("nearest"),
    "crop": lambda: _Resized("crop"),
    "local response": lambda: _Resized("lrn"),
    "dilation": lambda: _Resized("dilation"),
    "argmax pooling": lambda: _Resized("argmax"),
    "batch norm": L.BatchNormalization,
    "group norm": lambda: L.GroupNormalization(1),
    "layer norm": L.LayerNormalization,
    "rms norm": L.RMSNormalization,
    "average pooling": lambda: L.AveragePooling2D(2, padding="same"),
    "max pooling": lambda: L.MaxPooling2D(2, padding="same"),
    "zero padding": lambda: L.ZeroPadding2D(1),
    "prelu": L.PReLU,
    "shared prelu": lambda: L.PReLU(shared_axes=[1, 2]),
    "spatial dropout": lambda: L.SpatialDropout2D(0.3),
    "spectral norm": lambda: L.SpectralNormalization(L.Conv2D(3, 2)),
}
_SEQUENCES: dict[str, Callable] = {
    "conv1d": lambda: L.Conv1D(3, 2, padding="causal", activation="tanh"),
    "depthwise 1d": lambda: L.DepthwiseConv1D(2),
    "separable 1d": lambda: L.SeparableConv1D(3, 2),
    "transposed 1d": lambda: L.Conv1DTranspose(3, 2),
    "lstm": lambda: L.LSTM(3, return_sequences=True),
    "unrolled lstm": lambda: L.LSTM(3, return_sequences=True, unroll=True),
    "gru": lambda: L.GRU(3, return_sequences=True),
    "bidirectional": lambda: L.Bidirectional(L.SimpleRNN(2, return_sequences=True)),
    "time distributed": lambda: L.TimeDistributed(L.Dense(3, "tanh")),
    "heads": lambda: _Self("heads"),
    "ntk attention": lambda: layers.NTKSelfAttention(3, 2, 4, bias_variance=0.1),
    "groups of heads": lambda: _Self("groups"),
    "additive attention": lambda: _Self("additive"),
    "dot attention": lambda: _Self("dot"),
    "einsum dense": lambda: L.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d"),
    "odd einsum": lambda: L.EinsumDense("abc,bcd->abd", (None, 2), bias_axes="bd"),
    "masking": lambda: keras.Sequential([L.Masking(), L.SimpleRNN(3, return_sequences=True)]),
    "pooling 1d": lambda: L.AveragePooling1D(2, padding="same"),
    "layer norm 1d": lambda: L.LayerNormalization(axis=[1, 2]),
    "permute": lambda: keras.Sequential([L.Permute((2, 1)), L.Dense(3), L.Permute((2, 1))]),
    "dense on a sequence": lambda: L.Dense(3, "gelu"),
}
_VECTORS: dict[str, Callable] = {
    "dense": lambda: L.Dense(4, "tanh", bias_initializer="normal"),
    "selu": lambda: L.Dense(4, "selu"),
    "ntk dense": lambda: layers.NTKDense(4, "erf", 1.5, 0.1),
    "unit norm": L.UnitNormalization,
    "batch norm of vectors": L.BatchNormalization,
    "repeat": lambda: keras.Sequential([L.RepeatVector(3), L.LSTM(3)]),
    "nested": _nested(1),
    "dropout": lambda: L.Dropout(0.5),
    "softmax": L.Softmax,
    "leaky": lambda: keras.Sequential([L.Dense(3), L.LeakyReLU()]),
    "deep dense": lambda: keras.Sequential([L.Dense(3), layers.DeepDense(3, 3)]),
    "frozen": lambda: _frozen(L.Dense(4, "tanh")),
    "shared": lambda: _Shared(),
    "lora": lambda: _Lora(),
    "training dropout": lambda: _Training(L.Dropout(0.5)),
    "training batch norm": lambda: _Training(L.BatchNormalization()),
}
for _use in _ODD_USES:
    _VECTORS[f"odd: {_use}"] = lambda use=_use: _Odd(use)
    _SEQUENCES[f"odd: {_use}"] = lambda use=_use: _Odd(use)
KINDS = {3: _IMAGES, 2: _SEQUENCES, 1: _VECTORS}


def _frozen(layer: Any) -> Any:
    layer.trainable = False
    return layer


@keras.saving.register_keras_serializable(package="tests")
class _Shared(keras.layers.Layer):
    """One dense layer, used twice."""

    def build(self, shape: tuple) -> None:
        self.inner = L.Dense(shape[-1], "tanh", bias_initializer="normal")
        self.inner.build(shape)

    def call(self, x: Any) -> Any:
        return self.inner(self.inner(x))


@keras.saving.register_keras_serializable(package="tests")
class _Lora(keras.layers.Layer):
    """A dense layer with two low-rank factors that are trained in place of its kernel."""

    def build(self, shape: tuple) -> None:
        self.inner = L.Dense(4, "tanh")
        self.inner.build(shape)
        self.inner.enable_lora(2)
        self.inner.lora_kernel_b.assign(0.1 * np.ones([2, 4]))

    def call(self, x: Any) -> Any:
        return self.inner(x)


@keras.saving.register_keras_serializable(package="tests")
class _Training(keras.layers.Layer):
    """A layer that runs in training mode always."""

    def __init__(self, inner: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self.inner = inner

    def get_config(self) -> dict:
        return {**super().get_config(), "inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        inner = keras.saving.deserialize_keras_object(config.pop("inner"))
        return cls(inner, **config)

    def call(self, x: Any) -> Any:
        return self.inner(x, training=True)
