"""Small models of many kinds for the digits, with Keras's own initializations if not said."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from mfcnn import layers as own

L = keras.layers
SHAPE = (8, 8, 1)


def plain(activation: str, depth: int, width: int = 32, **options: Any) -> keras.Model:
    """Equal dense layers."""
    hidden = [L.Dense(width, activation, **options) for _ in range(depth)]
    return keras.Sequential([keras.Input(SHAPE), L.Flatten(), *hidden, L.Dense(10, "softmax")])


def convolutions(activation: str, depth: int, width: int = 16, **options: Any) -> keras.Model:
    """Equal convolutions, then the mean over positions."""
    options = {"padding": "same", "activation": activation, **options}
    hidden = [L.Conv2D(width, 3, **options) for _ in range(depth)]
    readout = [L.GlobalAveragePooling2D(), L.Dense(10, "softmax")]
    return keras.Sequential([keras.Input(SHAPE), *hidden, *readout])


def _model(build: Callable[[Any], Any]) -> keras.Model:
    x = keras.Input(SHAPE)
    return keras.Model(x, L.Dense(10, "softmax")(build(x)))


def residual(depth: int, width: int = 64, normalization: Any = None, **options: Any) -> keras.Model:
    """Dense residual blocks; a normalization in front of each."""

    def build(x: Any) -> Any:
        h = L.Dense(width)(L.Flatten()(x))
        for _ in range(depth):
            branch = normalization()(h) if normalization else h
            branch = L.Dense(width, "relu", kernel_initializer="he_normal")(branch)
            h = h + L.Dense(width, **options)(branch)
        return h

    return _model(build)


def convolutional_residual(
    depth: int, width: int = 16, normalization: Any = L.BatchNormalization
) -> keras.Model:
    """Residual blocks as those of ResNet."""

    def build(x: Any) -> Any:
        h = L.Conv2D(width, 3, padding="same")(x)
        for _ in range(depth):
            branch = L.Conv2D(width, 3, padding="same")(L.ReLU()(normalization()(h)))
            h = L.Add()([h, L.Conv2D(width, 3, padding="same")(L.ReLU()(branch))])
        return L.GlobalAveragePooling2D()(L.ReLU()(h))

    return _model(build)


def normalized(depth: int, normalization: Any, width: int = 64) -> keras.Model:
    """A normalization behind each dense layer."""

    def build(x: Any) -> Any:
        h = L.Flatten()(x)
        for _ in range(depth):
            h = L.ReLU()(normalization()(L.Dense(width)(h)))
        return h

    return _model(build)


def transformer(depth: int, width: int = 32) -> keras.Model:
    """Rows of the image as tokens, blocks with attention."""

    def build(x: Any) -> Any:
        h = L.Dense(width)(L.Reshape((8, 8))(x))
        for _ in range(depth):
            n = L.LayerNormalization()(h)
            h = h + L.MultiHeadAttention(2, width // 2)(n, n)
            n = L.LayerNormalization()(h)
            h = h + L.Dense(width)(L.Dense(2 * width, "gelu")(n))
        return L.GlobalAveragePooling1D()(L.LayerNormalization()(h))

    return _model(build)


def recurrent(width: int = 32) -> keras.Model:
    """An LSTM over the rows."""
    return _model(lambda x: L.LSTM(width)(L.Reshape((8, 8))(x)))


def branches(width: int = 256) -> keras.Model:
    """Two branches side by side, then their sum with a third."""

    def build(x: Any) -> Any:
        h = L.Dense(width, "gelu")(L.Flatten()(x))
        one, two = L.Dense(width, "tanh")(h), L.Dense(width, "relu")(h)
        joined = L.Dense(width)(L.Concatenate()([one, two]))
        return L.Average()([joined, L.Dense(width)(h)])

    return _model(build)


def strided(width: int = 128) -> keras.Model:
    """Convolutions with strides, average pooling, Flatten."""

    def build(x: Any) -> Any:
        h = L.Conv2D(width, 3, 2, padding="same", activation="relu")(x)
        h = L.Conv2D(width, 3, padding="same", activation="tanh")(h)
        h = L.AveragePooling2D(2)(L.Conv2D(width, 3, padding="same", activation="relu")(h))
        return L.Flatten()(h)

    return _model(build)


def separable(width: int = 128) -> keras.Model:
    """Separable and depthwise convolutions."""

    def build(x: Any) -> Any:
        h = L.Conv2D(width, 3, padding="same", activation="relu")(x)
        h = L.SeparableConv2D(width, 3, padding="same", activation="relu")(h)
        h = L.Conv2D(width, 1)(L.DepthwiseConv2D(3)(h))
        return L.GlobalAveragePooling2D()(h)

    return _model(build)


def wide() -> dict[str, keras.Model]:
    """Name: model; those that are compared with the theory, wide and not deep."""
    he: dict[str, Any] = {"kernel_initializer": "he_normal"}
    normal = keras.initializers.RandomNormal
    noisy: dict[str, Any] = {
        "kernel_initializer": normal(stddev=0.1),
        "bias_initializer": normal(stddev=0.3),
    }
    return {
        "plain relu, He": plain("relu", 4, 512, **he),
        "plain tanh, Glorot": plain("tanh", 6, 512),
        "plain tanh, chaotic": plain("tanh", 4, 512, **noisy),
        "plain sigmoid": plain("sigmoid", 3, 512),
        "plain gelu": plain("gelu", 4, 512),
        "plain selu, LeCun": plain("selu", 4, 512, kernel_initializer="lecun_normal"),
        "plain swish, orthogonal": plain("swish", 3, 512, kernel_initializer="orthogonal"),
        "convolutions relu": convolutions("relu", 3, 128, **he),
        "strided, averages, Flatten": strided(),
        "separable": separable(),
        "residual": residual(4, 256),
        "residual, LayerNorm": residual(4, 256, L.LayerNormalization),
        "residual CNN, GroupNorm": convolutional_residual(2, 64, lambda: L.GroupNormalization(4)),
        "LayerNorm behind dense": normalized(3, L.LayerNormalization, 512),
        "RMSNorm behind dense": normalized(3, L.RMSNormalization, 512),
        "branches": branches(),
        "transformer": transformer(1),
        "LSTM": recurrent(),
    }


@keras.saving.register_keras_serializable("mfcnn_zoo")
class Subclassed(keras.Model):
    """A model with a call of its own, and arithmetic between its layers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first, self.second = L.Dense(256, "relu"), L.Dense(10)

    def build(self, input_shape: Any) -> None:
        """Builds both layers."""
        self.first.build(input_shape)
        self.second.build((None, 256))

    def call(self, x: Any) -> Any:
        """Twice the first layer, then the second."""
        return self.second(2 * self.first(x))


