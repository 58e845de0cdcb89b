"""Kernel-vector products, Lanczos and effective ranks against explicit kernels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import empirical
from tests.tolerances import float32


def _model():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 3, activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


@pytest.fixture(name="case", scope="module")
def _case():
    model = _model()
    rng = np.random.default_rng(0)
    x1, x2 = (rng.normal(size=(n, 6, 6, 2)).astype("float32") for n in (5, 4))
    return model, x1, x2


def test_the_product_is_that_of_the_full_kernel(case):
    model, x1, x2 = case
    vector = np.random.default_rng(1).normal(size=(4, 3)).astype("float32")
    theta = empirical.ntk(model, x1, x2, outputs="full").numpy()
    expected = np.einsum("ijab,jb->ia", theta, vector)
    for batch_size in (None, 2):
        product = empirical.ntk_vector_product(model, x1, x2, vector, batch_size)
        np.testing.assert_allclose(
            product, expected, rtol=float32.deep, atol=1e-5 * np.abs(theta).max()
        )


def test_lanczos_finds_the_largest_eigenvalue(case):
    model, x1, _ = case
    theta = empirical.ntk(model, x1, outputs="full").numpy().transpose(0, 2, 1, 3)
    expected = np.linalg.eigvalsh(theta.reshape(15, 15))[-1]
    np.testing.assert_allclose(empirical.lambda_max(model, x1), expected, rtol=float32.deep)
    np.testing.assert_allclose(
        empirical.lambda_max(model, x1, batch_size=2), expected, rtol=float32.deep
    )


def test_lanczos_takes_weights_of_half_precision():
    # Of one dense layer, <x, x'> + 1: by hand 6 for three equal inputs (1, 0).
    layer = keras.layers.Dense(1, dtype="bfloat16")
    model = keras.Sequential([keras.Input((2,), dtype="bfloat16"), layer])
    x = tf.constant([[1, 0]] * 3, tf.bfloat16)
    assert empirical.lambda_max(model, x) == pytest.approx(6, rel=2**-7)


def test_a_vector_of_another_shape_is_refused(case):
    model, x1, x2 = case
    with pytest.raises(ValueError, match="vector must be"):
        empirical.ntk_vector_product(model, x1, x2, np.ones([5, 3], "float32"))


def test_effective_rank_of_known_spectra():
    orthogonal, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    assert empirical.effective_rank(orthogonal) == pytest.approx(6)
    assert empirical.effective_rank(np.outer([1, 2, 3.0], [1, 1.0])) == pytest.approx(1)
    # Singular values 3 and 1: exp(-(3/4) log(3/4) - (1/4) log(1/4)), by hand.
    assert empirical.effective_rank(np.diag([3.0, 1.0])) == pytest.approx(4 / 3**0.75)
    assert empirical.effective_rank(np.diag([9.0, 1.0]), gram=True) == pytest.approx(4 / 3**0.75)


def test_effective_rank_from_the_kernel_is_that_of_the_features():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(7, "tanh", dtype="float64"),
            keras.layers.Dense(2, dtype="float64"),
        ]
    )
    x = np.random.default_rng(0).normal(size=(20, 5))
    with tf.GradientTape() as tape:
        y = model(x)
    jacobians = tape.jacobian(y, [v.value for v in model.trainable_variables])
    features = np.concatenate([np.reshape(j, [40, -1]) for j in jacobians], 1)
    # The rank is below 40: zero eigenvalues are rounding, sqrt(1e-16) of the largest at most.
    assert empirical.feature_effective_rank(model, x) == pytest.approx(
        empirical.effective_rank(features), rel=float32.summed
    )


@pytest.mark.parametrize("matrix", [np.zeros([2, 2]), np.ones(3), np.full([2, 2], np.nan)])
def test_effective_rank_refuses_what_has_none(matrix):
    with pytest.raises(ValueError, match="matrix must"):
        empirical.effective_rank(matrix)


def test_effective_rank_takes_integers_and_refuses_half_precision():
    assert empirical.effective_rank([[1, 0], [0, 1]]) == pytest.approx(2)
    with pytest.raises(TypeError, match="float16"):
        empirical.effective_rank(np.eye(2, dtype="float16"))


def test_a_gram_matrix_must_be_symmetric():
    with pytest.raises(ValueError, match="symmetric"):
        empirical.effective_rank(np.array([[1.0, 2.0], [0.0, 1.0]]), gram=True)
