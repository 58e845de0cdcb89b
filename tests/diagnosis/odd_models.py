"""Small models of every kind that users have, each with a batch of inputs."""

import keras
import numpy as np

from mfcnn import layers as own

L = keras.layers
RNG = np.random.default_rng(0)


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """A model with a call of its own, and arithmetic between its layers."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.second = L.Dense(24, "relu"), L.Dense(3)

    def build(self, input_shape):
        self.first.build(input_shape)
        self.second.build((None, 24))

    def call(self, x):
        return self.second(2 * self.first(x))


def normal(*shape):
    """The same numbers for a shape whatever ran before."""
    return np.random.default_rng(list(shape)).standard_normal(shape).astype("float32")


def plain(activation="tanh", depth=4, width=32, outputs=5, last=None, **options):
    hidden = [L.Dense(width, activation, **options) for _ in range(depth)]
    return keras.Sequential([keras.Input((8,)), *hidden, L.Dense(outputs, last, **options)])


def functional(shape, build):
    x = keras.Input(shape)
    return keras.Model(x, build(x))


def residual(x):
    h = L.Dense(24)(x)
    for _ in range(3):
        h = h + L.Dense(24)(L.Dense(24, "relu")(L.LayerNormalization()(h)))
    return L.Dense(2)(h)


def attention(x):
    h = L.Embedding(11, 16)(x)
    h = L.Add()([h, L.MultiHeadAttention(2, 8)(h, h)])
    return L.Dense(3, "softmax")(L.GlobalAveragePooling1D()(L.LayerNormalization()(h)))


def convolutional(x):
    h = L.Conv2D(8, 3, padding="same")(x)
    h = L.ReLU()(L.BatchNormalization()(h))
    h = L.Dropout(0.5)(L.MaxPooling2D()(h))
    h = L.DepthwiseConv2D(3, activation="relu")(h)
    return L.Dense(4)(L.Flatten()(h))


def shared(x):
    dense = L.Dense(8, "tanh")
    return L.Dense(1)(dense(dense(x)))


def two_and_two():
    a, b = keras.Input((8,)), keras.Input((4,))
    h = L.Concatenate()([L.Dense(16, "relu")(a), L.Dense(8, "relu")(b)])
    return keras.Model([a, b], [L.Dense(2)(h), L.Dense(1, "sigmoid")(h)])


def nested(x):
    inner = keras.Sequential([keras.Input((8,)), L.Dense(8, "relu"), L.Dense(8)])
    return L.Dense(2)(inner(inner(x)))


def subclassed():
    model = Subclassed()
    model.build((None, 8))
    return model


def models():
    """Name: (model, inputs)."""
    flat, tokens = normal(5, 8), RNG.integers(0, 11, (4, 6))
    lstm = [L.Embedding(11, 8), L.Bidirectional(L.LSTM(6)), L.Dense(2)]
    stack = [own.DeepDense(6, 8, activation="tanh"), L.Dense(2)]
    half = [L.Dense(8, "relu", dtype="mixed_bfloat16"), L.Dense(2)]
    return {
        "plain": (plain(), flat),
        "softmax": (plain("relu", last="softmax"), flat),
        "residual": (functional((8,), residual), flat),
        "attention": (functional((6,), attention), tokens),
        "convolutional": (functional((8, 8, 3), convolutional), normal(4, 8, 8, 3)),
        "shared": (functional((8,), shared), flat),
        "several inputs and outputs": (two_and_two(), [flat, normal(5, 4)]),
        "nested": (functional((8,), nested), flat),
        "subclassed": (subclassed(), flat),
        "recurrent": (keras.Sequential([keras.Input((6,)), *lstm]), tokens),
        "stack": (keras.Sequential([keras.Input((8,)), L.Dense(8), *stack]), flat),
        "half precision": (keras.Sequential([keras.Input((8,)), *half]), flat),
    }
