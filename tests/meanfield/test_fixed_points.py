"""Fixed points and the critical line against SciPy quadrature and closed forms."""

import numpy as np
import pytest
from scipy import optimize

from mfcnn import activations, meanfield
from mfcnn.meanfield import _fixed_points, _saturation
from tests.activations.test_activation import (
    REFERENCES,
    gaussian_covariance,
    gaussian_expectation,
)
from tests.tolerances import float64

pytestmark = pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")


def reference_variance(name, q, weight_variance, bias_variance):
    """(map of q, chi_1, chi_q) by SciPy's quadrature."""
    phi, phi_prime, kinks = REFERENCES[name]
    second = gaussian_expectation(lambda x: phi(x) ** 2, q, kinks)
    derivative = gaussian_expectation(lambda x: phi_prime(x) ** 2, q, kinks)
    slope = gaussian_expectation(lambda x: x * phi(x) * phi_prime(x), q, kinks) / q
    w = weight_variance
    return w * second + bias_variance, w * derivative, w * slope


# Ordered, near critical, chaotic, deep chaos, small and large bias.
GRID = [(0.5, 0.3), (1.5, 0.1), (1.76, 0.05), (2.0, 0.0), (4.0, 0.05), (20.0, 0.5), (9.0, 8.0)]


@pytest.mark.parametrize(("weight_variance", "bias_variance"), GRID)
@pytest.mark.parametrize("name", ["tanh", "erf", "hard_tanh", "sin", "sigmoid"])
def test_fixed_point_satisfies_its_equations_by_quadrature(name, weight_variance, bias_variance):
    point = meanfield.fixed_point(name, weight_variance, bias_variance)
    q = point.q_star
    mapped, chi_1, chi_q = reference_variance(name, q, weight_variance, bias_variance)
    # An error e of q* shows as e (1 - chi_q) in the map.
    assert abs(mapped - q) / (1 - chi_q) < 1e-9 * q
    np.testing.assert_allclose(
        [point.chi_1, point.chi_q], [chi_1, chi_q], rtol=float64.solved, atol=float64.summed
    )
    assert point.phase == ("chaotic" if chi_1 > 1 else "ordered")
    assert point.xi_q == pytest.approx(-1 / np.log(abs(point.chi_q)), rel=1e-14)
    if point.phase == "ordered":
        assert (point.c_star, point.chi_c) == (1.0, point.chi_1)
        assert point.xi_c == pytest.approx(-1 / np.log(chi_1), rel=1e-8)
        assert point.xi_star == np.inf


@pytest.mark.parametrize(
    ("name", "weight_variance", "bias_variance"),
    [
        ("tanh", 1.8, 0.05),
        ("tanh", 4.0, 0.05),
        ("tanh", 30.0, 1.0),
        ("erf", 2.25, 0.25),
        ("hard_tanh", 4.0, 0.05),
        ("cos", 4.0, 0.05),
    ],
)
def test_chaotic_correlation_satisfies_its_equation_by_nested_quadrature(
    name, weight_variance, bias_variance
):
    point = meanfield.fixed_point(name, weight_variance, bias_variance)
    phi, phi_prime, kinks = REFERENCES[name]
    q, c = point.q_star, point.c_star
    mapped = weight_variance * gaussian_covariance(phi, q, c, kinks) + bias_variance
    chi_c = weight_variance * gaussian_covariance(phi_prime, q, c, kinks)
    assert point.phase == "chaotic" and 0 < c < 1
    assert abs(mapped / q - c) / (1 - chi_c) < 1e-9
    np.testing.assert_allclose(point.chi_c, chi_c, rtol=float64.solved)
    np.testing.assert_allclose(point.xi_c, -1 / np.log(chi_c), rtol=1e-8)
    np.testing.assert_allclose(point.xi_star, 1 / np.log(point.chi_1 / chi_c), rtol=1e-8)


@pytest.mark.parametrize("weight_variance", [1.2, 2.25, 9.0, 100.0])
def test_erf_without_bias_has_its_closed_form(weight_variance):
    # c* = 0 and chi_c = w (4/pi) / (1 + 2q) with q from a scalar equation.
    point = meanfield.fixed_point("erf", weight_variance, 0.0)

    def equation(q):
        return weight_variance * 2 / np.pi * np.arcsin(2 * q / (1 + 2 * q)) - q

    q = optimize.brentq(equation, 1e-3, 200.0, xtol=1e-15, rtol=1e-15)
    np.testing.assert_allclose(point.q_star, q, rtol=float64.summed)
    assert point.c_star == 0.0
    np.testing.assert_allclose(
        point.chi_c, weight_variance * 4 / np.pi / (1 + 2 * q), rtol=float64.summed
    )


