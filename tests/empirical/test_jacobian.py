"""Singular values of a model's Jacobian, against the matrix of automatic differentiation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import empirical, meanfield
from tests.tolerances import float32


def test_singular_values_of_a_model_are_those_of_its_jacobian():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            keras.layers.Conv2D(3, 3, activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(12),
        ]
    )
    x = np.random.default_rng(0).standard_normal((5, 5, 2)).astype(np.float32)
    with tf.GradientTape() as tape:
        inputs = tf.constant(x[None])
        tape.watch(inputs)
        y = model(inputs)
    matrix = tape.jacobian(y, inputs).numpy().reshape(12, 50)
    expected = np.linalg.svd(matrix, compute_uv=False)
    exact = empirical.jacobian_singular_values(model, x, batch_size=5)
    np.testing.assert_allclose(exact, expected, rtol=float32.summed, atol=float32.rounded)
    whole = np.round(3 * x).astype(np.uint8)  # pixels are often integers
    np.testing.assert_array_equal(
        empirical.jacobian_singular_values(model, whole),
        empirical.jacobian_singular_values(model, whole.astype(np.float32)),
    )
    largest = empirical.jacobian_singular_values(model, x, count=4, max_bytes=0)
    np.testing.assert_allclose(largest, expected[:4], rtol=float32.deep)
    with pytest.raises(ValueError, match="give count"):
        empirical.jacobian_singular_values(model, x, max_bytes=0)
    with pytest.raises(ValueError, match="count must lie between 1 and 12"):
        empirical.jacobian_singular_values(model, x, count=13)


def test_the_old_name_still_answers():
    with pytest.warns(DeprecationWarning, match="empirical.jacobian_singular_values"):
        assert meanfield.jacobian_singular_values is empirical.jacobian_singular_values
