"""Batched statistics of the kernel at initialization."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from mfcnn import empirical, kernels, layers


@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
@pytest.mark.parametrize(("activation", "depth"), [("tanh", 1), ("tanh", 3), ("relu", 4)])
def test_samples_are_distributed_as_the_kernels_of_keras_models(
    activation, depth, parameterization
):
    """Of width 5, where nothing is asymptotic: Kolmogorov and Smirnov's test on 3,000 and 600.

    Six tests at 0.0005 each: a right sampler fails in one of 330 choices of its seed.
    """
    width, size, variances = 5, 4, (1.7, 0.3)
    ntk = parameterization == "ntk"
    samples = empirical.ntk_samples(
        activation, width, [depth], *variances, 3000, size, parameterization, seed=depth
    )
    rng, theta = np.random.default_rng(depth), []
    make = functools.partial(layers.NTKDense, weight_variance=variances[0])
    make = functools.partial(make, bias_variance=variances[1]) if ntk else keras.layers.Dense
    model = keras.Sequential(
        [
            keras.Input((size,)),
            *(make(width, activation=activation, dtype="float64") for _ in range(depth)),
            make(1, activation=None, dtype="float64"),
        ]
    )
    for _ in range(600):
        drawn = [rng.normal(size=w.shape) for w in model.weights]
        if not ntk:
            for i, w in enumerate(drawn):
                drawn[i] = w * np.sqrt(variances[0] / w.shape[0] if w.ndim == 2 else variances[1])
        model.set_weights(drawn)
        theta.append(gradient_squares(model, tf.ones([1, size], tf.float64)))
    assert stats.ks_2samp(samples[0], theta).pvalue > 0.0005


@tf.function
def gradient_squares(model, x):
    with tf.GradientTape() as tape:
        y = model(x)[0, 0]
    gradients = tape.gradient(y, [w.value for w in model.trainable_weights])
    return tf.add_n([tf.reduce_sum(g * g) for g in gradients])


def test_the_depths_that_are_asked_for_are_those_of_all():
    all_depths = empirical.ntk_samples("tanh", 6, 4, 1.5, 0.2, 5)
    few = empirical.ntk_samples("tanh", 6, [4, 2], 1.5, 0.2, 5)
    np.testing.assert_array_equal(few, all_depths[[3, 1]])


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
