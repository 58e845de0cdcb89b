"""The vanilla CNN: its shapes, its start on the critical line, its refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import activations, meanfield, profiles
from mfcnn.activations import Activation
from mfcnn.models import initial_variances, vanilla_cnn


def test_the_stem_takes_a_quarter_of_the_sides_and_the_block_keeps_them():
    model = vanilla_cnn((28, 28, 1), depth=4, filters=8, classes=10, seed=0)
    assert model.get_layer("deep").output.shape == (None, 7, 7, 8)
    assert model.output_shape == (None, 10)


def test_the_start_is_critical_at_one_over_depth():
    weight_variance, bias_variance, q_star = initial_variances("tanh", 50)
    fixed_point = meanfield.fixed_point("tanh", weight_variance, bias_variance)
    assert q_star == 1 / 50
    assert fixed_point.q_star == pytest.approx(1 / 50, rel=1e-6)
    assert fixed_point.chi_1 == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("initialization", ["delta_orthogonal", "orthogonal", "gaussian"])
def test_kernels_have_the_critical_variance(initialization):
    filters = 32
    model = vanilla_cnn((8, 8, 1), 20, filters, 10, initialization=initialization, seed=3)
    kernel = np.asarray(model.get_layer("deep").kernel)
    weight_variance, _, _ = initial_variances("tanh", 20)
    # The sum over taps and inputs of the squares, for each of 20 x 32 outputs, has mean
    # sigma_w^2: exactly for orthogonal columns, and with relative deviation
    # sqrt(2 / (9 * 32)) for Gaussian ones, so 5 standard errors of the mean of 640 of them.
    found = np.mean(np.sum(kernel**2, axis=(1, 2, 3)))
    tolerance = 5 * np.sqrt(2 / (9 * filters) / 640) if initialization == "gaussian" else 1e-5
    assert found == pytest.approx(weight_variance, rel=tolerance)


def test_the_signal_leaves_the_stack_with_the_variance_of_the_fixed_point():
    # Biased start: the fixed point attracts, and 60 layers are enough for it to be reached.
    start = {"initialization": "gaussian", "weight_variance": 1.5, "bias_variance": 0.1}
    model = vanilla_cnn((8, 8, 1), 60, 256, 10, **start, seed=0)
    deep = keras.Model(model.input, model.get_layer("deep").output)
    features = deep(np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype("float32"))
    fixed_point = meanfield.fixed_point("tanh", 1.5, 0.1)
    mean_squares = np.mean(np.arctanh(np.asarray(features, "float64")) ** 2, axis=(0, 1, 2))
    # Pre-activations of the 256 channels are nearly independent of one another but not over
    # inputs and positions; the bias and the finite width of earlier layers correlate them
    # weakly, which 6 standard errors cover.
    error = mean_squares.std() / np.sqrt(len(mean_squares))
    assert abs(mean_squares.mean() - fixed_point.q_star) < 6 * error


def test_the_same_seed_gives_the_same_network():
    first, second, other = (
        vanilla_cnn((8, 8, 1), 3, 4, 10, seed=seed).get_weights() for seed in (5, 5, 6)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    assert not np.array_equal(first[0], other[0])


def test_the_readout_gets_features_of_unit_scale():
    assert vanilla_cnn((8, 8, 1), 25, 4, 10).get_layer("readout_scale").scale == pytest.approx(5)
    relu = vanilla_cnn((8, 8, 1), 25, 4, 10, activation="relu")
    assert relu.get_layer("readout_scale").scale == 1


def test_the_deep_block_gets_its_input_scaled():
    plain, scaled = (
        vanilla_cnn((8, 8, 1), 25, 4, 10, seed=0, input_scale=scale) for scale in (None, 0.2)
    )
    x = np.random.default_rng(0).normal(size=[3, 8, 8, 1]).astype("float32")
    stem = keras.Model(plain.inputs, plain.get_layer("deep").input)(x)
    entering = keras.Model(scaled.inputs, scaled.get_layer("deep").input)(x)
    np.testing.assert_allclose(entering, 0.2 * stem, rtol=1e-6)


# Keras knows the first; the others are saved as functions of ours.
@pytest.mark.parametrize("activation", ["tanh", "erf", "gaussian"])
def test_a_saved_model_gives_the_same_logits(activation, tmp_path):
    variances = {"weight_variance": 1.5, "bias_variance": 0.1}
    model = vanilla_cnn((8, 8, 1), 2, 4, 10, activation, seed=0, **variances)
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype("float32")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(x), model(x))
    assert activations.get(loaded.get_layer("stem_1").activation).name == activation


def test_an_activation_that_borrows_a_name_keeps_its_function():
    halved = Activation(lambda x: tf.tanh(x) / 2, lambda x: (1 - tf.tanh(x) ** 2) / 2, "tanh")
    model = vanilla_cnn((8, 8, 1), 2, 4, 10, halved, weight_variance=2.0, bias_variance=0.1)
    assert np.max(np.abs(model.get_layer("stem_1")(tf.fill([1, 8, 8, 1], 1e3)))) <= 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth must be.*depth=0"),
        ({"depth": -3}, "depth must be.*depth=-3"),
        ({"filters": 0}, "filters must be.*0"),
        ({"q_star": 0.0}, "q_star must be.* above 0.*0.0"),
        ({"q_star": -1.0}, "q_star must be.* above 0.*-1.0"),
        ({"q_star": [0.1]}, "q_star must be a finite number"),
        ({"strides": 2}, "strides must be a sequence.*2"),
        ({"seed": -1}, "seed must be.*-1"),
        ({"weight_variance": 1.0}, "both weight_variance and bias_variance"),
        ({"weight_variance": -1.0, "bias_variance": 0.0}, "weight_variance"),
        ({"weight_variance": 1.0, "bias_variance": -0.1}, "bias_variance"),
        ({"initialization": "he"}, "initialization must be one of.*'he'"),
        ({"readout": "max"}, "readout must be one of.*'max'"),
        ({"padding": "valid"}, "padding must be one of"),
        ({"variance_profile": "delta"}, "initialization='gaussian'"),
        ({"activation": "thanh"}, "thanh"),
        ({"readout_scale": float("nan")}, "readout_scale must be.*nan"),
        ({"bias_scale": 0}, "bias_scale must be.*0"),
        ({"classes": 2.0}, "classes must be.*2.0"),
        ({"kernel_size": "3"}, "kernel_size must be.*'3'"),
        ({"input_shape": (8, 8)}, "input_shape must be.*8, 8"),
        ({"input_shape": (8, 8, None)}, "input_shape must be.*None"),
        (
            {"input_shape": (None, 8, 1), "strides": (), "filters": 1, "readout": "flatten"},
            "readout='flatten' needs a known",
        ),
        ({"initialization": "gaussian", "variance_profile": "gs7"}, "variance_profile.*gs7"),
    ],
)
def test_bad_arguments_are_named(options, message):
    arguments = {"input_shape": (8, 8, 1), "depth": 3, "filters": 4, "classes": 10, **options}
    with pytest.raises(ValueError, match=message):
        vanilla_cnn(**arguments)


@pytest.mark.parametrize("profile", [*profiles.NAMES, "GS1", np.full((3, 3), 1 / 9)])
def test_gaussian_kernels_take_any_profile(profile):
    model = vanilla_cnn(
        (8, 8, 1), 3, 4, 2, initialization="gaussian", variance_profile=profile, seed=0
    )
    kernel = np.asarray(model.get_layer("deep").kernel)
    zero = profiles.parse(profile, 3, 2) == 0
    assert np.all(kernel[:, zero] == 0) and np.all(kernel[:, ~zero].std(axis=(0, 2, 3)) > 0)


def test_the_deep_blocks_kernels_may_come_from_any_initializer():
    model = vanilla_cnn((8, 8, 1), 3, 4, 2, kernel_initializer="zeros")
    assert not np.any(model.get_layer("deep").kernel)


def test_an_image_of_unknown_size_is_read_out_by_pooling():
    model = vanilla_cnn((None, None, 1), 3, 4, 2, padding="SAME", seed=0)
    known = vanilla_cnn((12, 10, 1), 3, 4, 2, padding="same", seed=0)
    x = np.random.default_rng(0).normal(size=(2, 12, 10, 1)).astype("float32")
    np.testing.assert_allclose(model(x), known(x), atol=1e-6)
