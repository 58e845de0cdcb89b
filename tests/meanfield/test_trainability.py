"""The verdict before training."""

import numpy as np
import pytest

from mfcnn import activations, meanfield


def test_ordered_networks_are_refused_beyond_six_depth_scales():
    verdict = meanfield.trainability("tanh", 1.0, 0.05, 100)
    point = meanfield.fixed_point("tanh", 1.0, 0.05)
    assert not verdict.trainable and verdict.phase == "ordered"
    assert verdict.xi_c == point.xi_c and verdict.max_depth == 6 * point.xi_c
    np.testing.assert_allclose(verdict.gradient_ratio, point.chi_1**99, rtol=1e-8)
    np.testing.assert_allclose(verdict.jacobian_mean, point.chi_1**100, rtol=1e-8)
    assert "will not train" in str(verdict) and "vanish" in str(verdict)
    shallow = meanfield.trainability("tanh", 1.0, 0.05, 20)
    assert shallow.trainable and "20 are within: this should train" in str(shallow)


def test_critical_delta_orthogonal_networks_train_at_any_depth():
    point = meanfield.critical_point("tanh", 1e-4)
    verdict = meanfield.trainability("tanh", *point, 10_000, "delta", orthogonal=True, size=8)
    assert verdict.trainable and abs(verdict.gradient_ratio - 1) < 1e-6
    assert (verdict.surviving_modes, verdict.modes) == (64, 64)
    # 4-th moments of sech^2: relative variance 8 q^2 per layer, so 10^4 * 8e-8.
    np.testing.assert_allclose(verdict.log_spread, 0.5 * np.sqrt(8e-4), rtol=2e-3)
    assert "xi_c infinite" in str(verdict) and "10000 layers should train" in str(verdict)
    uniform = meanfield.trainability("tanh", *point, 1000, size=8)
    # Gaussian: Fuss-Catalan's spread, sqrt(L^2 + L pi^2 / 3) / 2, and one mode of 64.
    assert uniform.surviving_modes == 1
    np.testing.assert_allclose(uniform.log_spread, 500.8, rtol=1e-3)


def test_the_authors_values_are_called_what_they_are():
    verdict = meanfield.trainability("tanh", 1.05, 2.01e-5, 10_000, "delta", orthogonal=True)
    assert verdict.trainable and abs(verdict.chi_1 - 1) < 1e-6
    assert "as good as critical at this depth (chi_1 - 1 = 1.9" in str(verdict)


def test_zeros_at_the_border_limit_the_depth_of_spread_kernels():
    # 7 x 7 positions, nearly linear: each layer keeps ((1 + cos(pi / 8)) / 2)^2 of a mode at most.
    point = meanfield.critical_point("tanh", 1e-6)
    rate = ((1 + np.cos(np.pi / 8)) / 2) ** 2
    for depth, trains in ((70, True), (90, False)):
        verdict = meanfield.trainability(
            "tanh", *point, depth, "orthogonal", orthogonal=True, size=7, padding="same"
        )
        np.testing.assert_allclose(verdict.max_depth, -6 / np.log(rate), rtol=1e-4)
        assert verdict.trainable is trains and "zeros at the border" in str(verdict)
    delta = meanfield.trainability("tanh", *point, 2000, "delta", True, 7, "same")
    assert delta.trainable and delta.surviving_modes == 49


def test_the_transient_of_the_input_is_told():
    # tanh, linearized in q: q -> q - 2 q^2, so q = q0 / (1 + 2 q0 l) and the squared singular
    # values of l layers have the mean prod (1 - 2 q) = 1 / (1 + 2 q0 l) to leading order.
    depth, start = 2000, 0.02
    point = meanfield.critical_point("tanh", 1e-6)
    verdict = meanfield.trainability("tanh", *point, depth, "delta", True, 8, "same", start)
    np.testing.assert_allclose(verdict.output_variance, start / (1 + 2 * start * depth), rtol=0.06)
    np.testing.assert_allclose(verdict.jacobian_mean, 1 / (1 + 2 * start * depth), rtol=0.1)


def test_the_verdict_follows_the_inputs_variance():
    # gelu at (3, 0): small signals die, large ones grow.
    small = meanfield.trainability("gelu", 3.0, 0.0, 10, input_variance=0.01)
    large = meanfield.trainability("gelu", 3.0, 0.0, 10, input_variance=1.0)
    assert (small.phase, small.q_star, large.phase) == ("ordered", 0.0, "unbounded")
    assert "Other inputs go elsewhere: variances from 0.247 to infinity" in str(small)


def test_very_deep_networks_are_extended_from_their_last_layer():
    point = meanfield.fixed_point("tanh", 1.5, 0.05)
    verdict = meanfield.trainability("tanh", 1.5, 0.05, 3_000_000)
    expected = 2_999_999 * np.log10(point.chi_1)
    np.testing.assert_allclose(verdict.log10_gradient_ratio, expected, rtol=1e-6)


def test_chaos_is_told_in_logarithms():
    verdict = meanfield.trainability("tanh", 30.0, 0.05, 10_000)
    assert verdict.gradient_ratio == np.inf and np.isfinite(verdict.log10_gradient_ratio)
    assert "explode" in str(verdict) and "Chaotic" in str(verdict)


def test_unbounded_networks_have_a_verdict():
    verdict = meanfield.trainability("relu", 3.0, 0.0, 100)
    assert verdict.phase == "unbounded" and not verdict.trainable
    assert "without bound" in str(verdict)
    assert meanfield.trainability("relu", 2.0, 0.0, 100).trainable


@pytest.mark.parametrize("name", ["gelu", "swish"])
def test_basins_end_at_fixed_points_and_the_map_moves_as_they_say(name):
    for bias_variance in (0.0, 0.05):
        basins = meanfield.variance_basins(name, 2.0 if bias_variance else 3.0, bias_variance)
        weight_variance = 2.0 if bias_variance else 3.0
        assert len(basins) == 2 and basins[0].high == basins[1].low
        border = basins[0].high
        for q, direction in ((0.99 * border, -1), (1.01 * border, 1)):
            step = weight_variance * activations.get(name).second_moment(q) + bias_variance - q
            assert np.sign(step) == direction
        below = meanfield.fixed_point(name, weight_variance, bias_variance, 0.9 * border)
        assert below.q_star == basins[0].q_star
        with pytest.raises(meanfield.NoFixedPointError):
            meanfield.fixed_point(name, weight_variance, bias_variance, 1.1 * border)
