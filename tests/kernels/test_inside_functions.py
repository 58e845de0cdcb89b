"""Kernels inside of a user's compiled functions, under tapes and in data pipelines: all of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import kernels

L = keras.layers


def _model(*layers):
    return kernels.from_keras(keras.Sequential([*layers, L.Dense(1)]))


# Name: (the kernel's maker, the shape of an input).
MAKERS = {
    "linear": (lambda: kernels.fully_connected(0, "erf", 1.7, 0.1), (6,)),
    "dense": (lambda: kernels.fully_connected(2, "erf", 1.7, 0.1), (6,)),
    "dense float32": (lambda: kernels.fully_connected(2, "relu", 1.7, 0.1, "float32"), (6,)),
    "dense depths": (lambda: kernels.fully_connected((1, 3), "gelu", 1.7, 0.1), (6,)),
    "flatten": (lambda: kernels.convolutional(2, "erf", 1.7, 0.1), (4, 4, 2)),
    "pool": (lambda: kernels.convolutional(2, "erf", 1.7, 0.1, readout="pool"), (4, 4, 2)),
    "sequence": (lambda: kernels.convolutional(1, "relu", 1.7, 0.1), (5, 2)),
    "valid": (lambda: kernels.convolutional(1, "relu", 1.7, 0.1, padding="valid"), (4, 4, 2)),
    "model": (lambda: _model(keras.Input((6,)), L.Dense(8, "relu"), L.Dense(8, "relu")), (6,)),
    "model of images": (
        lambda: _model(
            keras.Input((4, 4, 2)), L.Conv2D(8, 3, activation="relu"), L.GlobalAveragePooling2D()
        ),
        (4, 4, 2),
    ),
    "tanh": (lambda: kernels.fully_connected(2, "tanh", 1.7, 0.1), (6,)),
}
# What has no value inside says so in one sentence.
WITHOUT_VALUE = {"tanh": "'tanh' has no closed form.*call the kernel outside"}
UNKNOWN_BATCH = {"model": "known number of inputs", "model of images": "known number of inputs"}
# Minutes together: the quick suite has each maker in one way of calling it at least.
SLOW = {"dense depths", "flatten", "pool", "valid", "model of images"}
QUICK = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in MAKERS]


def inputs(name, n=3, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, *MAKERS[name][1]))
    x[-1] = x[0]  # equal inputs are found inside too
    return x


def check(name, function, expected, refusal=None):
    refusal = WITHOUT_VALUE.get(name, refusal)
    if refusal:
        with pytest.raises(ValueError, match=refusal):
            function()
        return
    tolerance = 1e-12 if expected.dtype == tf.float64 else 1e-5
    np.testing.assert_allclose(function(), expected, rtol=tolerance)


@pytest.mark.parametrize("name", QUICK)
def test_made_outside_and_called_inside(name):
    kernel, x = MAKERS[name][0](), inputs(name)
    inside = tf.function(lambda x: kernel(x, get="ntk"))
    check(name, lambda: inside(tf.constant(x)), kernel(x, get="ntk"))


@pytest.mark.parametrize("name", MAKERS)
def test_made_inside_with_an_unknown_batch(name):
    make, x = MAKERS[name][0], inputs(name)
    unknown = tf.TensorSpec([None, *x.shape[1:]], tf.float64)
    inside = tf.function(lambda x: make()(x, x[:2]).ntk, input_signature=[unknown])
    expected = make()(x, x[:2], get="ntk")
    check(name, lambda: inside(tf.constant(x)), expected, UNKNOWN_BATCH.get(name))


@pytest.mark.parametrize("name", QUICK)
def test_compiled_by_xla(name):
    kernel, x = MAKERS[name][0](), inputs(name)
    compiled = tf.function(lambda x: kernel(x, get="ntk"), jit_compile=True)
    check(name, lambda: compiled(tf.constant(x)), kernel(x, get="ntk"))


@pytest.mark.parametrize("name", QUICK)
def test_in_a_data_pipeline(name):
    kernel, x = MAKERS[name][0](), inputs(name, 4)
    fixed = name in UNKNOWN_BATCH  # the last batch may be smaller otherwise
    batches = tf.data.Dataset.from_tensor_slices(x).batch(2 if fixed else 3, drop_remainder=fixed)
    size = 2 if fixed else 3

    def first():
        return list(batches.map(lambda x: kernel(x, get="nngp")))[0]

    check(name, first, kernel(x[:size], get="nngp"))


@pytest.mark.parametrize("name", QUICK)
def test_gradients_inside_are_those_outside(name):
    kernel, x = MAKERS[name][0](), tf.constant(inputs(name)[:2])

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(kernel(x, get="ntk"))
        return tf.convert_to_tensor(tape.gradient(total, x))  # it may come as slices

    if name in WITHOUT_VALUE:
        assert np.all(np.isfinite(gradient(x)))
        return
    tolerance = 1e-4 if "float32" in name else 1e-9
    np.testing.assert_allclose(
        tf.function(gradient)(x), gradient(x), rtol=tolerance, atol=tolerance
    )


def test_no_warning_of_retracing(caplog):
    kernel = MAKERS["dense"][0]()
    for n in range(1, 7):  # TensorFlow warns from the fifth on
        kernel(inputs("dense", n))
    assert "retracing" not in caplog.text


def test_a_variance_that_is_trained_reaches_a_kernel_made_inside():
    variance = tf.Variable(1.7, dtype=tf.float64)

    @tf.function
    def loss(x):
        return tf.reduce_sum(kernels.fully_connected(2, "erf", variance, 0.1)(x).ntk)

    x = tf.constant(inputs("dense"))
    expected = tf.reduce_sum(MAKERS["dense"][0]()(x).ntk)
    np.testing.assert_allclose(loss(x), expected, rtol=1e-12)
