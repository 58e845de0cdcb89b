"""Kernels of Keras models against neural-tangents 0.6.5 (jax 0.4.30, float64)."""

import keras
import numpy as np
import pytest

import mfcnn
from mfcnn import kernels
from tests.tolerances import float64

L = keras.layers

# nngp and then ntk at the pairs (0, 1), (1, 2), (2, 3) of default_rng(0).normal(size=(4, 6, 5, 2)),
# with W_std^2 = 1.7 and b_std^2 = 0.1: what stax gives for the same networks.
NEURAL_TANGENTS = {
    "strides": (
        0.41578795023275117,
        0.44539745869504954,
        0.4586933413704328,
        0.5446576630258816,
        0.6260623294416767,
        0.6507652319287484,
    ),
    "valid, strides": (
        0.3639571477809499,
        0.4424815531509485,
        0.4487172434146358,
        0.3004469357586296,
        0.5259356549698881,
        0.5406907014703586,
    ),
    "pool, strides": (
        0.3165299332348852,
        0.3076077405110703,
        0.3199225381482963,
        0.5559909579450957,
        0.5304474542253601,
        0.5674167312844949,
    ),
    "average pooling": (
        0.3386446649056087,
        0.3468738141048184,
        0.3579447704015817,
        0.5061802694116591,
        0.5378856631662862,
        0.5451586653408529,
    ),
    "residual": (
        0.4033900242448566,
        0.3999952722238912,
        0.4133799606422226,
        0.5462215111692084,
        0.5331953394239317,
        0.5667365980472611,
    ),
    "circular, strides": (
        0.7840232688682698,
        0.8449798655685784,
        0.9797997649992785,
        1.126506584041067,
        1.2052236623941954,
        1.4690719836139008,
    ),
}


def weights():
    return {
        "kernel_initializer": keras.initializers.VarianceScaling(1.7, "fan_in"),
        "bias_initializer": keras.initializers.RandomNormal(stddev=float(np.sqrt(0.1))),
    }


def convolution(size=3, strides=1, padding="same", activation=None):
    return L.Conv2D(3, size, strides, padding, activation=activation, **weights())


def periodic(strides=1, activation=None):
    return mfcnn.layers.PeriodicConvolution(3, 3, strides, activation=activation, **weights())


def erf():
    return L.Activation(keras.ops.erf)


def sequential(*layers):
    return keras.Sequential([keras.Input([6, 5, 2]), *layers, L.Dense(1, **weights())])


def residual():
    inputs = keras.Input([6, 5, 2])
    x = convolution()(inputs)
    x = erf()(x + convolution()(L.ReLU()(x)))
    x = L.GlobalAveragePooling2D()(convolution(3, 2, activation="relu")(x))
    return keras.Model(inputs, L.Dense(1, **weights())(x))


MODELS = {
    "strides": lambda: sequential(
        convolution(3, (2, 1), activation="relu"), convolution(3, 2, activation="relu"), L.Flatten()
    ),
    "valid, strides": lambda: sequential(
        convolution((2, 3), (1, 2), "valid"),
        erf(),
        convolution(2, 1, "valid", activation="relu"),
        L.Flatten(),
    ),
    "pool, strides": lambda: sequential(
        convolution(3, 2, activation="relu"), convolution(), erf(), L.GlobalAveragePooling2D()
    ),
    "average pooling": lambda: sequential(
        convolution(activation="relu"),
        L.AveragePooling2D(2),
        convolution(activation="relu"),
        L.AveragePooling2D(2, 1, "same"),
        L.Flatten(),
    ),
    "residual": residual,
    "circular, strides": lambda: sequential(
        periodic(activation="relu"), periodic(2, "relu"), L.GlobalAveragePooling2D()
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_kernels_equal_those_of_neural_tangents(name):
    x = np.random.default_rng(0).normal(size=(4, 6, 5, 2))
    found = kernels.from_keras(MODELS[name]())(x)
    values = [kernel[i, i + 1] for kernel in found for i in range(3)]
    np.testing.assert_allclose(values, NEURAL_TANGENTS[name], rtol=float64.summed)
