"""Calls of a kernel: gradients, shared programs, blocks, fields and what is refused."""

import numpy as np
import pytest
import tensorflow as tf

from mfcnn import kernels
from mfcnn.kernels import _programs
from tests.kernels.test_networks import assert_close, inputs


# A table's gradient takes as long to trace as erf's (the slowest of the quick suite).
@pytest.mark.parametrize(
    "activation", ["erf", "relu", pytest.param("tanh", marks=pytest.mark.slow)]
)
def test_gradients_exist_also_at_coincident_points(activation):
    x = tf.Variable(inputs(4, 5))
    x[1].assign(x[0])
    variances = tf.Variable(1.5, dtype=tf.float64), tf.Variable(0.1, dtype=tf.float64)
    with tf.GradientTape() as tape:
        result = kernels.fully_connected(3, activation, *variances)(x)
        total = tf.reduce_sum(result.nngp * 0.7 + result.ntk)
    gradients = tape.gradient(total, [x, *variances])
    assert all(np.all(np.isfinite(g)) for g in gradients)
    step = 1e-5

    def value(weight_variance):
        result = kernels.fully_connected(3, activation, weight_variance, 0.1)(x)
        return float(tf.reduce_sum(result.nngp * 0.7 + result.ntk))

    slope = (value(1.5 + step) - value(1.5 - step)) / (2 * step)
    np.testing.assert_allclose(gradients[1], slope, rtol=1e-6)


# Each traces the gradient of a loop, which takes most of the time; pooling the longer one.
@pytest.mark.parametrize("readout", ["flatten", pytest.param("pool", marks=pytest.mark.slow)])
def test_gradients_of_convolutional_kernels_are_finite_at_coincident_points(readout):
    x = tf.Variable(inputs(3, 3, 3, 2))
    x[1].assign(x[0])
    variances = tf.Variable(1.5, dtype=tf.float64), tf.Variable(0.1, dtype=tf.float64)
    with tf.GradientTape() as tape:
        result = kernels.convolutional(2, "erf", *variances, readout=readout)(x)
        total = tf.reduce_sum(result.nngp * 0.7 + result.ntk)
    gradients = tape.gradient(total, [x, *variances])
    assert all(np.all(np.isfinite(tf.convert_to_tensor(g))) for g in gradients)


@pytest.mark.parametrize("architecture", ["fcn", "flatten", "pool"])
def test_all_depths_and_variances_share_one_program(architecture):
    kernels.clear_cache()
    for depth, weight_variance in ((10, 1.5), (60, 1.9)):
        if architecture == "fcn":
            kernels.fully_connected(depth, "erf", weight_variance, 0.1)(inputs(4, 6))
        else:
            kernel = kernels.convolutional(depth, "erf", weight_variance, 0.1, readout=architecture)
            kernel(inputs(2, 3, 3, 2))
    assert len(_programs._CACHE) == 1


def test_the_cache_of_programs_is_bounded():
    kernels.clear_cache()
    kernel = kernels.fully_connected(1, "linear", 1.5, 0.1)
    for features in range(1, _programs._SIZE + 5):
        kernel(np.ones([1, features]))
    assert len(_programs._CACHE) == _programs._SIZE


def test_equal_norms_give_what_pairs_give():
    # Enough inputs for the interpolation over the correlation; two of them are equal.
    x = inputs(130, 40)
    x /= np.linalg.norm(x, axis=1, keepdims=True) / 6
    x[1] = x[0]
    kernel = kernels.fully_connected((3, 60), "erf", 1.9, 0.05)
    together, row = kernel(x), kernel(x[:1], x)  # one row is below the limit: pair by pair
    for both, one in zip(together, row):
        assert np.max(np.abs(both[:, :1] - one)) < 1e-11 * np.max(np.abs(one))


