"""docs/neural_tangents.md: every public name has its row, and what a row claims is so."""

import json
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import mfcnn
from tests.site.neural_tangents_values import MATRIX, inputs, masked
from tests.tolerances import float32, float64

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "neural_tangents.md").read_text()
NEURAL_TANGENTS = json.loads(pathlib.Path(__file__).with_name("neural_tangents.json").read_text())
ROWS = [
    [cell.strip() for cell in line[1:-1].split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| `")
]
W, B = 1.5, 0.1
L = keras.layers
get = mfcnn.activations.get


def function(phi):
    """An activation of which only phi is given."""
    return get(phi)


FUNCTIONS = {
    "ABRelu": lambda: get("abrelu(a=-0.5, b=1.5)"),
    "Abs": lambda: get("abs"),
    "Cos": lambda: get("cos"),
    "ElementwiseNumerical": lambda: get(lambda x: tf.tanh(x) + x / 4),
    "Erf": lambda: get(lambda x: 0.7 * tf.math.erf(1.3 * x) + 0.2),
    "Exp": lambda: get(lambda x: tf.exp(0.5 * x)),
    "Gabor": lambda: get(lambda x: tf.exp(-x * x) * tf.sin(x)),
    "Gaussian": lambda: get("gaussian"),
    "Gelu": lambda: get("gelu"),
    "Identity": lambda: get("linear"),
    "LeakyRelu": lambda: get("leaky_relu(0.1)"),
    "Monomial": lambda: get(lambda x: x**3),
    "Polynomial": lambda: get(lambda x: 0.5 + 0.25 * x + 0.1 * x * x),
    "Rbf": lambda: get(lambda x: 2**0.5 * tf.sin((2 * 0.7) ** 0.5 * x + np.pi / 4)),
    "RectifiedMonomial": lambda: get("relu_squared"),
    "Relu": lambda: get("relu"),
    "Sigmoid_like": lambda: get(lambda x: 0.5 * tf.math.erf(x / 2.4020563531719796) + 0.5),
    "Sign": lambda: get("sign"),
    "Sin": lambda: get(lambda x: 1.2 * tf.sin(0.8 * x + 0.3)),
}
# A sum of 60 points there; and Keras's Flatten casts the data to float32.
LESS_EXACT = {"ElementwiseNumerical": 1e-5, "Dense": float32.rounded}


def kernels_at_pairs(kernel, shape, make=inputs):
    nngp, ntk = kernel(make(shape))
    return [float(matrix[i, i + 1]) for matrix in (nngp, ntk) for i in range(2)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_activation_has_the_kernel_of_neural_tangents(name):
    kernel = mfcnn.kernels.fully_connected(1, FUNCTIONS[name](), W, B)
    rtol = LESS_EXACT.get(name, float64.solved)
    np.testing.assert_allclose(
        kernels_at_pairs(kernel, (6,)), NEURAL_TANGENTS["values"][name], rtol=rtol
    )


def weights():
    return {
        "kernel_initializer": keras.initializers.VarianceScaling(W, "fan_in", "untruncated_normal"),
        "bias_initializer": keras.initializers.RandomNormal(stddev=B**0.5),
    }


def dense():
    return L.Dense(1, **weights())


def convolution(size=3, strides=1, padding="same", activation="relu"):
    return L.Conv2D(2, size, strides, padding, activation=activation, **weights())


def sequential(*layers):
    return keras.Sequential([keras.Input((4, 4, 2)), *layers])


def joined(join):
    x = inputs_ = keras.Input((4, 4, 2))
    x = join(convolution()(x), convolution(activation=None))
    return keras.Model(inputs_, dense()(L.Flatten()(convolution()(x))))


def summed():
    inputs_ = keras.Input((4, 4, 2))
    x = convolution(activation=None)(inputs_)
    x = L.Add()([x, convolution(activation=None)(L.ReLU()(x))])
    return keras.Model(inputs_, dense()(L.Flatten()(L.ReLU()(x))))


class Contraction(keras.layers.Layer):
    """A fixed matrix over the first image axis."""

    def call(self, x):
        return tf.einsum("yz,bzxc->byxc", tf.constant(MATRIX, x.dtype), x)


def contracted():
    mfcnn.kernels.register_layer_rule(Contraction)(mfcnn.kernels.position_map)
    return sequential(convolution(), Contraction(), L.Flatten(), dense())


def attention(mechanism, first="relu"):
    """There the variances of keys and queries, and of values and outputs, are products too."""
    layer = mfcnn.layers.NTKSelfAttention(1, 1, 1, mechanism, 0.8 * 1.1, W, B)
    return sequential(convolution(activation=first), layer, L.ReLU(), L.Flatten(), dense())


def end():
    return [convolution(), L.Flatten(), dense()]


NETWORKS = {
    "Dense": lambda: sequential(L.Flatten(), L.Dense(1, "relu", **weights()), dense()),
    "Conv": lambda: sequential(
        convolution(), convolution(3, (2, 1), "valid"), L.Flatten(), dense()
    ),
    "Conv CIRCULAR": lambda: sequential(
        mfcnn.layers.PeriodicConvolution(1, 3, activation="relu", **weights()), L.Flatten(), dense()
    ),
    "AvgPool": lambda: sequential(convolution(), L.AveragePooling2D(2), *end()),
    "SumPool": lambda: sequential(convolution(), L.AveragePooling2D(2), L.Rescaling(4.0), *end()),
    "GlobalAvgPool": lambda: sequential(
        convolution(), convolution(), L.GlobalAveragePooling2D(), dense()
    ),
    "GlobalSumPool": lambda: sequential(
        convolution(), convolution(), L.GlobalAveragePooling2D(), L.Rescaling(16.0), dense()
    ),
    "Flatten": lambda: sequential(convolution(), L.Flatten(), dense()),
    "FanInSum": summed,
    "FanInConcat": lambda: joined(
        lambda x, c: L.Concatenate()([c(x), convolution(activation=None)(x)])
    ),
    "FanInProd": lambda: joined(lambda x, c: L.Multiply()([c(x), convolution(activation=None)(x)])),
    "LayerNorm": lambda: sequential(
        convolution(activation=None), L.LayerNormalization(epsilon=1e-12), L.ReLU(), *end()
    ),
    "ImageResize": lambda: sequential(convolution(), L.UpSampling2D(2), *end()),
    "Slice": lambda: sequential(convolution(), L.Cropping2D(((1, 0), (0, 1))), *end()),
    "Index": lambda: sequential(
        convolution(), L.Cropping2D(((1, 2), (2, 1))), L.Flatten(), dense()
    ),
    "DotGeneral": contracted,
    "ConvTranspose": lambda: sequential(
        convolution(),
        L.Conv2DTranspose(1, 2, 2, "valid", activation="relu", **transposed()),
        L.Flatten(),
        dense(),
    ),
    "GlobalSelfAttention": lambda: attention("softmax"),
    "AttentionMechanism": lambda: attention("relu", None),
    "attention ABS": lambda: attention("abs", None),
    "attention IDENTITY": lambda: attention("identity", None),
    "repeat": lambda: sequential(*[convolution() for _ in range(6)], L.Flatten(), dense()),
}


def transposed():
    """neural-tangents divides by all four taps, of which one reaches an output here."""
    scaling = keras.initializers.VarianceScaling(W, "fan_out", "untruncated_normal")
    return weights() | {"kernel_initializer": scaling}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_layer_has_the_kernel_of_neural_tangents(name):
    found = kernels_at_pairs(mfcnn.kernels.from_keras(NETWORKS[name]()), (4, 4, 2))
    rtol = LESS_EXACT.get(name, float64.solved)
    np.testing.assert_allclose(found, NEURAL_TANGENTS["values"][name], rtol=rtol)


def test_masked_positions_are_left_out_as_neural_tangents_does():
    model = keras.Sequential(
        [
            keras.Input((5, 2)),
            L.Masking(),
            dense(),
            mfcnn.layers.NTKSelfAttention(1, 1, 1, "softmax", 0.8 * 1.1, W, B),
            L.ReLU(),
            L.GlobalAveragePooling1D(),
            dense(),
        ]
    )
    found = kernels_at_pairs(mfcnn.kernels.from_keras(model), (5, 2), masked)
    # Masking casts the data to float32.
    np.testing.assert_allclose(found, NEURAL_TANGENTS["values"]["masks"], rtol=float32.rounded)


@pytest.mark.parametrize("module", NEURAL_TANGENTS["names"])
def test_every_public_name_has_its_row(module):
    described = {name for row in ROWS for name in re.findall(r"`(\w+)`", row[0])}
    missing = set(NEURAL_TANGENTS["names"][module]) - described
    assert not missing, missing


def test_what_works_names_its_test_and_what_does_not_its_reason():
    for names, ours, shown in ROWS:
        assert ours and (shown or len(ours) > 30 and ours.startswith("no:")), names
        for test in re.findall(r"`([\w/]+\.py(?:::\w+)?)`", shown):
            file, _, function_ = test.partition("::")
            text = (ROOT / "tests" / file).read_text()
            assert not function_ or f"def {function_}(" in text, test
        if shown == "values":
            for name in re.findall(r"`(\w+)`", names):
                assert name in FUNCTIONS or name in NETWORKS, name


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`(mfcnn\.\w+\.\w+)`", PAGE))), ids=lambda name: name
)
def test_every_function_that_is_named_is_public(name):
    _, room, attribute = name.split(".")
    assert attribute in getattr(mfcnn, room).__all__


@pytest.mark.parametrize(
    "layer", [lambda: L.MultiHeadAttention(2, 4), lambda: L.Attention(), lambda: L.LSTM(4)]
)
def test_what_is_said_to_be_missing_is_refused_by_name(layer):
    inputs_ = keras.Input((3, 4))
    x = L.Dense(4)(inputs_)
    layer = layer()
    if isinstance(layer, L.MultiHeadAttention):
        x = layer(x, x)
    else:
        x = layer([x, x]) if isinstance(layer, L.Attention) else layer(x)
    with pytest.raises(ValueError, match=type(layer).__name__):
        mfcnn.kernels.from_keras(keras.Model(inputs_, L.Dense(1)(L.Flatten()(x))))
