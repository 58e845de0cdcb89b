"""Any depth and any variance end in a verdict or in one sentence, without a warning."""

import itertools
import math
import warnings

import numpy as np
import pytest

from mfcnn import activations, meanfield
from mfcnn.meanfield import _trainability

NAMES = [name for name in activations.NAMES if name != "sign"]  # chi_1 of sign is infinite
# Dead, ordered, on relu's and tanh's critical points, chaotic.
POINTS = [(0.0, 0.0), (1e-300, 0.0), (0.5, 0.0), (1.0, 0.0), (2.0, 0.0), (1.05, 2e-5), (3.0, 1.0)]
INPUTS = [None, 1e-300, 1.0, 1e300]
DEEP = [1, 2, 3000, 10**5]  # the last one beyond the layers that are passed through one by one
CASES = [
    *itertools.product(("circular", "same"), POINTS, INPUTS, DEEP),
    *itertools.product(("valid",), POINTS, INPUTS, (1, 3)),
]


def said(name, case):
    """The verdict or the one sentence of an error."""
    padding, point, inputs, depth = case
    try:
        verdict = meanfield.trainability(
            name,
            *point,
            depth,
            "gs2",
            size=7 if padding == "valid" else 2,
            padding=padding,
            input_variance=inputs,
        )
    except ValueError as error:
        words = str(error)
        assert "Traceback" not in words and "nan" not in words and len(words) < 250, words
        assert "float64" in words, words
        return words
    words = str(verdict)
    assert ("should train" in words) != ("will not train" in words), words
    assert "nan" not in words.replace("nances", ""), words
    assert not math.isnan(verdict.log10_gradient_ratio)
    assert not math.isnan(verdict.log10_output_variance)
    return words


@pytest.fixture
def few_layers(monkeypatch):
    """Deeper networks than these are extended from the last of them."""
    monkeypatch.setattr(_trainability, "_MOST_LAYERS", 400)


@pytest.mark.parametrize("number", range(0, len(NAMES), 2))
def test_activations_have_a_verdict_or_a_sentence(number, few_layers):
    # Every other one in a case of its own; more in the slow test.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said(NAMES[number], CASES[(number * 37) % len(CASES)])


@pytest.mark.slow  # 34 activations in many cases each
@pytest.mark.parametrize("name", NAMES)
def test_every_activation_has_a_verdict_or_a_sentence(name, few_layers):
    # Each in a sixteenth of the cases, another one for each.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for case in CASES[NAMES.index(name) % 16 :: 16]:
            said(name, case)


@pytest.mark.parametrize("depth", [3000, 10**4])
def test_signals_that_die_at_the_border_are_counted_in_logarithms(depth, monkeypatch):
    monkeypatch.setattr(_trainability, "_MOST_LAYERS", 4000)
    # relu at (2, 0) halves nothing but the border: A_v keeps ((1 + 2 / 4) / 2)^2 = 9/16 of the one
    # mode of 2 x 2 equal positions for the profile (1, 2, 1) / 4 in each direction.
    verdict = meanfield.trainability(
        "relu", 2.0, 0.0, depth, "orthogonal", size=2, padding="same", input_variance=1.0
    )
    assert not verdict.trainable and verdict.output_variance == 0
    expected = np.log10(2.0) + depth * np.log10(9 / 16)
    assert abs(verdict.log10_output_variance / expected - 1) < 1e-9
    # Signals and gradients lose alike: so do the weights of all layers.
    assert abs(verdict.log10_gradient_ratio) < 1e-6
    assert verdict.jacobian_mean == 0


def test_layers_beyond_those_passed_through_go_on_as_they_do(monkeypatch):
    monkeypatch.setattr(_trainability, "_MOST_LAYERS", 2000)
    # tanh at (1, 0): q -> q - 2 q^2, so q = 1 / (2 l), as do the squared singular values' means.
    shallow, deep = (
        meanfield.trainability("tanh", 1.0, 0.0, depth, input_variance=1.0)
        for depth in (2000, 20_000)
    )
    for name in ("output_variance", "jacobian_mean"):
        np.testing.assert_allclose(getattr(shallow, name) / getattr(deep, name), 10, rtol=1e-2)
    np.testing.assert_allclose(shallow.output_variance, 1 / 4000, rtol=1e-2)
    assert abs(deep.log10_gradient_ratio - shallow.log10_gradient_ratio) < 1e-2
    # relu at (1.5, 0): 3 / 4 a layer, forward and backward.
    verdict = meanfield.trainability("relu", 1.5, 0.0, 10**4, input_variance=1.0)
    assert abs(verdict.log10_gradient_ratio) < 1e-6
    np.testing.assert_allclose(
        verdict.log10_output_variance, np.log10(1.5) + (10**4 - 1) * np.log10(0.75), rtol=1e-9
    )