def test_gradient_by_inputs_is_the_difference_quotient():
    x = inputs(3, 5)
    direction = inputs(3, 5, seed=1)

    def value(t):
        return kernels.fully_connected(2, "erf", 1.5, 0.1)(x + t * direction).ntk[0, 1]

    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        entry = kernels.fully_connected(2, "erf", 1.5, 0.1)(variable).ntk[0, 1]
    slope = np.sum(tape.gradient(entry, variable) * direction)
    np.testing.assert_allclose(slope, (value(1e-5) - value(-1e-5)) / 2e-5, rtol=1e-6)


def test_blocks_resume_and_refuse_another_problem(tmp_path):
    x = inputs(5, 4, 4, 1)
    kernel = kernels.convolutional(2, "erf", 1.5, 0.1, readout="pool")
    first = kernel(x, output_dir=tmp_path)
    again = kernel(x, output_dir=tmp_path)
    assert list(tmp_path.glob("block_*.npz"))
    assert_close(again, first, 1e-16)
    with pytest.raises(ValueError, match="another kernel"):
        kernels.convolutional(3, "erf", 1.5, 0.1, readout="pool")(x, output_dir=tmp_path)


def test_several_blocks_equal_one(monkeypatch):
    x, x2 = inputs(11, 4), inputs(7, 4, seed=3)
    kernel = kernels.fully_connected(2, "erf", 1.5, 0.1)
    whole = kernel(x), kernel(x, x2)
    monkeypatch.setattr(kernel, "_block", 4)
    for one, many in zip(whole, (kernel(x), kernel(x, x2))):
        assert_close(many, one, 1e-14)


def test_fields_and_errors():
    x = inputs(3, 4)
    kernel = kernels.fully_connected(2, "erf", 1.5, 0.1)
    assert kernel(x, get=("ntk",))._fields == ("ntk",)
    assert tf.is_tensor(kernel(x, get="nngp")) and kernel(x, get="nngp").shape == (3, 3)
    for call, message in (
        (lambda: kernel(x, get="spectrum"), "get must be"),
        (lambda: kernel(x[0]), "x1 must be"),
        (lambda: kernel(x, x[:, :2]), "one shape"),
        (lambda: kernel(x * np.nan), "x1 must be finite"),
        (lambda: kernel(x, get=("ntk", "ntk")), "get must be"),
        (lambda: kernels.fully_connected(1, "erf", 1.0, 0.0, dtype=None), "dtype must be"),
        (
            lambda: kernels.convolutional(1, "erf", 1, 0, 2.5)(inputs(2, 5, 5, 1)),
            "kernel_size must",
        ),
        (lambda: kernels.fully_connected(-1, "erf", 1.0, 0.0), "depth must be"),
        (lambda: kernels.fully_connected(1, "erf", -1.0, 0.0), "weight_variance must be"),
        (lambda: kernels.fully_connected(1, "erf", 1.0, 0.0, dtype="int32"), "dtype must be"),
        (lambda: kernels.convolutional(1, "erf", 1.0, 0.0, padding="full"), "padding must be"),
        (lambda: kernels.convolutional(1, "erf", 1.0, 0.0, readout="sum"), "readout must be"),
        (
            lambda: kernels.convolutional(3, "erf", 1.0, 0.0, padding="valid")(inputs(2, 5, 5, 1)),
            "leaves nothing",
        ),
        (
            lambda: kernels.convolutional(1, "erf", 1.0, 0.0, variance_profile=[0.5, 0.2, 0.2])(
                inputs(2, 5, 5, 1)
            ),
            "variance_profile must sum to one",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    for call, message in (
        (lambda: kernel(x + 1j), "x1 must be an array of real numbers"),
        (lambda: kernel(None), "x1 must be an array"),
        (
            lambda: kernels.fully_connected(1, "erf", None, 0.0),
            "weight_variance must be a finite number",
        ),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_tab_completion_shows_the_public_names_alone():
    assert {name for name in dir(kernels) if not name.startswith("_")} == set(kernels.__all__)
