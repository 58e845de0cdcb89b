"""Batched statistics of the kernel at initialization."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import empirical, kernels, layers
from mfcnn.empirical import _statistics as module
from tests.tolerances import float64


@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
def test_a_sample_is_the_kernel_of_a_network_with_the_same_weights(parameterization):
    width, size, variances, seed, which = 7, 4, (1.7, 0.3), 5, 2
    samples = empirical.ntk_samples(
        "tanh", width, 3, *variances, 4, size, parameterization, seed=seed
    )
    draws = lambda layer, kind, shape: module._normal(  # noqa: E731
        tf.constant([seed, 0], tf.int32), layer, kind, [4, *shape]
    ).numpy()[which]
    ntk = parameterization == "ntk"
    for depth in (1, 3):
        model, weights, fan_in = [keras.Input((size,))], [], size
        for layer in range(depth):
            kernel = draws(layer, 0, [width, fan_in]).T
            bias = draws(layer, 1, [width])
            if ntk:
                model.append(layers.NTKDense(width, "tanh", *variances, dtype="float64"))
            else:
                model.append(keras.layers.Dense(width, "tanh", dtype="float64"))
                kernel, bias = kernel * np.sqrt(variances[0] / fan_in), bias * variances[1] ** 0.5
            weights += [kernel, bias]
            fan_in = width
        readout = draws(depth - 1, 2, [width])[:, None]
        if ntk:
            model.append(layers.NTKDense(1, None, *variances, dtype="float64"))
        else:
            model.append(keras.layers.Dense(1, dtype="float64"))
            readout = readout * np.sqrt(variances[0] / width)
        model = keras.Sequential(model)
        model.set_weights([*weights, readout, np.zeros(1)])
        theta = empirical.ntk(model, np.ones([1, size])).numpy()[0, 0]
        np.testing.assert_allclose(samples[depth - 1, which], theta, rtol=float64.summed)


def test_the_mean_is_the_infinite_width_kernel_up_to_one_over_width():
    # 200 networks: four standard errors, and 3 / width for the finite width.
    samples = empirical.ntk_samples("erf", 100, 3, 1.5, 0.1, 200, 10, "ntk")
    exact = kernels.fully_connected(3, "erf", 1.5, 0.1)(np.ones([1, 10]), get="ntk").numpy()[0, 0]
    error = samples[-1].std() / np.sqrt(200)
    assert abs(samples[-1].mean() - exact) < 4 * error + 0.03 * exact


def test_relu_at_2_0_follows_the_law_of_hanin_and_nica():
    """At width 100 the law's next order is about depth (5 / width)^2 / 2 < 2 % at depth 10."""
    moments = empirical.ntk_moments("relu", 100, 10, 2.0, 0.0, 600, seed=1)
    law = empirical.relu_critical_ratio(moments.depth, 100)
    assert np.all(np.abs(moments.ratio - law) < 4 * moments.ratio_error + 0.02 * law)
    exponent, error = empirical.fitted_exponent(moments, 100)
    assert abs(exponent - 5) < 4 * error
    assert error < 1


def test_the_law_tends_to_exponential_growth_with_exponent_5():
    growth = np.log(empirical.relu_critical_ratio([30_000, 31_000], 1000))
    # The other factor falls as 1 / depth.
    assert growth[1] - growth[0] == pytest.approx(5 - np.log(31 / 30), abs=0.02)


def test_the_ratio_stays_near_1_in_the_ordered_phase_and_grows_in_the_chaotic():
    ordered = empirical.ntk_moments("tanh", 40, 30, 0.8, 1.0, 100)
    chaotic = empirical.ntk_moments("relu", 40, 30, 3.0, 1.0, 100)
    assert np.all(ordered.ratio < 1.1)
    assert chaotic.ratio[-1] > 2 > chaotic.ratio[0]


def test_chunks_are_independent_and_seeds_decide():
    draw = functools.partial(empirical.ntk_samples, "tanh", 5, 2, 1.0, 0.1, 8, chunk_size=3)
    samples = draw()
    assert samples.shape == (2, 8)
    assert len(np.unique(samples[0])) == 8
    np.testing.assert_array_equal(samples, draw())
    assert np.all(samples != draw(seed=1))


@pytest.mark.parametrize(
    "change, match",
    [
        ({"width": 0}, "width"),
        ({"weight_variance": -1.0}, "weight_variance"),
        ({"parameterization": "mean_field"}, "parameterization"),
        ({"initializations": 1}, "initializations"),
    ],
)
def test_bad_arguments_are_refused(change, match):
    arguments = {
        "activation": "tanh",
        "width": 4,
        "depth": 2,
        "weight_variance": 1.0,
        "bias_variance": 0.0,
        "initializations": 5,
    }
    with pytest.raises(ValueError, match=match):
        empirical.ntk_moments(**{**arguments, **change})