# (activation, weight variance, bias variance, profile, padding): critical with an input far from
# its fixed point, near it, both phases, growth and decay without end.
BEYOND = {
    "critical": ("tanh", *meanfield.critical_point("tanh", 1e-4), "delta", "same"),
    "critical torus": ("tanh", *meanfield.critical_point("tanh", 1e-4), "uniform", "circular"),
    "no fixed point but 0": ("tanh", 1.0, 0.0, "delta", "circular"),
    "nearly critical": ("tanh", 1.002, 0.0, "delta", "same"),
    "ordered": ("tanh", 1.5, 0.05, "delta", "same"),
    "chaotic": ("erf", 2.5, 0.05, "uniform", "circular"),
    "growth": ("relu", 2.001, 0.0, "delta", "same"),
    "decay": ("relu", 1.99, 0.1, "uniform", "circular"),
    "smooth": ("gelu", 1.9, 0.0, "delta", "circular"),
}


@pytest.mark.parametrize("name", BEYOND)
def test_leaps_give_what_every_layer_by_itself_gives(name, monkeypatch):
    activation, weight_variance, bias_variance, profile, padding = BEYOND[name]
    inputs = np.linspace(0.1, 2.0, 16).reshape(4, 4)

    def verdict(most):
        monkeypatch.setattr(_trainability, "_MOST_LAYERS", most)
        return meanfield.trainability(
            activation,
            weight_variance,
            bias_variance,
            6000,
            profile,
            orthogonal=profile == "delta",
            size=4,
            padding=padding,
            input_variance=inputs,
            width=64,
        )

    leaps, layers = verdict(400), verdict(6000)
    # A leap's error is (1 / 200)^2 / 12 of the change of a logarithm, which is at most 1e4 here.
    for field in ("log10_gradient_ratio", "log10_output_variance"):
        ours, exact = getattr(leaps, field), getattr(layers, field)
        np.testing.assert_allclose(ours, exact, rtol=2e-6, atol=2e-4, err_msg=field)
    for field in ("jacobian_mean", "log_spread", "width_deviation"):
        ours, exact = getattr(leaps, field), getattr(layers, field)
        np.testing.assert_allclose(ours, exact, rtol=2e-3, err_msg=field)
    # Quantiles of a law that stands on six variances.
    for field in ("s_min", "s_max"):
        ours, exact = np.log([np.clip(getattr(v, field), 1e-300, 1e300) for v in (leaps, layers)])
        assert abs(ours - exact) < 0.05 + 1e-3 * abs(exact), field


def test_a_million_layers_are_a_thousand_on_another_scale():
    # tanh with q_star = 1 / depth: q goes like 1 / depth, and so does the mean of s^2.
    shallow, deep = (
        meanfield.trainability(
            "tanh",
            *meanfield.critical_point("tanh", 1 / depth),
            depth,
            "delta",
            orthogonal=True,
            size=2,
            padding="same",
            input_variance=np.array([[0.1, 0.2], [0.3, 0.4]]),
            width=4,
        )
        for depth in (10**4, 10**6)
    )
    for field in ("output_variance", "jacobian_mean"):
        ratio = getattr(shallow, field) / getattr(deep, field)
        np.testing.assert_allclose(ratio, 100, rtol=5e-3, err_msg=field)
    np.testing.assert_allclose(shallow.log_spread, deep.log_spread, rtol=5e-3)
    for field in ("s_min", "s_max"):  # quantiles of a law that stands on six variances
        ratio = getattr(shallow, field) / getattr(deep, field)
        np.testing.assert_allclose(ratio, 10, rtol=0.25, err_msg=field)


def test_saturated_inputs_meet_the_powers_of_their_moments():
    # E[tanh^2] -> 1 and E[tanh'^2] -> (4 / 3) / sqrt(2 pi q): from q = 1e300 in one layer to 1.
    point = meanfield.critical_point("tanh", 0.1)
    verdict = meanfield.trainability("tanh", *point, 2, input_variance=1e300)
    np.testing.assert_allclose(verdict.output_variance, sum(point), rtol=1e-6)
    slope = 4 / 3 / np.sqrt(2 * np.pi * point[0] * 1e300) * point[0]
    second = float(point[0] * activations.get("tanh").derivative_second_moment(sum(point)))
    np.testing.assert_allclose(verdict.jacobian_mean, slope * second, rtol=1e-6)
    # Layer 1 sees the input of 1e300, layer 2 the saturated signal of 1.
    np.testing.assert_allclose(verdict.log10_gradient_ratio, np.log10(slope) + 300, atol=1e-6)
