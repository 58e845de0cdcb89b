"""Kernels read from Keras models: against the fixed architectures and against wide networks."""

import keras
import numpy as np
import pytest

import mfcnn
from mfcnn import kernels

L = keras.layers


def normal(variance, fan_in):
    return keras.initializers.RandomNormal(stddev=float(np.sqrt(variance / fan_in)))


def dense(units, **kwargs):
    kwargs.setdefault("kernel_initializer", keras.initializers.VarianceScaling(1.7, "fan_in"))
    kwargs.setdefault("bias_initializer", normal(0.1, 1))
    return L.Dense(units, **kwargs)


def convolution(filters, **kwargs):
    kwargs.setdefault("kernel_initializer", keras.initializers.VarianceScaling(1.7, "fan_in"))
    kwargs.setdefault("bias_initializer", normal(0.1, 1))
    kwargs.setdefault("padding", "same")
    return L.Conv2D(filters, 3, **kwargs)


def periodic(filters, **kwargs):
    return mfcnn.layers.PeriodicConvolution(
        filters,
        3,
        kernel_initializer=keras.initializers.VarianceScaling(1.7, "fan_in"),
        bias_initializer=normal(0.1, 1),
        **kwargs,
    )


def images(n=3, size=5, channels=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, size, size, channels))


def assert_close(values, expected, tolerance=1e-12):
    for value, wanted in zip(values, expected):
        assert np.max(np.abs(value - wanted)) < tolerance * np.max(np.abs(wanted))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_dense_layers_equal_fully_connected(activation):
    x = np.random.default_rng(0).normal(size=(4, 6))
    model = keras.Sequential(
        [
            keras.Input([6]),
            dense(8, activation=activation),
            dense(9, activation=activation),
            dense(1),
        ]
    )
    expected = kernels.fully_connected(2, activation, 1.7, 0.1)(x)
    assert_close(kernels.from_keras(model)(x), expected, 1e-10)
    assert_close(kernels.from_keras(model)(x, x[:2]), [e[:, :2] for e in expected], 1e-10)


@pytest.mark.parametrize("readout", ["flatten", "pool"])
@pytest.mark.parametrize("padding", ["same", "valid", "circular"])
def test_convolutions_equal_convolutional(readout, padding):
    make = (
        periodic if padding == "circular" else lambda f, **k: convolution(f, padding=padding, **k)
    )
    head = L.Flatten() if readout == "flatten" else L.GlobalAveragePooling2D()
    model = keras.Sequential(
        [
            keras.Input([5, 5, 2]),
            make(4, activation="relu"),
            make(4, activation="relu"),
            head,
            dense(1),
        ]
    )
    expected = kernels.convolutional(2, "relu", 1.7, 0.1, padding=padding, readout=readout)
    assert_close(kernels.from_keras(model)(images()), expected(images()), 1e-10)


@pytest.mark.parametrize("readout", ["flatten", "pool"])
def test_deep_convolution_is_a_stack_of_convolutions(readout):
    initializer = mfcnn.initializers.ConvolutionGaussian(weight_variance=1.7)
    head = L.Flatten() if readout == "flatten" else L.GlobalAveragePooling2D()
    model = keras.Sequential(
        [
            keras.Input([4, 4, 2]),
            mfcnn.layers.DeepConvolution(
                6, 2, activation="erf", kernel_initializer=initializer,
                bias_initializer=normal(0.1, 1),
            ),
            head,
            dense(1),
        ]
    )  # fmt: skip
    expected = kernels.convolutional(6, "erf", 1.7, 0.1, readout=readout)
    x = images(3, 4)
    assert_close(kernels.from_keras(model)(x), expected(x), 1e-11)


def test_a_saved_model_has_the_same_kernel(tmp_path):
    model = keras.Sequential([keras.Input([6]), dense(8, activation="gelu"), dense(1)])
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(4, 6))
    assert_close(
        kernels.from_keras(tmp_path / "model.keras")(x), kernels.from_keras(model)(x), 1e-14
    )


def residual(width):
    inputs = keras.Input([4, 4, 2])
    x = convolution(width)(inputs)
    branch = convolution(width)(L.Activation("relu")(x))
    x = L.Add()([x, branch])
    return keras.Model(inputs, dense(1)(L.Flatten()(L.Activation("relu")(x))))


