"""Tailored activations: their conditions by quadrature, and correlations through all layers."""

import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import activations, meanfield

DEPTHS = (20, 200, 2000)
SMOOTH = [("tanh", "tat"), ("softplus", "tat"), ("swish", "dks")]


tailored = functools.cache(activations.tailored)


def gap_behind(activation, gap, depth):
    """1 - C_f(1 - gap) by the dual maps, layer by layer in one loop."""
    maps = activation.dual(1.0, 1.0)
    one = tf.ones([], tf.float64)
    side = maps.side(one)

    @tf.function(autograph=False)
    def run(gap):
        return tf.while_loop(
            lambda k, _: k < depth,
            lambda k, g: (k + 1, maps.pair(side, side, g)[0]),
            (tf.constant(0), gap),
        )[1]

    return float(run(tf.constant(gap, tf.float64)))


@pytest.mark.parametrize("depth", DEPTHS)
def test_leaky_relu_keeps_the_correlation_asked_for(depth):
    activation = activations.tailored("leaky_relu", depth, eta=0.9)
    slopes = np.asarray(activation.phi(tf.constant([-1.0, 1.0], tf.float64))) * [-1, 1]
    assert np.mean(slopes**2) == pytest.approx(1, rel=1e-14)  # Q(q) = q
    # Cho and Saul's map, written out.
    even = np.square(np.subtract(*slopes)) / 4
    c = 0.0
    for _ in range(depth):
        c += even * 2 / math.pi * (math.sqrt(1 - c * c) - c * math.acos(c))
    assert c == pytest.approx(0.9, abs=1e-9)
    assert meanfield.fixed_point(activation, 1.0, 0.0).chi_1 == pytest.approx(1, rel=1e-12)


def test_relu_itself_is_gentle_enough_for_few_layers():
    assert activations.tailored("relu", 2).name == f"abrelu(a=0.0, b={2**0.5!r})"


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("name", "method"), SMOOTH)
def test_smooth_forms_meet_their_conditions(name, method, depth):
    activation = tailored(name, depth, method, tau=0.3, zeta=1.5)
    z = np.linspace(-12, 12, 4801)
    weights = np.exp(-z * z / 2) * (z[1] - z[0]) / np.sqrt(2 * np.pi)
    x = tf.constant(z)
    with tf.GradientTape() as tape:
        tape.watch(x)
        phi_prime = activation.phi_prime(x)
    bend = tape.gradient(phi_prime, x).numpy()
    phi, slope = activation.phi(x).numpy(), phi_prime.numpy()
    assert weights @ phi**2 == pytest.approx(1, abs=1e-10)  # Q(1)
    assert weights @ (z * phi * slope) == pytest.approx(1, abs=1e-9)  # Q'(1)
    chi_1 = weights @ slope**2  # C'(1)
    if method == "tat":
        assert chi_1 == pytest.approx(1, abs=1e-10)
        assert weights @ bend**2 == pytest.approx(0.3 / depth, rel=1e-8)  # C''(1)
    else:
        assert weights @ phi == pytest.approx(0, abs=1e-10)  # C(0)
        assert chi_1**depth == pytest.approx(1.5, rel=1e-7)
    assert activation.second_moment(1.0) == pytest.approx(1, abs=1e-10)
    assert activation.derivative_second_moment(1.0) == pytest.approx(chi_1, rel=1e-10)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("name", "method"), SMOOTH)
def test_correlations_stay_where_they_should_through_all_layers(name, method, depth):
    activation = tailored(name, depth, method, tau=0.3, zeta=1.5)
    # The tables are right to 1e-11 of the gap in each layer.
    if method == "dks":
        assert gap_behind(activation, 1.0, depth) == pytest.approx(1, abs=1e-7)  # C_f(0) = 0
        gap = 1e-3  # gap_L = zeta gap - C_f''(1) gap^2 / 2, C_f'' a few
        assert gap_behind(activation, gap, depth) / gap == pytest.approx(1.5, rel=5e-3)
    else:
        gap = 1e-2  # C_f(1 - g) = 1 - g + tau g^2 / 2 + O(g^3)
        change = (gap - gap_behind(activation, gap, depth)) / gap**2
        assert change == pytest.approx(0.15, rel=3e-2)
        assert 0.5 < gap_behind(activation, 1.0, depth) < 1  # C_f(0)


def test_it_is_a_keras_activation_that_is_saved(tmp_path):
    activation = activations.tailored("tanh", 20)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation=activation)])
    model.save(tmp_path / "model.keras")
    x = np.ones((2, 3), "float32")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(x), model(x), rtol=1e-6)
    assert again.layers[0].activation is activation  # one object for one name


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="depth must be an integer of at least 1"):
        activations.tailored("tanh", 0)
    with pytest.raises(ValueError, match="eta must be .*below 1"):
        activations.tailored("leaky_relu", 10, eta=1.0)
    with pytest.raises(ValueError, match="method of leaky_relu must be one of None, 'tat'"):
        activations.tailored("leaky_relu", 10, "dks")
    with pytest.raises(ValueError, match="name must be leaky_relu or a smooth form"):
        activations.tailored("hard_tanh", 10)
