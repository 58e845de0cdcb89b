"""The choice of a method counts bytes, and its parts put the same kernel together."""

import keras
import numpy as np
import pytest

from mfcnn import empirical


def _model(outputs=6):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.DepthwiseConv2D(3),
            keras.layers.Flatten(),
            keras.layers.Dense(outputs),
        ]
    )


_X = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize("outputs", empirical.OUTPUTS)
@pytest.mark.parametrize("method", ["structured", "jacobian"])
def test_less_memory_gives_smaller_parts_and_the_same_kernel(method, outputs):
    model = _model()
    whole = empirical.ntk(model, _X, outputs=outputs, method=method).numpy()
    free = empirical.choose_method(model, _X, outputs=outputs, method=method)
    limit = free.bytes[method] / 4
    small = empirical.choose_method(model, _X, None, outputs, method, limit)
    assert small.bytes[method] <= limit
    parts = small.batch_size * small.outputs_at_a_time
    assert parts < free.batch_size * free.outputs_at_a_time
    found = empirical.ntk(model, _X, outputs=outputs, method=method, memory_limit=limit)
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5 * whole.max())


def test_a_limit_that_no_method_keeps_is_refused_with_the_least_that_one_does():
    with pytest.raises(ValueError, match=r"memory_limit must be at least \d+ bytes"):
        empirical.ntk(_model(), _X, memory_limit=1000)


def test_scale_shift_and_depthwise_kernels_are_structured():
    choice = empirical.choose_method(_model(), _X)
    assert choice.explicit_weights == ()


@pytest.mark.parametrize("limit", [2**27, 2**29])
def test_a_recurrent_layer_of_many_weights_is_planned_within_the_memory(limit):
    """Its Jacobian, a row for each example and output, would take ten times as much."""
    layers = [keras.Input((5, 512)), keras.layers.LSTM(1024), keras.layers.Dense(10)]
    model = keras.Sequential(layers)
    x = np.zeros([4, 5, 512], "float32")
    jacobian = 4 * 10 * model.count_params() * 4
    if limit == 2**29:
        choice = empirical.choose_method(model, x, memory_limit=limit)
        assert choice.bytes[choice.method] <= limit < jacobian
    else:
        with pytest.raises(ValueError, match="memory_limit must be at least"):
            empirical.choose_method(model, x, memory_limit=limit / 16)
