"""Monte Carlo where there is no closed form: what is drawn, how often, and what its mean is."""

from collections import Counter

import keras
import numpy as np
import pytest

from mfcnn import kernels
from mfcnn.kernels._models import operations, pairs, sampled
from tests.kernels.layer_networks import two_inputs
from tests.kernels.test_every_layer import deviation
from tests.kernels.test_wide_networks import SIGNIFICANT, convolution, dense, sequential, weights

L = keras.layers


def pooled(n, pooling):
    first = L.Conv1D(n, 2, activation="relu", **weights())
    second = L.Conv1D(n, 2, activation="tanh", **weights())
    return sequential([6, 2], first, pooling(), second, L.Flatten(), dense())


def test_a_maximum_over_one_position_is_the_position():
    """A maximum of one by Monte Carlo against the closed form, in standard errors of the draws."""
    x = two_inputs((6, 2))
    exact = kernels.from_keras(pooled(8, L.Identity))(x)
    estimate = kernels.from_keras(pooled(8, lambda: L.MaxPooling1D(1)), sampled=500, seed=1)(x)
    for value, error, wanted in zip(estimate[:2], estimate[2:], exact):
        assert np.all(error > 0)
        # Student's t with 7 degrees of freedom; 6 entries in all, at a joint level of 1 %.
        assert np.all(np.abs(value - wanted) < 4.6 * error)


def test_draws_have_a_seed():
    x = two_inputs((6, 2))
    one, again, other = (
        kernels.from_keras(pooled(8, lambda: L.MaxPooling1D(2)), sampled=50, seed=s)(x, get="ntk")
        for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)


def test_axes_in_front_are_kept_by_kernels_in_several_blocks(monkeypatch):
    """Outputs, and the draws of a sampled kernel, of which only the blocks' means may differ."""
    x = two_inputs((6, 2))[[0, 1, 0]] * np.array([1.0, 1.0, 2.0])[:, None, None]
    inputs = keras.Input([6, 2])
    h = L.Conv1D(8, 2, activation="relu", **weights())(inputs)
    outputs = dense()(L.Flatten()(h)), dense()(L.GlobalAveragePooling1D()(h))
    both = kernels.from_keras(keras.Model(inputs, outputs))
    sampled = kernels.from_keras(pooled(8, lambda: L.MaxPooling1D(2)), sampled=200)
    whole = both(x), both(x, x[:2]), sampled(x)
    monkeypatch.setattr("mfcnn.kernels._models.model_kernel._BLOCK", 1)  # a pair at a time
    parts = both(x), both(x, x[:2]), sampled(x)
    for one, other in zip(whole[:2], parts[:2]):
        np.testing.assert_allclose(one.ntk, other.ntk, rtol=1e-12)
    errors = np.hypot(whole[2].ntk_error, parts[2].ntk_error)
    assert np.all(np.abs(whole[2].ntk - parts[2].ntk) < 6 * errors)  # of few draws


def test_a_draw_computes_what_is_drawn_once_and_nothing_that_no_draw_reads(monkeypatch):
    """Three blocks with filters of single channels, whose wide layers' activations are drawn."""
    computed = []
    own = pairs.Evaluation.own

    def counting(self, node):
        if node not in self._own:
            computed.append(node)
        return own(self, node)

    monkeypatch.setattr(pairs.Evaluation, "own", counting)
    inputs = keras.Input([6, 4, 2])
    x = L.Conv2D(4, 3, padding="same", **weights())(inputs)
    for _ in range(3):
        y = L.ReLU(6.0)(L.Conv2D(8, 1, **weights())(x))
        y = L.DepthwiseConv2D(3, padding="same", depthwise_initializer="he_normal")(y)
        x = L.Add()([x, L.Conv2D(4, 1, **weights())(L.ReLU(6.0)(y))])
    model = keras.Model(inputs, dense()(L.Flatten()(x)))
    kernel = kernels.from_keras(model, sampled=30)
    x = two_inputs((6, 4, 2))
    result = kernel(x[[0, 1, 0]])  # equal inputs are drawn together
    for name in ("nngp", "ntk"):
        value = getattr(result, name).numpy()
        np.testing.assert_array_equal(value[[0, 1]][:, [0, 1]], value[[2, 1]][:, [2, 1]])
    assert not any(isinstance(node, operations.Elementwise) for node in computed)
    times = Counter(computed)
    drawn = [node for node in times if isinstance(node, sampled.Activated)]
    assert len(drawn) == 3 and all(times[node] == 8 for node in drawn)
    assert min(times.values()) == 1 and max(times.values()) == 8


@pytest.mark.slow  # Monte Carlo over finite networks takes minutes
@pytest.mark.parametrize("pooling", ["max", "global", "filters", "two activations"])
def test_sampled_kernels_are_the_means_of_finite_networks(pooling):
    keras.utils.set_random_seed(0)
    by_channel = keras.initializers.RandomNormal(stddev=0.7)

    def make(n):
        inputs = keras.Input([5, 4, 2])
        x = convolution(n, activation="relu")(inputs)
        if pooling == "max":
            x = L.MaxPooling2D(2)(x)
        elif pooling == "global":
            return keras.Model(inputs, dense()(L.GlobalMaxPooling2D()(x)))
        elif pooling == "filters":
            x = L.DepthwiseConv2D(2, depthwise_initializer=by_channel, activation="relu")(x)
        else:
            x = L.Activation("tanh")(L.AveragePooling2D(2)(x))
        return keras.Model(inputs, dense()(L.Flatten()(convolution(n, activation="relu")(x))))

    x = two_inputs((5, 4, 2))
    result = kernels.from_keras(make(32), sampled=6000)(x)
    errors = [np.max(e / v) for e, v in zip(result[2:], result[:2])]
    assert max(errors) < 0.01  # a fifth of the errors of the networks: they alone are counted
    for probability, _ in deviation(make, [result[:2]] * 2, x):
        assert probability > SIGNIFICANT