@pytest.mark.parametrize("q_star", [1e-6, 1e-4, 0.02, 1.0, 10.0])
@pytest.mark.parametrize("name", ["tanh", "erf", "sin"])
def test_critical_point_is_critical_and_has_its_variance(name, q_star):
    weight_variance, bias_variance = meanfield.critical_point(name, q_star)
    derivative = gaussian_expectation(lambda x: REFERENCES[name][1](x) ** 2, q_star)
    np.testing.assert_allclose(weight_variance * derivative, 1.0, rtol=float64.deep)
    point = meanfield.fixed_point(name, weight_variance, bias_variance)
    assert point.phase == "critical"
    assert point.xi_c == np.inf and point.c_star == 1.0
    # Rounding of weight_variance moves q* by eps / |1 - chi_q| = eps / (2 q) relatively.
    np.testing.assert_allclose(point.q_star, q_star, rtol=float64.summed + 1e-15 / q_star)
    np.testing.assert_allclose(
        meanfield.critical_weight_variance(name, bias_variance),
        weight_variance,
        rtol=float64.summed,
    )


@pytest.mark.parametrize("q_star", [1e-6, 1e-3])
def test_critical_bias_of_tanh_follows_its_series(q_star):
    # E[tanh^2] and E[sech^4] to order q^6 from the moments of tanh's Taylor series:
    # bias = 4/3 q^3 - 8 q^4 + ... ; the next term is of relative order 40 q^2.
    _, bias_variance = meanfield.critical_point("tanh", q_star)
    series = _tanh_series_bias(q_star)
    np.testing.assert_allclose(bias_variance, series, rtol=float64.solved)


def _tanh_series_bias(q):
    """q - E[tanh^2] / E[sech^4] in exact rational arithmetic on Taylor coefficients."""
    from fractions import Fraction

    order = 16
    # tanh' = 1 - tanh^2 fixes the Taylor coefficients one after the other.
    t = [Fraction(0), Fraction(1)]
    for n in range(1, order):
        t.append(-sum((t[i] * t[n - i] for i in range(n + 1)), Fraction(0)) / (n + 1))
    derivative = [(n + 1) * t[n + 1] for n in range(order)]

    def moment(series):
        double_factorial, q_power, total = Fraction(1), Fraction(1), Fraction(0)
        variance = Fraction(q).limit_denominator(10**12)
        for n in range(0, order, 2):
            total += (
                double_factorial * q_power * sum(series[i] * series[n - i] for i in range(n + 1))
            )
            double_factorial, q_power = double_factorial * (n + 1), q_power * variance
        return total

    return float(Fraction(q).limit_denominator(10**12) - moment(t) / moment(derivative))


def test_near_the_critical_line_the_depth_scale_follows_chi_1():
    # 1e-8 off the line xi_c = 1 / (1 - chi_1) is about 1e8 layers; iteration would need as many.
    weight_variance, bias_variance = meanfield.critical_point("tanh", 0.1)
    below = meanfield.fixed_point("tanh", weight_variance * (1 - 1e-8), bias_variance)
    above = meanfield.fixed_point("tanh", weight_variance * (1 + 1e-8), bias_variance)
    assert (below.phase, above.phase) == ("ordered", "chaotic")
    assert 1e7 < below.xi_c < 1e9
    # To first order chi_c - 1 = -(chi_1 - 1): the map of c is a parabola near c = 1.
    np.testing.assert_allclose(1 - above.chi_c, above.chi_1 - 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["tanh", "hard_tanh", "sin"])
def test_without_bias_the_variance_dies_up_to_the_critical_point(name):
    for weight_variance, phase in ((0.3, "ordered"), (1.0, "critical")):
        point = meanfield.fixed_point(name, weight_variance, 0.0)
        assert (point.q_star, point.chi_1, point.phase) == (0.0, weight_variance, phase)
    assert meanfield.critical_weight_variance(name, 0.0) == 1.0
    tiny = meanfield.fixed_point(name, 0.5, 1e-40)
    np.testing.assert_allclose(tiny.q_star, 2e-40, rtol=float64.summed)


