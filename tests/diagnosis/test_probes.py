"""What the probes see is what a tape and plain arithmetic say, and the model is left as it was."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn.diagnosis import _probes, _walk
from mfcnn.empirical import _inputs
from tests.diagnosis import odd_models
from tests.tolerances import float32

L = keras.layers
NAMES = list(odd_models.models())


def measured(model, x, training=True):
    return _probes.measure(model, _inputs.convert(model, x, "x"), model.get_weights(), 3, training)


@pytest.fixture(scope="module")
def models():
    return odd_models.models()


@pytest.mark.parametrize("name", NAMES)
def test_any_model_is_measured_and_left_as_it_was(models, name):
    model, x = models[name]
    before = model.get_weights()
    probes = measured(model, x)
    again = measured(model, x)
    assert all(map(np.array_equal, before, model.get_weights()))
    assert not any("call" in vars(layer) for layer in _walk.leaves(model, and_outer=True))
    assert [p.gradient for p in probes] == [p.gradient for p in again]
    assert all(np.isfinite(p.variance) and p.gradient > 0 for p in probes)
    assert {id(p.layer) for p in probes if np.isfinite(p.weight_gradient)} == {
        id(layer) for layer in _walk.leaves(model) if getattr(layer, "trainable_variables", ())
    }


def test_moments_and_gradients_are_those_of_the_pre_activations():
    model, x = odd_models.plain("tanh", 2, 16), odd_models.normal(6, 8)
    first, second, last = measured(model, x)
    z1 = x @ np.asarray(model.layers[0].kernel)
    with tf.GradientTape() as tape:
        z = tf.constant(z1)
        tape.watch(z)
        z2 = tf.matmul(tf.tanh(z), model.layers[1].kernel.value)
        y = tf.matmul(tf.tanh(z2), model.layers[2].kernel.value)
        normal = tf.random.stateless_normal(y.shape, [3, 0], dtype=tf.float64)
        total = tf.reduce_sum(tf.cast(y, tf.float64) * normal / np.sqrt(5))
    by_z = tape.gradient(total, z).numpy()
    gram = z1 @ z1.T
    cosines = gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
    expected = {
        "mean": z1.mean(),
        "variance": np.mean(z1**2),
        "correlation": cosines[np.triu_indices(6, 1)].mean(),
        "gradient": np.sum(by_z**2) / 6,
        "weight_gradient": (np.sum((x.T @ by_z) ** 2) + np.sum(by_z.sum(0) ** 2)) / 6,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(first, name), value, float32.deep, 1e-6, err_msg=name)
    assert last.gradient == pytest.approx(np.sum(normal**2) / 30, rel=float32.summed)
    assert second.shape == (16,) and last.shape == (5,)


def test_a_layer_called_twice_is_seen_twice():
    probes = measured(*odd_models.models()["shared"])
    assert [p.occurrence for p in probes] == [0, 1, 0]


def test_dead_and_saturated_units_are_counted():
    kernel = np.ones((8, 4), "float32") * [1, 1, -1, -1]
    x = np.abs(odd_models.normal(6, 8))
    for activation, name, share in (("relu", "dead", 0.5), ("tanh", "saturated", 1.0)):
        model = keras.Sequential([keras.Input((8,)), L.Dense(4, activation), L.Dense(1)])
        model.layers[0].kernel.assign(1e3 * kernel)
        assert getattr(measured(model, x)[0], name) == share


def test_batch_normalization_takes_the_batch_and_keeps_its_statistics():
    model, x = odd_models.models()["convolutional"]
    by_batch, by_moving = measured(model, 3 * x), measured(model, 3 * x, training=False)
    place = [isinstance(p.layer, L.BatchNormalization) for p in by_batch].index(True)
    before = by_batch[place - 1].variance
    assert by_batch[place].variance == pytest.approx(1, abs=0.01)  # epsilon is 1e-3
    assert by_moving[place].variance == pytest.approx(before / 1.001, rel=float32.summed)
    assert not np.any(model.layers[2].moving_mean.numpy())


def test_an_error_in_the_model_leaves_no_wraps():
    class Broken(L.Layer):
        broken = False

        def call(self, x):
            if self.broken:
                raise RuntimeError("broken")
            return x

    model = odd_models.functional((8,), lambda x: Broken()(L.Dense(2)(x)))
    Broken.broken = True
    with pytest.raises(RuntimeError, match="broken"):
        measured(model, odd_models.normal(2, 8))
    assert not any("call" in vars(layer) for layer in model.layers)
