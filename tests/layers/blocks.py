"""Five blocks that keep their input's shape, and inputs for them."""

import keras
import numpy as np

L = keras.layers


def dense(dtype):
    return L.Dense(6, activation="tanh", kernel_regularizer="l2", dtype=dtype)


def residual_convolution(dtype):
    o = {"dtype": dtype}
    inputs = keras.Input((4, 4, 3), **o)
    x = L.Conv2D(3, 3, padding="same", use_bias=False, **o)(inputs)
    x = L.Activation("tanh", **o)(L.BatchNormalization(**o)(x))
    return keras.Model(inputs, L.Add(**o)([inputs, x]))


def transformer(dtype, tokens=5, width=8):
    o = {"dtype": dtype}
    inputs = keras.Input((tokens, width), **o)
    x = L.LayerNormalization(**o)(inputs)
    x = L.Add(**o)([inputs, L.MultiHeadAttention(2, width // 2, **o)(x, x)])
    y = L.Dense(2 * width, "gelu", **o)(L.LayerNormalization(**o)(x))
    return keras.Model(inputs, L.Add(**o)([x, L.Dense(width, **o)(y)]))


def gated(dtype):
    o = {"dtype": dtype}
    inputs = [keras.Input((6,), **o), keras.Input((6,), **o)]
    gate, value = L.Dense(6, "sigmoid", **o)(inputs[0]), L.Dense(6, "tanh", **o)(inputs[1])
    return keras.Model(inputs, [L.Multiply(**o)([gate, value]), L.Add(**o)([inputs[0], value])])


def dropout_and_mask(dtype):
    o = {"dtype": dtype}
    inputs = keras.Input((5, 6), **o)
    x = L.Dropout(0.3, seed=3, **o)(inputs)
    x = L.Dense(6, "tanh", activity_regularizer="l1", **o)(x)
    x = L.MultiHeadAttention(2, 3, **o)(x, x)
    return keras.Model(inputs, L.Add(**o)([inputs, x]))


BLOCKS = {
    "dense": (dense, (6,)),
    "residual convolution": (residual_convolution, (4, 4, 3)),
    "transformer": (transformer, (5, 8)),
    "gated": (gated, [(6,), (6,)]),
    "dropout and mask": (dropout_and_mask, (5, 6)),
}


def batch(name, size=2, dtype="float64"):
    """A batch for a block: random, with masks where the block's name says so."""
    shape = BLOCKS[name][1]
    rng = np.random.default_rng(0)
    if isinstance(shape, list):
        return [rng.normal(size=(size, *s)).astype(dtype) for s in shape]
    x = rng.normal(size=(size, *shape)).astype(dtype)
    if "mask" not in name:
        return x
    x[0, -2:] = 0  # the last two tokens of the first example do not count
    return L.Masking(dtype=dtype)(x)
