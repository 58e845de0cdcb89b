"""Dual maps against quadrature, Monte Carlo and limits known in closed form."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from mfcnn import activations
from mfcnn.activations import _dual, dual_maps

CLOSED = ("linear", "relu", "leaky_relu", "abs", "hard_tanh", "erf", "sin", "cos", "exp")
CLOSED += ("gaussian", "gelu")
TABULATED = ("tanh", "sigmoid", "swish", "softplus")
KINKED = ("relu", "leaky_relu", "abs", "hard_tanh")


def plane_quadrature(activation, q1, q2, c):
    """E[phi phi], E[phi' phi'] by the trapezoidal rule in the plane: spectral if phi is analytic.

    The rule's error is exp(-2 pi d / h) with d the distance of phi's poles from the real line in
    units of the standard deviation: for tanh at variance 10, d = 0.5, h = 0.08, it is 1e-17.
    """
    z = np.arange(-13, 13, 0.08)
    weights = np.exp(-(z**2) / 2) * 0.08 / np.sqrt(2 * np.pi)
    u = np.sqrt(q1) * z[:, None]
    v = np.sqrt(q2) * (c * z[:, None] + np.sqrt(1 - c * c) * z[None])
    both = []
    for f in (activation.phi, activation.phi_prime):
        left, right = (np.asarray(f(tf.constant(x))) for x in (u, v))
        both.append(np.sum(weights[:, None] * weights * left * right))
    return both


@pytest.mark.parametrize("name", [n for n in CLOSED + TABULATED if n not in KINKED])
@pytest.mark.parametrize("q1, q2", [(1e-6, 1e-6), (0.3, 0.3), (10.0, 10.0), (0.7, 2.1), (2, 1e-3)])
def test_maps_equal_quadrature_in_the_plane(name, q1, q2):
    activation = activations.get(name)
    if name == "exp" and q1 > 3:
        pytest.skip("the grid of the reference ends where exp(2 q) is still large")
    # 1e-9 of sqrt(T11 T22), the natural size: what the tables promise. Closed forms: rounding.
    tolerance = 1e-9 if name in TABULATED else 1e-12
    sizes = [plane_quadrature(activation, q, q, 1.0) for q in (q1, q2)]
    for c in (1.0, 0.999, 0.5, 0.0, -0.3, -1.0):
        q12 = c * np.sqrt(q1) * np.sqrt(q2) if q1 != q2 else c * q1
        values = dual_maps(name, np.float64(q1), np.float64(q2), np.float64(q12))
        expected = plane_quadrature(activation, q1, q2, c)
        for k in range(2):
            size = np.sqrt(sizes[0][k] * sizes[1][k])
            assert abs(values[k] - expected[k]) < tolerance * size


@pytest.mark.parametrize("name", KINKED)
def test_kinked_maps_equal_monte_carlo(name):
    rng = np.random.default_rng(0)
    activation = activations.get(name)
    z = rng.normal(size=(2, 10**6))
    for q1, q2, c in ((1.0, 1.0, 0.6), (0.5, 3.0, -0.7), (2.0, 1e-3, 0.99)):
        u, v = np.sqrt(q1) * z[0], np.sqrt(q2) * (c * z[0] + np.sqrt(1 - c * c) * z[1])
        values = dual_maps(name, q1, q2, c * np.sqrt(q1 * q2))
        for f, value in zip((activation.phi, activation.phi_prime), values):
            draws = np.asarray(f(tf.constant(u))) * np.asarray(f(tf.constant(v)))
            assert abs(draws.mean() - value) < 5 * draws.std() / 1e3


@pytest.mark.parametrize("name", CLOSED + TABULATED)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equal_signals_have_the_moments_of_one_signal(name, dtype):
    activation = activations.get(name)
    q = np.array([1e-6, 0.02, 1.0, 10.0 if name != "exp" else 3.0])
    value, derivative = dual_maps(name, *[tf.constant(q, dtype)] * 3)
    # No half of the digits is lost at c = 1; a table of wide range keeps 1e-9 of its largest value.
    tolerance = {"float64": 1e-9 if name in TABULATED else 1e-13, "float32": 3e-6}[dtype]
    second, slope = activation.second_moment(q), activation.derivative_second_moment(q)
    np.testing.assert_allclose(value, second, rtol=tolerance, atol=0)
    np.testing.assert_allclose(derivative, slope, rtol=tolerance, atol=0)


def test_relu_at_opposite_and_equal_inputs_is_exact():
    for dtype in ("float64", "float32"):
        one = tf.constant(1.0, dtype)
        value, derivative = dual_maps("relu", one, one, tf.stack([one, -one, 0 * one]))
        np.testing.assert_array_almost_equal_nulp(value[0].numpy(), np.asarray(0.5, dtype))
        assert abs(float(value[1])) < 1e-7 and abs(float(derivative[1])) < 1e-7
        np.testing.assert_allclose(
            value[2], 1 / (2 * np.pi), rtol=4 * one.dtype.as_numpy_dtype(np.finfo(dtype).eps)
        )


def test_hard_tanh_equals_quadrature_of_the_conditional_means():
    """E[phi(u) E[phi(v) | u]]: the inner mean in closed form, the outer in panels."""
    activation = activations.get("hard_tanh")
    pairs = [(1e-6, 1e-6), (0.3, 0.3), (10, 10), (0.7, 2.1), (2, 1e-3), (1, 1.000001), (5, 0.1)]
    correlations = (0.999999, 0.999, 0.5, 0.0, -0.3, -0.99)
    q1, q2, c = np.array([(*pair, c) for pair in pairs for c in correlations]).T
    maps = dual_maps("hard_tanh", q1, q2, c * np.sqrt(q1 * q2))
    sizes = activation.second_moment, activation.derivative_second_moment
    nodes, weights = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(-1, 1, 2001)
    x = (edges[:-1, None] + (nodes + 1) * 5e-4).ravel()
    inside = np.tile(weights * 5e-4, 2000)
    for k, (a, b, r) in enumerate(zip(q1, q2, c)):
        # u in [-1, 1] on panels of 1/1000, u beyond as far as it has mass: both maps are even.
        u = np.concatenate([x, 1 + (x + 1) / 2 * 13 * np.sqrt(a)])
        weight = np.concatenate([inside, inside * 13 * np.sqrt(a)])
        weight *= stats.norm.pdf(u, scale=np.sqrt(a))
        mean, scale = r * np.sqrt(b / a) * u, np.sqrt(b * (1 - r * r))
        low, high = (-1 - mean) / scale, (1 - mean) / scale
        within = stats.norm.cdf(high) - stats.norm.cdf(low)
        value = mean * within + scale * (stats.norm.pdf(low) - stats.norm.pdf(high))
        value += stats.norm.sf(high) - stats.norm.cdf(low)
        integrands = np.clip(u, -1, 1) * value, (u < 1) * within
        for found, size, integrand in zip(maps, sizes, integrands):
            assert abs(found[k] - integrand @ weight) < 2e-9 * np.sqrt(size(a) * size(b))


def test_erf_at_extreme_variances():
    q = np.array([1e-20, 1e-12, 1e12, 1e20])
    value, derivative = dual_maps("erf", q, q, q)
    np.testing.assert_allclose(value[:2], 4 / np.pi * q[:2], rtol=1e-11)
    # arcsin(1 - e) = pi/2 - sqrt(2 e), e = 1 / (2 q).
    np.testing.assert_allclose(value[2:], 1 - 2 / np.pi / np.sqrt(q[2:]), rtol=1e-12)
    np.testing.assert_allclose(derivative[2:], 2 / np.pi / np.sqrt(q[2:]), rtol=1e-10)


@pytest.mark.parametrize("name", CLOSED + TABULATED)
@pytest.mark.parametrize("c", [1.0, 0.4, -1.0])
def test_gradients_are_finite(name, c):
    q = [
        tf.constant(0.8, tf.float64),
        tf.constant(0.8, tf.float64),
        tf.constant(0.8 * c, tf.float64),
    ]
    with tf.GradientTape() as tape:
        tape.watch(q)
        value, derivative = dual_maps(name, *q)
        total = value + derivative
    assert all(np.isfinite(g) for g in tape.gradient(total, q))


def test_covariance_gradient_is_the_derivative_map():
    # Price's theorem: d T / d q12 = E[phi' phi'].
    q1, q2, q12 = (tf.constant(v, tf.float64) for v in (0.8, 1.3, 0.4))
    for name in CLOSED + TABULATED:
        with tf.GradientTape() as tape:
            tape.watch(q12)
            value, derivative = dual_maps(name, q1, q2, q12)
        assert abs(tape.gradient(value, q12) - derivative) < 1e-8


def test_a_users_activation_is_tabulated():
    root_half = np.sqrt(0.5)
    mine = activations.Activation(
        lambda x: tf.math.erf(x * root_half) + 0.1 * x,
        lambda x: tf.exp(-x * x / 2) * np.sqrt(2 / np.pi) + 0.1,
        name="erf",  # a library name on another function must not pick the library's formula
    )
    value, _ = dual_maps(mine, 1.0, 1.0, 0.5)
    rho = 0.5 / 2
    cross = 2 * 0.1 * 0.5 * np.sqrt(2 / np.pi) / np.sqrt(2.0)
    expected = 2 / np.pi * np.arcsin(rho) + cross + 0.01 * 0.5
    assert abs(value - expected) < 1e-9


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="q1 must be finite"):
        dual_maps("relu", np.float64(-1), np.float64(1), np.float64(0))


def test_arcsine_polynomial_is_exact_to_rounding():
    y = np.linspace(0, 0.5, 1001)[1:]
    for dtype, ulps in (("float64", 4), ("float32", 4)):
        ratio = _dual.arcsin_ratio(tf.constant(y, dtype)).numpy()
        expected = np.arcsin(np.sqrt(y)) / np.sqrt(y)
        assert np.max(np.abs(ratio / expected - 1)) < ulps * np.finfo(dtype).eps