def test_relu_is_critical_at_two_and_grows_beyond():
    point = meanfield.fixed_point("relu", 2.0, 0.0)
    assert (point.phase, point.q_star, point.chi_1, point.xi_c) == ("critical", 1.0, 1.0, np.inf)
    assert meanfield.critical_point("relu", 0.3) == (2.0, 0.0)
    assert meanfield.critical_weight_variance("relu", 0.0) == 2.0
    ordered = meanfield.fixed_point("relu", 1.5, 0.1)
    assert (ordered.phase, ordered.q_star) == ("ordered", pytest.approx(0.4, rel=1e-15))
    with pytest.raises(meanfield.NoFixedPointError, match="grows without bound"):
        meanfield.fixed_point("relu", 2.5, 0.0)
    with pytest.raises(meanfield.NoFixedPointError, match="grows without bound"):
        meanfield.fixed_point("relu", 2.0, 0.1)
    with pytest.raises(ValueError, match="critical only at bias_variance=0"):
        meanfield.critical_weight_variance("relu", 0.1)


def test_user_functions_in_numpy_get_the_same_fixed_point():
    user = activations.Activation(np.tanh, lambda x: 1 - np.tanh(x) ** 2)
    known = meanfield.fixed_point("tanh", 3.0, 0.2)
    mine = meanfield.fixed_point(user, 3.0, 0.2)
    for field in ("q_star", "c_star", "chi_1", "chi_c", "chi_q", "xi_c"):
        np.testing.assert_allclose(getattr(mine, field), getattr(known, field), rtol=float64.deep)
    kinked = activations.Activation(lambda x: np.clip(x, -1, 1), lambda x: 1.0 * (np.abs(x) < 1))
    known = meanfield.fixed_point("hard_tanh", 3.0, 0.2)
    mine = meanfield.fixed_point(kinked, 3.0, 0.2)
    np.testing.assert_allclose(mine.c_star, known.c_star, rtol=float64.deep)
    np.testing.assert_allclose(mine.chi_c, known.chi_c, rtol=float64.deep)


@pytest.mark.parametrize("name", ["tanh", "erf", "hard_tanh", "sin", "relu", "gelu"])
def test_the_grid_agrees_with_single_points(name):
    weights, biases = np.linspace(0.3, 6.0, 5)[:, None], np.array([0.0, 1e-3, 0.5])
    many = np.ones([200, 1, 1])  # so many points that tables pay
    grid = meanfield.fixed_points(name, many * weights, many * biases)
    assert grid.q_star.shape == (200, 5, 3)
    for i, j in np.ndindex(5, 3):
        try:
            point = meanfield.fixed_point(name, weights[i, 0], biases[j])
        except meanfield.NoFixedPointError:
            assert grid.phase[0, i, j] == "unbounded" and np.isinf(grid.q_star[0, i, j])
            continue
        assert grid.phase[0, i, j] == point.phase
        for field in ("q_star", "c_star", "chi_1", "chi_c", "chi_q"):
            # The table is converged to 1e-13 of the largest moment; c* amplifies it near c = 0.
            np.testing.assert_allclose(
                getattr(grid, field)[0, i, j],
                getattr(point, field),
                rtol=float64.deep,
                atol=float64.deep,
            )


def test_a_derivative_covariance_below_rounding_has_a_depth_scale():
    point = meanfield.fixed_point(activations.Activation(np.sin, np.cos), 1000.0, 0.1)
    assert 0 <= point.chi_c < 1e-12 * point.chi_1 and 0 <= point.xi_c < 0.05


def test_saturated_networks_have_a_fixed_point():
    # phi is a sign up to 1 / sqrt(q*): q* = w + b, and c* solves q c = w (2 / pi) arcsin(c) + b.
    w = b = 1e6
    point = meanfield.fixed_points("tanh", [w], b)
    np.testing.assert_allclose(point.q_star, w + b, rtol=1 / np.sqrt(w))
    c_star = optimize.brentq(lambda c: 2 * c - 2 / np.pi * np.arcsin(c) - 1, 0, 0.9999)
    np.testing.assert_allclose(point.c_star, c_star, rtol=1 / np.sqrt(w))
    critical = meanfield.critical_weight_variance("tanh", 1e7)
    q = meanfield.fixed_point("tanh", critical, 1e7).q_star
    np.testing.assert_allclose(
        meanfield.critical_point("tanh", q), (critical, 1e7), rtol=float64.solved
    )


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "hard_tanh"])
def test_the_closed_form_of_saturated_networks_is_that_of_the_quadrature(name):
    activation = activations.get(name)
    point = meanfield.fixed_point(name, 1e8, 1e8)
    closed = _saturation.saturated_correlation(activation, point.q_star, 1e8, 1e8)
    q, w = np.array([point.q_star]), np.array([1e8])
    c_star, chi_c = _fixed_points._correlation_fixed_point(activation, q, w, w)
    # The nested quadrature is good to 1e-9 there, the series to 1e-15.
    np.testing.assert_allclose(closed, (c_star[0], chi_c[0]), rtol=1e-8)
    assert (point.c_star, point.chi_c) == closed
