"""Kernels read from Keras models: against the fixed architectures and against wide networks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

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
                6,
                2,
                activation="erf",
                kernel_initializer=initializer,
                bias_initializer=normal(0.1, 1),
            ),
            head,
            dense(1),
        ]
    )
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


def test_blocks_resume_and_refuse_another_model(tmp_path):
    models = [sequential([6], dense(8, activation=a), dense(1)) for a in ("relu", "gelu")]
    x = np.random.default_rng(0).normal(size=(4, 6))
    first = kernels.from_keras(models[0])(x, output_dir=tmp_path)
    assert list(tmp_path.glob("block_*.npz"))
    assert_close(kernels.from_keras(models[0])(x, output_dir=tmp_path), first, 1e-16)
    with pytest.raises(ValueError, match="another kernel"):
        kernels.from_keras(models[1])(x, output_dir=tmp_path)


def sequential(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


def test_a_stack_without_closed_form_is_its_layers():
    arguments = {
        "activation": "tanh",
        "kernel_initializer": keras.initializers.VarianceScaling(1.7, "fan_in"),
        "bias_initializer": normal(0.1, 1),
    }
    stack = sequential([6], mfcnn.layers.DeepDense(3, 6, **arguments), dense(1))
    layers = sequential([6], *(L.Dense(6, **arguments) for _ in range(3)), dense(1))
    x = np.random.default_rng(0).normal(size=(4, 6)) * np.array([[0.1], [1.0], [2.0], [1.0]])
    expected = kernels.from_keras(layers)(x)
    # Two tables, each of 1e-11 of the largest value.
    assert_close(kernels.from_keras(stack)(x), expected, 1e-9)
    deep = sequential([6], mfcnn.layers.DeepDense(110, 6, **arguments), L.Dense(1, **arguments))
    deep.layers[-1].activation = keras.activations.linear
    # So many layers are a graph of their own; 110 of them lose two digits.
    expected = kernels.fully_connected(110, "tanh", 1.7, 0.1)(x)
    assert_close(kernels.from_keras(deep)(x), expected, 1e-9)


def test_layers_of_the_ntk_parameterization_have_their_variances():
    model = sequential(
        [4, 4, 2],
        mfcnn.layers.NTKConvolution(3, 3, "relu", 1.7, 0.1, padding="same"),
        L.Flatten(),
        mfcnn.layers.NTKDense(1, None, 1.7, 0.1),
    )
    expected = kernels.convolutional(1, "relu", 1.7, 0.1, padding="same")(images(3, 4))
    assert_close(kernels.from_keras(model)(images(3, 4)), expected, 1e-10)


def test_a_linear_activation_is_none():
    x = np.random.default_rng(0).normal(size=(4, 6))
    results = [
        kernels.from_keras(
            sequential([6], mfcnn.layers.NTKDense(8, linear, 1.7, 0.1), L.ReLU(), dense(1))
        )(x)
        for linear in (None, "linear")
    ]
    assert_close(*results, 1e-16)


def test_frozen_layers_leave_the_ntk():
    x = np.random.default_rng(0).normal(size=(4, 6))
    model = sequential([6], dense(8, activation="relu"), dense(1))
    model.layers[0].trainable = False
    nngp, ntk = kernels.from_keras(model)(x)
    assert_close([ntk], [nngp], 1e-14)  # of the readout alone
    model.layers[0].trainable, model.layers[1].trainable = True, False
    both = kernels.fully_connected(1, "relu", 1.7, 0.1)(x)
    assert_close([kernels.from_keras(model)(x, get="ntk")], [both.ntk - both.nngp], 1e-12)


def test_any_smooth_function_is_an_activation():
    x = np.random.default_rng(0).normal(size=(4, 6))

    def swish(z):
        return z * keras.ops.sigmoid(z)

    own, named = (sequential([6], dense(8, activation=f), dense(1)) for f in (swish, "swish"))
    assert_close(kernels.from_keras(own)(x), kernels.from_keras(named)(x), 1e-9)


def test_layers_before_the_first_weights_act_on_the_data():
    inputs = keras.Input([4, 4, 2])
    both = L.Concatenate()([L.MaxPooling2D(2)(inputs), L.AveragePooling2D(2)(inputs)])
    model = keras.Model(inputs, dense(1)(L.Flatten()(L.RandomFlip()(both))))
    x = images(3, 4)
    blocks = x.reshape(3, 2, 2, 2, 2, 2)
    data = np.concatenate([blocks.max((2, 4)), blocks.mean((2, 4))], axis=-1).reshape(3, -1)
    expected = kernels.fully_connected(0, "relu", 1.7, 0.1)(data)
    assert_close(kernels.from_keras(model)(x), expected, 1e-6)  # Keras's layers run in float32


def test_a_sum_may_be_written_as_one():
    inputs = keras.Input([6])
    x = dense(4)(2.0 * inputs - 1.0)
    branch = dense(4)(L.Activation("relu")(x))
    results = [
        kernels.from_keras(keras.Model(inputs, dense(1)(L.Activation("relu")(total))))(
            np.random.default_rng(0).normal(size=(4, 6))
        )
        for total in (x + branch, L.Add()([x, branch]))
    ]
    assert_close(*results, 1e-14)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("head", [L.Flatten, L.GlobalAveragePooling2D])
def test_gradients_by_inputs_are_difference_quotients_and_finite(activation, head):
    model = sequential(
        [3, 3, 2],
        convolution(4, activation=activation),
        convolution(4, activation=activation, strides=2),
        head(),
        dense(1),
    )
    kernel = kernels.from_keras(model)
    x, direction = images(3, 3), images(3, 3, seed=1)
    x[2] = x[0]
    x[1, :2] = 0.3  # equal pixels

    def value(t):
        result = kernel(x + t * direction)
        return tf.reduce_sum(result.nngp * 0.7 + result.ntk)

    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        result = kernel(variable)
        total = tf.reduce_sum(result.nngp * 0.7 + result.ntk)
    gradient = tf.convert_to_tensor(tape.gradient(total, variable))
    assert np.all(np.isfinite(gradient))
    if activation == "relu":  # at coincident points its NTK has a kink
        return
    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-6)


def kinked(z):
    return keras.ops.abs(keras.ops.sin(z))


def max_pooling():
    return sequential([4, 4, 1], convolution(3), L.MaxPooling2D(), L.Flatten(), dense(1))


def softmax():
    return sequential([4], dense(3, activation="relu"), dense(2, activation="softmax"))


def functional(build, shape=(4,)):
    """A model whose last layer, dense, stands on build(inputs)."""
    inputs = keras.Input(shape)
    return keras.Model(inputs, dense(1)(build(inputs)))


def two_activations(inputs):
    x = L.Conv1D(3, 3)(inputs)
    y = L.AveragePooling1D(3, 1, padding="same")(x)
    return L.Flatten()(L.Add()([L.Activation("relu")(x), L.Activation("tanh")(y)]))


def data_and_signal(inputs):
    return L.Add()([inputs, dense(4)(inputs)])


@pytest.mark.parametrize(
    "make, message",
    [
        (max_pooling, "max_pooling.*not Gaussian"),
        (softmax, "softmax"),
        (lambda: functional(two_activations, (6, 2)), "branches are correlated"),
        (lambda: functional(data_and_signal), "adds data"),
        (lambda: functional(lambda inputs: dense(3)(inputs) + 1.0), "adds data or a constant"),
        (
            lambda: sequential(
                [6, 2], L.Conv1D(3, 2, activation="relu"), L.AveragePooling1D(2), L.ReLU()
            ),
            "not Gaussian",
        ),
        (lambda: sequential([4], dense(3), L.Rescaling(1.0, 2.0)), "no offset"),
        (lambda: sequential([4], dense(3), L.Activation(kinked), dense(1)), "kinked.*no dual maps"),
        (lambda: sequential([4, 4, 1], convolution(3), L.Flatten()), "must end in one output"),
        (lambda: sequential([4], dense(3), L.Reshape([3, 1])), "between channels and positions"),
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
