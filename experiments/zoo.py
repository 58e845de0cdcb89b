"""Small models of many kinds for the digits, with Keras's own initializations if not said."""

from collections.abc import Callable
from typing import Any

import keras

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


def judged() -> dict[str, Callable[[], keras.Model]]:
    """Name: a function that makes the model; those whose verdict is compared with training."""
    he: dict[str, Any] = {"kernel_initializer": "he_normal"}
    large = keras.initializers.RandomNormal(stddev=0.6)
    small = keras.initializers.RandomNormal(stddev=0.02)
    return {
        "relu 4": lambda: plain("relu", 4),
        "relu 12": lambda: plain("relu", 12),
        "relu 60": lambda: plain("relu", 60),
        "relu 20, He": lambda: plain("relu", 20, **he),
        "tanh 20": lambda: plain("tanh", 20),
        "tanh 60": lambda: plain("tanh", 60),
        "tanh 30, chaotic": lambda: plain("tanh", 30, kernel_initializer=large),
        "tanh 10, small": lambda: plain("tanh", 10, kernel_initializer=small),
        "sigmoid 2": lambda: plain("sigmoid", 2),
        "sigmoid 8": lambda: plain("sigmoid", 8),
        "sigmoid 20": lambda: plain("sigmoid", 20),
        "gelu 20": lambda: plain("gelu", 20),
        "selu 20, LeCun": lambda: plain("selu", 20, kernel_initializer="lecun_normal"),
        "convolutions relu 4": lambda: convolutions("relu", 4),
        "convolutions relu 40": lambda: convolutions("relu", 40),
        "residual 10": lambda: residual(10),
        "residual 10, LayerNorm": lambda: residual(10, normalization=L.LayerNormalization),
        "residual CNN, BatchNorm": lambda: convolutional_residual(3),
        "BatchNorm behind dense": lambda: normalized(6, L.BatchNormalization),
        "transformer": lambda: transformer(2),
        "LSTM": recurrent,
        "separable": lambda: separable(16),
    }
