"""Keras's global state: image format, seed, float type, policy and backend."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import layers, models

IMAGES = {
    "vanilla": ((8, 8, 1), lambda **o: models.vanilla_cnn((8, 8, 1), 3, 4, 2, **o)),
    "zeros": (
        (8, 8, 1),
        lambda **o: models.vanilla_cnn((8, 8, 1), 3, 4, 2, padding="same", readout="flatten", **o),
    ),
    "lenet": ((12, 12, 1), lambda **o: models.lenet((12, 12, 1), 2, 0.5, **o)),
    "alexnet": ((63, 63, 3), lambda **o: models.alexnet((63, 63, 3), 2, 0.02, **o)),
}
LAYERS = {
    "DeepConvolution": ((4, 4, 3), lambda **o: layers.DeepConvolution(3, 3, padding="same", **o)),
    "DeepDense": ((3,), lambda **o: layers.DeepDense(3, 3, **o)),
    "NTKDense": ((3,), lambda **o: layers.NTKDense(3, "tanh", bias_variance=0.1, **o)),
    "NTKConvolution": ((4, 4, 3), lambda **o: layers.NTKConvolution(2, 3, "tanh", **o)),
    "NTKSelfAttention": ((5, 3), lambda **o: layers.NTKSelfAttention(3, 2, 4, **o)),
    "PeriodicConvolution": ((4, 4, 3), lambda **o: layers.PeriodicConvolution(2, 3, **o)),
}


def draw(shape):
    return np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")


def unrolled(model, x):
    """The model's output by the stock layers of its unrolled stack."""
    for layer in model.layers[1:]:
        x = layer.unroll()(x) if hasattr(layer, "unroll") else layer(x)
    return x


@pytest.fixture
def channels_first():
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize("name", IMAGES)
def test_models_take_channels_last_whatever_the_global_format(name, channels_first):
    shape, make = IMAGES[name]
    found = make(seed=0)
    y = np.asarray(found(draw(shape)))
    by_stock_layers = unrolled(found, draw(shape))
    keras.config.set_image_data_format("channels_last")
    np.testing.assert_array_equal(y, make(seed=0)(draw(shape)))
    np.testing.assert_allclose(by_stock_layers, y, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_take_channels_last_whatever_the_global_format(name, channels_first):
    shape, make = LAYERS[name]
    layer = make()
    y = np.asarray(layer(draw(shape)))
    keras.config.set_image_data_format("channels_last")
    again = make()
    again.build((2, *shape))
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(draw(shape)), y)


@pytest.mark.parametrize("name", IMAGES)
def test_the_global_seed_decides_the_network(name):
    _, make = IMAGES[name]

    def weights(seed):
        keras.utils.set_random_seed(seed)
        return make().get_weights(), make().get_weights()

    (first, second), (again, _), (other, _) = weights(1), weights(1), weights(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    drawn = [i for i, w in enumerate(first) if np.any(w)]
    assert drawn and not any(np.array_equal(first[i], second[i]) for i in drawn)
    assert not any(np.array_equal(first[i], other[i]) for i in drawn)


@pytest.mark.parametrize("name", LAYERS)
def test_the_global_seed_decides_a_layer(name):
    shape, make = LAYERS[name]

    def weights(seed):
        keras.utils.set_random_seed(seed)
        drawn = [make(), make()]
        for layer in drawn:
            layer.build((None, *shape))
        return [np.asarray(layer.kernel) for layer in drawn]

    (first, second), (again, _) = weights(1), weights(1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("floatx", ["float16", "float64"])
@pytest.mark.parametrize("name", [*LAYERS, *IMAGES])
def test_floatx_is_the_dtype_of_weights_and_outputs(name, floatx):
    keras.config.set_floatx(floatx)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(floatx)
    try:
        shape, make = {**LAYERS, **IMAGES}[name]
        y = make()(draw(shape).astype(floatx))
        assert y.dtype == floatx and np.all(np.isfinite(np.asarray(y, "float64")))
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float64"])
@pytest.mark.parametrize("name", LAYERS)
def test_policies_decide_the_precision_and_outputs_agree_to_it(name, policy):
    shape, make = LAYERS[name]
    layer = make(dtype=policy)
    y = layer(draw(shape))
    expected = keras.dtype_policies.get(policy)
    assert y.dtype == expected.compute_dtype
    assert {w.dtype for w in layer.weights} == {expected.variable_dtype}
    full = make(dtype="float64")
    full.build((2, *shape))
    full.set_weights([np.asarray(tf.cast(w.value, tf.float64)) for w in layer.weights])
    unit = {"bfloat16": 2**-8, "float16": 2**-11, "float64": 2**-50}[expected.compute_dtype]
    # Three layers of some ten roundings of values of order one.
    assert np.max(np.abs(tf.cast(y, tf.float64) - full(draw(shape)))) < 30 * unit


@pytest.mark.parametrize("name", ["lenet", "alexnet"])
def test_a_model_takes_a_policy_of_its_own(name):
    shape, make = IMAGES[name]
    model = make(seed=0, dtype="mixed_bfloat16")
    assert model(draw(shape)).dtype == "bfloat16" and model.weights[0].dtype == "float32"


# Stock Conv2D on an empty batch fails in TensorFlow itself, and with it the other models.
@pytest.mark.parametrize("name", [*LAYERS, "vanilla"])
def test_an_empty_batch_gives_an_empty_result(name):
    shape, make = {**LAYERS, **IMAGES}[name]
    layer = make()
    one = layer(draw(shape))
    empty = np.zeros((0, *shape), "float32")
    with tf.GradientTape() as tape:
        y = layer(empty)
        loss = tf.reduce_sum(y)
    assert y.shape == (0, *one.shape[1:])
    for gradient in tape.gradient(loss, [w.value for w in layer.trainable_weights]):
        assert not np.any(gradient)
    unknown = tf.TensorSpec([None, *shape], tf.float32)
    function = tf.function(layer, input_signature=[unknown], autograph=False)
    assert function(empty).shape == (0, *one.shape[1:])


def test_another_backend_is_refused_at_import():
    program = "import keras; keras.backend.backend = lambda: 'jax'; import mfcnn"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    last = found.stderr.strip().splitlines()[-1]
    assert found.returncode and last.startswith("ImportError: mfcnn needs Keras's TensorFlow")
    assert "KERAS_BACKEND=tensorflow" in last and "'jax'" in last