def _functional(shape: tuple[int, ...], build: Callable[[Any], Any]) -> keras.Model:
    x = keras.Input(shape)
    return keras.Model(x, build(x))


def _shared(x: Any) -> Any:
    dense = L.Dense(64, "tanh")
    return L.Dense(1)(dense(dense(x)))


def _nested(x: Any) -> Any:
    inner = keras.Sequential([keras.Input((64,)), L.Dense(64, "relu"), L.Dense(64)])
    return L.Dense(2)(inner(inner(x)))


def _attention(x: Any) -> Any:
    h = L.Embedding(11, 64)(x)
    h = L.Add()([h, L.MultiHeadAttention(2, 32)(h, h)])
    return L.Dense(3, "softmax")(L.GlobalAveragePooling1D()(L.LayerNormalization()(h)))


def _depthwise(x: Any) -> Any:
    h = L.ReLU()(L.BatchNormalization()(L.Conv2D(64, 3, padding="same")(x)))
    h = L.Dropout(0.5)(L.MaxPooling2D()(h))
    return L.Dense(4)(L.Flatten()(L.DepthwiseConv2D(3, activation="relu")(h)))


def _upsampling(x: Any) -> Any:
    h = L.Conv2D(64, 3, 2, padding="same", activation="relu")(x)
    h = L.Conv2D(64, 3, padding="same", activation="relu")(L.UpSampling2D()(h))
    return L.Conv2DTranspose(3, 3, padding="same")(h)


def _gated(x: Any) -> Any:
    h = L.Dense(256)(x)
    return L.Dense(10)(L.Multiply()([h, L.Dense(256, "sigmoid")(h)]))


def _squeezed(x: Any) -> Any:
    h = L.Conv2D(64, 3, padding="same", activation="relu")(x)
    gate = L.Dense(64, "sigmoid")(L.Dense(16, "relu")(L.GlobalAveragePooling2D()(h)))
    return L.Dense(10)(L.GlobalAveragePooling2D()(L.Multiply()([h, L.Reshape((1, 1, 64))(gate)])))


def _two_and_two() -> keras.Model:
    a, b = keras.Input((64,)), keras.Input((4,))
    h = L.Concatenate()([L.Dense(256, "relu")(a), L.Dense(128, "relu")(b)])
    return keras.Model([a, b], [L.Dense(2)(h), L.Dense(1, "sigmoid")(h)])


def _subclassed() -> keras.Model:
    model = Subclassed()
    model.build((None, 64))
    return model


def odd() -> dict[str, Callable[[np.random.Generator, int], tuple[keras.Model, Any]]]:
    """Name: a function (rng, count) that makes a model and a batch for it: what users also have."""

    def of(make: Callable[[], keras.Model], *shape: int) -> Callable:
        return lambda rng, n: (make(), rng.standard_normal((n, *shape)).astype("float32"))

    def words(make: Callable[[], keras.Model], length: int) -> Callable:
        return lambda rng, n: (make(), rng.integers(0, 11, (n, length)))

    def sequence(*hidden: Any) -> keras.Model:
        return keras.Sequential([keras.Input((6,)), L.Embedding(11, 64), *hidden, L.Dense(2)])

    def two(rng: np.random.Generator, n: int) -> tuple[keras.Model, Any]:
        return _two_and_two(), [rng.standard_normal((n, k)).astype("float32") for k in (64, 4)]

    def stack() -> keras.Model:
        deep = own.DeepDense(20, 256, activation="tanh")
        return keras.Sequential([keras.Input((64,)), L.Dense(256), deep, L.Dense(2)])

    def half() -> keras.Model:
        hidden = [L.Dense(256, "relu", dtype="mixed_bfloat16"), L.Dense(2)]
        return keras.Sequential([keras.Input((64,)), *hidden])

    return {
        "shared layer": of(lambda: _functional((64,), _shared), 64),
        "nested model": of(lambda: _functional((64,), _nested), 64),
        "subclassed": of(_subclassed, 64),
        "embedding, attention": words(lambda: _functional((6,), _attention), 6),
        "depthwise, dropout, maximum": of(lambda: _functional((8, 8, 3), _depthwise), 8, 8, 3),
        "upsampling, transposed": of(lambda: _functional((8, 8, 3), _upsampling), 8, 8, 3),
        "gate": of(lambda: _functional((64,), _gated), 64),
        "squeeze and excite": of(lambda: _functional((8, 8, 3), _squeezed), 8, 8, 3),
        "several inputs and outputs": two,
        "bidirectional LSTM": words(lambda: sequence(L.Bidirectional(L.LSTM(32))), 6),
        "GRU": words(lambda: sequence(L.GRU(32)), 6),
        "DeepDense": of(stack, 64),
        "half precision": of(half, 64),
    }