def sequential(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


WIDE = {
    "fully connected": lambda n: sequential(
        [4, 4, 2], L.Rescaling(2.0, 0.1), L.Flatten(), dense(n, activation="tanh"), L.Dropout(0.1),
        dense(n, activation="relu"), dense(1),
    ),
    "flatten, same, strides": lambda n: sequential(
        [4, 4, 2], convolution(n, strides=2, activation="relu"), convolution(n, activation="relu"),
        L.Flatten(), dense(1),
    ),
    "pool, circular": lambda n: sequential(
        [4, 4, 2], periodic(n, activation="tanh"), periodic(n, activation="tanh"),
        L.GlobalAveragePooling2D(), dense(1),
    ),
    "average pooling inside, zero padding": lambda n: sequential(
        [4, 4, 2], L.ZeroPadding2D(1), convolution(n, padding="valid", activation="relu"),
        L.AveragePooling2D(2), convolution(n, activation="relu"), L.Flatten(), dense(1),
    ),
    "residual": residual,
    "orthogonal": lambda n: sequential(
        [4, 4, 2],
        convolution(n, activation="tanh"),
        mfcnn.layers.PeriodicConvolution(
            n, 3, activation="tanh",
            kernel_initializer=mfcnn.initializers.ConvolutionOrthogonal(1.2),
        ),
        mfcnn.layers.PeriodicConvolution(
            n, 3, activation="tanh",
            kernel_initializer=mfcnn.initializers.ConvolutionDeltaOrthogonal(1.1),
        ),
        L.Flatten(), L.Dense(1, kernel_initializer="glorot_normal"),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE)
def test_nngp_is_the_covariance_of_wide_networks(name):
    """1,000 draws of width 256: three standard errors, plus the 1 / width of a finite network."""
    import tensorflow as tf

    draws, width = 1000, 256
    keras.utils.set_random_seed(0)
    model = WIDE[name](width)
    x = images(3, 4)
    expected = kernels.from_keras(model)(x, get="nngp").numpy()
    forward = tf.function(lambda: model(tf.constant(x, tf.float32), training=False)[:, 0])
    outputs = []
    for _ in range(draws):
        for layer in model.layers:
            for variable in getattr(layer, "weights", []):
                kind = "kernel" if variable.name == "kernel" else "bias"
                config = keras.initializers.serialize(getattr(layer, f"{kind}_initializer"))
                config["config"]["seed"] = int(np.random.randint(2**31))
                if config["class_name"] == "Zeros":
                    config["config"] = {}
                variable.assign(keras.initializers.deserialize(config)(variable.shape))
        outputs.append(forward().numpy().astype(float))
    products = np.einsum("di,dj->dij", *[np.array(outputs)] * 2)
    error = products.std(axis=0) / np.sqrt(draws)
    deviation = np.abs(products.mean(axis=0) - expected)
    assert np.all(deviation < 3 * error + 4 / width * np.abs(expected))


def batch_norm():
    return sequential([4], dense(3), L.BatchNormalization(), dense(1))


def max_pooling():
    return sequential([4, 4, 1], convolution(3), L.MaxPooling2D(), L.Flatten(), dense(1))


def softmax():
    return sequential([4], dense(3, activation="relu"), dense(2, activation="softmax"))


def correlated():
    inputs = keras.Input([4])
    x = dense(3)(inputs)
    return keras.Model(
        inputs, dense(1)(L.Add()([x, L.Activation("relu")(x), L.Activation("tanh")(x)]))
    )


@pytest.mark.parametrize(
    "make, message",
    [
        (batch_norm, "batch_normalization.*couple"),
        (max_pooling, "max_pooling.*not Gaussian"),
        (softmax, "softmax"),
        (correlated, "branches are correlated"),
        (lambda: sequential([4], dense(3, kernel_initializer="ones")), "Ones has no known"),
        (lambda: sequential([4], dense(3, bias_initializer="ones")), "bias initializer Ones"),
        (lambda: sequential([4, 4, 1], convolution(3)), "must end in one output"),
        (lambda: sequential([4], L.Rescaling(2.0)), "a layer with weights"),
    ],
)
def test_layers_without_a_kernel_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        kernels.from_keras(make())


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match="keras.Model"):
        kernels.from_keras(3)
