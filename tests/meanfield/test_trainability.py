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


@pytest.mark.parametrize(
    ("name", "orthogonal"), [("linear", False), ("relu", False), ("tanh", False), ("tanh", True)]
)
def test_networks_of_a_width_differ_as_the_verdict_says(name, orthogonal):
    # |J^T g|^2 of dense networks. Linear: a product of L independent chi^2_n / n, so exactly
    # L trigamma(n / 2) = 2 L / n to first order; the others have corrections of order 5 / n.
    q, n, depth, draws = 0.5, 64, 40, 200
    rng = np.random.default_rng(0)
    logs = []
    for _ in range(draws):
        signal = rng.standard_normal(n)
        for _ in range(depth):
            h = np.sqrt(q) * rng.standard_normal(n)
            slopes = {"linear": 1.0, "relu": h > 0, "tanh": np.cosh(h) ** -2.0}[name]
            w = rng.standard_normal((n, n))
            w = np.linalg.qr(w)[0] if orthogonal else w / np.sqrt(n)
            signal = w.T @ (slopes * signal)
        logs.append(np.log(signal @ signal))
    weight_variance = {"linear": 1.0, "relu": 2.0, "tanh": 1.5}[name]
    moments = meanfield.jacobian_moments(name, weight_variance, depth, q, orthogonal)
    verdict = meanfield.trainability(name, weight_variance, 0.0, depth, width=n)
    expected = np.sqrt((3 * moments.relative_variance - (0 if orthogonal else depth)) / n)
    assert abs(np.std(logs) / expected - 1) < 4 / np.sqrt(2 * draws) + 5 / n
    if name in ("linear", "relu"):  # at any variance
        np.testing.assert_allclose(verdict.width_deviation, expected, rtol=1e-9)
        assert ("too many for 64 channels" in str(verdict)) == (expected > 1)


@pytest.mark.parametrize("width", [16, 64])
def test_vectors_of_a_sphere_have_the_verdicts_moments(width):
    # A rotation a layer, from one vector: dense orthogonal networks. Corrections of 1 / c^2, here
    # at most 8 (1 / c)^2, beside standard errors over draws.
    weight_variance, depth, start = 1.2, 40, 0.5
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        x = rng.standard_normal(width)
        x *= np.sqrt(width * start) / np.linalg.norm(x)
        for _ in range(depth):
            h = np.sqrt(weight_variance) * np.linalg.qr(rng.standard_normal((width, width)))[0] @ x
            x = np.tanh(h)
        found.append(h @ h / width)
    verdict, limit = (
        meanfield.trainability(
            "tanh", weight_variance, 0.0, depth, "delta", True, input_variance=start, width=w
        ).output_variance
        for w in (width, None)
    )
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(np.mean(found) - verdict) < 4 * error + 8 / width**2 * verdict
    assert width > 16 or abs(np.mean(found) - limit) > 4 * error  # what it changes is seen


def test_without_a_width_nothing_is_said_of_it():
    verdict = meanfield.trainability("relu", 2.0, 0.0, 1000)
    assert np.isnan(verdict.width_deviation) and "channels" not in str(verdict)
    wide = meanfield.trainability("relu", 2.0, 0.0, 1000, width=10**6)
    assert "channels" not in str(wide)


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


@pytest.mark.parametrize("depth", [1, 200, 3000])
@pytest.mark.parametrize("padding", ["circular", "same"])
@pytest.mark.parametrize(
    ("name", "weight_variance", "bias_variance"),
    [("tanh", 1.0, 0.05), ("tanh", 1.05, 2.01e-5), ("tanh", 3.0, 0.05), ("relu", 1.5, 0.1)],
)
def test_the_sentence_says_what_the_numbers_say(
    name, weight_variance, bias_variance, padding, depth
):
    verdict = meanfield.trainability(
        name, weight_variance, bias_variance, depth, "gs2", size=2, padding=padding
    )
    words = str(verdict)
    assert ("should train" in words) == verdict.trainable
    assert ("will not train" in words) == (not verdict.trainable)
    assert f"{depth} " in words and "nan" not in words
    assert " inf" not in words.replace("infinite", "").replace("infinity", "")
    if np.isfinite(verdict.max_depth):
        assert f"= {verdict.max_depth:.4g} layers" in words
    by_border = verdict.max_depth < 0.99 * 6 * verdict.xi_c
    assert ("zeros at the border" in words) == by_border
    if padding == "circular":
        assert not by_border and verdict.phase in words.lower()


@pytest.mark.parametrize("initial", [None, 0.5])
@pytest.mark.parametrize("padding", ["circular", "same"])
@pytest.mark.parametrize("size", [1, (1, 2), (1, 1, 1)])
def test_the_smallest_images_have_a_verdict(size, padding, initial):
    rank = len(size) if np.ndim(size) else 2
    profile = np.full([3] * rank, 3.0**-rank)
    verdict = meanfield.trainability(
        "tanh", 1.2, 0.01, 3, profile, size=size, padding=padding, input_variance=initial
    )
    assert verdict.modes == np.prod(np.broadcast_to(size, rank))
    if padding == "same" and size in (1, (1, 1, 1)):
        # One position: only the centre tap sees it, so a dense layer of variance w / 3^rank.
        dense = meanfield.log_gradient_norms(
            "tanh", 1.2 / 3**rank, 0.01, 3, 0.5 if initial else 1.0, [1.0], 1
        )
        if initial:
            expected = (dense[0] - dense[-1]) / np.log(10)
            np.testing.assert_allclose(verdict.log10_gradient_ratio, expected, rtol=1e-9)
