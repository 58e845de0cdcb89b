"""Kernels inside of a user's compiled functions, under tapes and in data pipelines."""

import numpy as np
import pytest
import tensorflow as tf

from mfcnn import kernels

MAKERS = {
    "dense": lambda: kernels.fully_connected(2, "erf", 1.7, 0.1),
    "flatten": lambda: kernels.convolutional(2, "erf", 1.7, 0.1),
    "pool": lambda: kernels.convolutional(2, "erf", 1.7, 0.1, readout="pool"),
}


def inputs(name, n=3, seed=0):
    shape = (n, 6) if name == "dense" else (n, 4, 4, 2)
    return np.random.default_rng(seed).normal(size=shape)


def close(values, expected):
    np.testing.assert_allclose(values, expected, rtol=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_made_outside_or_inside_with_a_known_or_an_unknown_batch(name):
    x, kernel = inputs(name), MAKERS[name]()
    x[2] = x[0]  # equal inputs are found inside too
    expected = kernel(x, get="ntk")
    unknown = tf.TensorSpec([None, *x.shape[1:]], tf.float64)
    close(tf.function(lambda x: kernel(x, get="ntk"))(tf.constant(x)), expected)
    inside = tf.function(lambda x: MAKERS[name]()(x, x[:2]).ntk, input_signature=[unknown])
    close(inside(tf.constant(x)), expected[:, :2])


@pytest.mark.parametrize("name", ["dense", pytest.param("flatten", marks=pytest.mark.slow)])
def test_compiled_by_xla(name):
    x, kernel = inputs(name), MAKERS[name]()
    x[2] = x[0]
    compiled = tf.function(lambda x: kernel(x, get="ntk"), jit_compile=True)
    close(compiled(tf.constant(x)), kernel(x, get="ntk"))


@pytest.mark.parametrize("name", MAKERS)
def test_in_a_data_pipeline(name):
    x, kernel = inputs(name, 4), MAKERS[name]()
    data = tf.data.Dataset.from_tensor_slices(x).batch(3).map(lambda x: kernel(x).nngp)
    for found, part in zip(data, (x[:3], x[3:])):
        close(found, kernel(part).nngp)


@pytest.mark.parametrize("name", ["dense", "flatten"])
def test_gradients_inside_are_those_outside(name):
    x, kernel = tf.constant(inputs(name)), MAKERS[name]()

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(kernel(x).ntk)
        return tape.gradient(total, x)

    np.testing.assert_allclose(tf.function(gradient)(x), gradient(x), rtol=1e-9, atol=1e-12)


def test_no_warning_of_retracing(caplog):
    kernel = MAKERS["dense"]()
    for n in range(1, 9):
        kernel(inputs("dense", n))
    assert "retracing" not in caplog.text


def test_what_is_missing_is_said_in_a_sentence():
    kernel = kernels.fully_connected(2, "tanh", 1.7, 0.1)
    with pytest.raises(ValueError, match="'tanh' has no closed form.*call the kernel outside"):
        tf.function(lambda x: kernel(x))(tf.constant(inputs("dense")))
    variance = tf.Variable(1.7, dtype=tf.float64)

    @tf.function
    def loss(x):
        return tf.reduce_sum(kernels.fully_connected(2, "erf", variance, 0.1)(x).ntk)

    x = tf.constant(inputs("dense"))
    close(loss(x), tf.reduce_sum(MAKERS["dense"]()(x).ntk))
