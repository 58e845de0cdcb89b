"""Twins: their kernels, and networks of them, which are those of half the units and odd phi."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn.initializers import ConvolutionDeltaOrthogonal, Mirrored
from tests.tolerances import float32

L = keras.layers
ORTHOGONAL = keras.initializers.Orthogonal(seed=1)


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize("window", [(), (3,), (3, 3)])
def test_a_kernel_is_half_of_it_and_its_twins(inputs, outputs, window):
    inner = ConvolutionDeltaOrthogonal(seed=1) if window else ORTHOGONAL
    kernel = Mirrored(inner, inputs, outputs)((*window, 4, 8)).numpy()
    half = inner((*window, 4 // (1 + inputs), 8 // (1 + outputs)), dtype="float32")
    sign = np.kron([1, -1] if inputs else [1], np.ones(half.shape[-2]))[:, None]
    sign = sign * np.kron([1, -1] if outputs else [1], np.ones(half.shape[-1]))
    repeats = [1] * len(window) + [1 + inputs, 1 + outputs]
    np.testing.assert_array_equal(kernel, sign * np.tile(half, repeats))


def test_a_bias_has_twins_among_outputs_alone():
    bias = Mirrored(keras.initializers.RandomNormal(seed=3))((6,)).numpy()
    np.testing.assert_array_equal(bias[:3], -bias[3:])


def test_an_odd_number_of_twins_is_refused():
    with pytest.raises(ValueError, match="even size along axis -1"):
        Mirrored("ones")((4, 3))


def network(activation, depth, width, gain=1.0):
    """Layers of twins between data and a readout."""

    def kernel(seed, inputs=True, outputs=True):
        return Mirrored(keras.initializers.Orthogonal(gain, seed), inputs, outputs)

    hidden = [
        L.Dense(width, activation, kernel_initializer=kernel(k, inputs=k > 0)) for k in range(depth)
    ]
    readout = L.Dense(4, kernel_initializer=kernel(depth, outputs=False))
    return keras.Sequential([keras.Input((8,)), *hidden, readout])


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "softplus"])
def test_a_network_of_twins_is_linear_and_an_isometry(activation):
    model = network(activation, 30, 16)
    x = tf.constant(np.random.default_rng(0).standard_normal((3, 8)), tf.float32)
    np.testing.assert_allclose(model(x) + model(-x), 0, atol=30 * float32.rounded * 8)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x)
    jacobian = tape.batch_jacobian(y, x).numpy()
    singular = np.linalg.svd(jacobian, compute_uv=False)
    np.testing.assert_allclose(singular, 1, rtol=30 * float32.summed)


def test_sigmoid_twins_are_a_network_of_tanh():
    model, x = network("sigmoid", 3, 16), np.random.default_rng(0).standard_normal((3, 8))
    h = x
    for layer in model.layers[:-1]:
        kernel = np.asarray(layer.kernel, np.float64)
        h = np.tanh(h @ kernel[: h.shape[1], :8] / 2)
    expected = h @ np.asarray(model.layers[-1].kernel, np.float64)[:8]
    np.testing.assert_allclose(model(x.astype("float32")), expected, atol=float32.deep)


def test_it_is_saved_with_its_layer(tmp_path):
    model = network("relu", 2, 8, gain=1.5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    initializer = loaded.layers[1].kernel_initializer
    assert isinstance(initializer, Mirrored) and initializer.mirror_outputs
    np.testing.assert_array_equal(initializer((8, 8)), model.layers[1].kernel)
