"""Predicted gradient variances against random networks and the fixed point."""

import numpy as np
import pytest
import tensorflow as tf

from mfcnn import meanfield
from tests.tolerances import float64


def test_deep_layers_grow_by_chi_1():
    for weight_variance in (1.0, 4.25):
        chi_1 = meanfield.fixed_point("tanh", weight_variance, 0.05).chi_1
        norms = meanfield.log_gradient_norms(
            "tanh", weight_variance, 0.05, 100, 1.0, np.full(3, 1 / 3), 10
        )
        np.testing.assert_allclose(norms[40] - norms[80], 40 * np.log(chi_1), rtol=1e-6)


def test_linear_networks_are_exact():
    # phi(x) = x: D^l = w^(L - l), K^(l-1) = variance of layer l - 1, all by hand.
    w, b, depth, inputs = 0.9, 0.3, 6, 2.0
    norms = meanfield.log_gradient_norms("linear", w, b, depth, inputs, [0.2, 0.8], 5)
    variance, expected = inputs, []
    for layer in range(1, depth + 1):
        expected.append(w ** (depth - layer) * variance)
        variance = w * variance + b
    np.testing.assert_allclose(np.exp(norms - norms[-1]), np.array(expected) / expected[-1])


@pytest.mark.parametrize("profile", [[0.2, 0.5, 0.3], [[0.1, 0.2], [0.3, 0.4]]])
def test_random_networks_have_the_predicted_gradients(profile):
    # Uneven input variances, uneven profile, explicit weights and automatic differentiation.
    profile = np.array(profile)
    size = (6,) if profile.ndim == 1 else (3, 2)
    channels, draws, depth, w, b = 150, 60, 4, 2.0, 0.1
    rng = np.random.default_rng(1)
    inputs = rng.uniform(0.2, 3.0, size)
    axes = list(range(profile.ndim))

    def network(x, weights, biases):
        for layer, (kernel, bias) in enumerate(zip(weights, biases)):
            x = tf.tanh(x) if layer else x
            total = bias
            for index in np.ndindex(*profile.shape):
                shift = [-(i - (k - 1) // 2) for i, k in zip(index, profile.shape)]
                total = total + tf.tensordot(tf.roll(x, shift, axes), kernel[index], 1)
            x = total
        return x

    found = []
    for _ in range(draws):
        x = np.sqrt(inputs)[..., None] * rng.standard_normal((*size, channels))
        scale = np.sqrt(w * profile / channels)[..., None, None]
        weights = [
            tf.constant(scale * rng.standard_normal((*profile.shape, channels, channels)))
            for _ in range(depth)
        ]
        biases = [tf.constant(np.sqrt(b) * rng.standard_normal(channels)) for _ in range(depth)]
        g = tf.constant(rng.standard_normal((*size, channels)))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_sum(g * network(tf.constant(x), weights, biases))
        found.append([float(tf.reduce_sum(d**2)) for d in tape.gradient(loss, weights)])
    found = np.array(found) / channels**2
    expected = np.exp(meanfield.log_gradient_norms("tanh", w, b, depth, inputs, profile, size))
    error = found.std(axis=0, ddof=1) / np.sqrt(draws)
    # Absolute values, for |d h / d W|^2 / (c_in c_out); 4 standard errors and 1 / c.
    assert np.all(np.abs(found.mean(axis=0) - expected) < 4 * error + 3 / channels * expected)


def test_depth_does_not_overflow():
    # |dW^l|^2 ~ (w/2)^(L-1) for every l, 1e400 in all; the forward variance stays below 1e50.
    norms = meanfield.log_gradient_norms("tanh", 30.0, 0.0, 2000, 1.0, [1.0], 1)
    assert np.all(np.isfinite(norms)) and norms[0] - norms[-1] > 800
    norms = meanfield.log_gradient_norms("relu", 2.1, 0.0, 2000, 1.0, [1.0], 1)
    np.testing.assert_allclose(norms, norms[0], rtol=float64.solved)
    # relu: every layer halves both passes, or takes them by 3 / 2; to 1e352 and 1e-602.
    for weight_variance in (3.0, 1.0):
        norms = meanfield.log_gradient_norms("relu", weight_variance, 0.0, 2000, 1.0, [1.0], 1)
        expected = 1999 * np.log(weight_variance / 2)
        np.testing.assert_allclose(norms, expected, rtol=float64.solved)
    with pytest.raises(
        ValueError, match="their variance leaves the range of float64 by layer 2 of 20"
    ):
        meanfield.log_gradient_norms("exp", 1.0, 0.0, 20, 1e3, [1.0], 1)
