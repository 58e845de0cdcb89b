"""The mean kernel over initializations against the analytic kernels, in standard errors."""

import random

import keras
import numpy as np
import pytest

from mfcnn import empirical, kernels, layers, models


def _wide(width):
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.NTKDense(width, "erf", 1.5, 0.1),
            layers.NTKDense(width, "erf", 1.5, 0.1),
            layers.NTKDense(1, None, 1.5, 0.1),
        ]
    )


def test_the_mean_is_the_kernel_of_infinite_width():
    """Three standard errors of the four entries (one in 93 fails by chance), and 1 / width."""
    width, x = 128, np.random.default_rng(0).normal(size=(2, 4)) * 1.2
    found = empirical.monte_carlo_kernel(_wide(width), x, draws=60, seed=1)
    exact = kernels.fully_connected(2, "erf", 1.5, 0.1)(x)
    for name in ("nngp", "ntk"):
        estimate, value = getattr(found, name), np.array(getattr(exact, name))
        assert np.all(np.abs(estimate.mean - value) < 3 * estimate.error + value.max() / width)
        assert np.all(estimate.error < 0.3 * value.max())


def test_draws_differ_and_the_seed_decides():
    model = models.vanilla_cnn((4, 4, 1), 2, 4, 2, seed=3)
    before, state = model.get_weights(), random.getstate()
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 1))
    first = empirical.monte_carlo_kernel(model, x, get="ntk", draws=3, seed=1)
    again = empirical.monte_carlo_kernel(model, x, get="ntk", draws=3, seed=1)
    other = empirical.monte_carlo_kernel(model, x, get="ntk", draws=3, seed=2)
    np.testing.assert_array_equal(first.mean, again.mean)
    assert np.all(first.error > 0) and np.all(first.mean != other.mean)
    assert random.getstate() == state
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_what_is_not_random_or_not_known_is_refused():
    constant = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")]
    )
    with pytest.raises(ValueError, match="random initial weights"):
        empirical.monte_carlo_kernel(constant, np.eye(2), draws=2)
    with pytest.raises(ValueError, match="get must be"):
        empirical.monte_carlo_kernel(constant, np.eye(2), get="nngps")
    with pytest.raises(ValueError, match="draws must be"):
        empirical.monte_carlo_kernel(constant, np.eye(2), draws=1)


def test_the_nngp_of_one_network_is_the_product_of_its_outputs():
    model, x = _wide(8), np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    y = model(x).numpy()
    np.testing.assert_allclose(empirical.nngp(model, x), y @ y.T, rtol=1e-5)
    np.testing.assert_allclose(empirical.nngp(model, x, x[:1]), y @ y[:1].T, rtol=1e-5)
