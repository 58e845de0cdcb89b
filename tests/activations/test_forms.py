"""All registered activations: against quadrature that this package did not write, and Keras."""

import functools
import pkgutil

import keras
import mpmath
import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate

from benchmarks import dual_maps
from mfcnn import activations, meanfield
from mfcnn.activations import forms

# Refused by mean field theory, with kernels of their own.
JUMPS = {"sign"}
WITH_MOMENTS = [name for name in activations.NAMES if name not in JUMPS]


def test_a_form_is_a_file_and_a_file_is_found():
    files = {m.name for m in pkgutil.iter_modules(forms.__path__) if not m.name.startswith("_")}
    assert files - set(activations.NAMES) == {"sin_cos"}
    assert set(activations.NAMES) - files == {"sin", "cos"}


def values(activation, x, derivative=False):
    """phi or phi' at one point or many, as float64."""
    f = activation.phi_prime if derivative else activation.phi
    return np.asarray(f(tf.constant(x, tf.float64)))


def plane_integral(activation, q1, q2, gap, derivative):
    """E[f(u) f(v)] by Gauss-Legendre on panels in the plane.

    With u = sqrt(q1) x and v = sqrt(q2) (c x + s y), the lines on which u or v meets a kink are
    ends of the panels in y; the panels in x end at the kinks of u and close in on the points where
    two of the lines cross, on the scale of s.
    """
    c = 1 - gap
    s = np.sqrt(gap * (2 - gap))
    kinks = np.union1d(activation.kinks(), 0.0)
    nodes, weights = np.polynomial.legendre.leggauss(16)

    def rule(ends):
        half = np.diff(ends, axis=-1)[..., None] / 2
        x = ends[..., :-1, None] + half * (nodes + 1)
        shape = (*ends.shape[:-1], -1)
        return x.reshape(shape), (half * weights).reshape(shape)

    steps = np.concatenate([[0.0], 2.0 ** np.arange(-1, 4)])
    crossings = [kinks / np.sqrt(q1), kinks / np.sqrt(q2) / c if c else [0.0]]
    near = [p + side * s * steps for p in np.concatenate(crossings) for side in (-1.0, 1.0)]
    wide = [np.arange(-9.0, 10.0), *(k / np.sqrt(q1) + np.array([0.0]) for k in kinks)]
    ends = np.unique(np.clip(np.concatenate([*near, *wide]), -9, 9))
    x, wx = rule(ends)
    lines = (kinks / np.sqrt(q2) - c * x[:, None]) / s
    fine = np.broadcast_to(np.arange(-9.0, 10.0), (x.size, 19))
    y, wy = rule(np.sort(np.concatenate([np.clip(lines, -9, 9), fine], axis=1), axis=1))
    inner = values(activation, np.sqrt(q2) * (c * x[:, None] + s * y), derivative)
    inner = np.sum(wy * np.exp(-y * y / 2) * inner, axis=1)
    outer = wx * np.exp(-x * x / 2) * values(activation, np.sqrt(q1) * x, derivative)
    return outer @ inner / (2 * np.pi)


@pytest.mark.parametrize(("q1", "q2"), [(0.5, 2.0), pytest.param(0.7, 0.7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", WITH_MOMENTS)
def test_dual_maps_equal_quadrature_in_the_plane(name, q1, q2):
    activation = activations.get(name)
    gaps = np.array([1e-4, 0.4, 1.9])
    q12 = tf.constant((1 - gaps) * np.sqrt(q1 * q2))
    found = activation.dual(q1, q2).maps(*(q * tf.ones_like(q12) for q in (q1, q2)), q12)
    # Kinks: the panels of the reference are exact; smooth phi: 16 nodes in a deviation.
    for of_all, derivative in zip(found, (False, True)):
        moment = "derivative_second_moment" if derivative else "second_moment"
        size = np.sqrt(np.prod([getattr(activation, moment)(q) for q in (q1, q2)]))
        for gap, value in zip(gaps, of_all):
            expected = plane_integral(activation, q1, q2, gap, derivative)
            assert abs(value - expected) < 2e-9 * size, (gap, derivative)


@pytest.mark.parametrize("name", WITH_MOMENTS)
def test_equal_and_opposite_signals_have_the_moments_of_one(name):
    activation = activations.get(name)
    q = 0.7
    maps = activation.dual(q, q)
    one = tf.constant(q, tf.float64)
    z = np.linspace(-14, 14, 2**17 + 1)
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    for sign in (1.0, -1.0):
        for value, derivative in zip(maps.maps(one, one, sign * one), (False, True)):
            f = values(activation, np.sqrt(q) * z, derivative)
            g = values(activation, sign * np.sqrt(q) * z, derivative)
            expected = integrate.trapezoid(f * g * density, z)
            # The trapezoidal rule: exact where f is smooth, 28 / 2^17 of a jump at a kink.
            tolerance = 3e-4 if activation.kinks().size else 1e-9
            size = integrate.trapezoid(f * f * density, z)
            assert abs(value - expected) < tolerance * size


@pytest.mark.parametrize("name", activations.NAMES)
def test_phi_prime_equals_central_differences(name):
    activation = activations.get(name)
    x = np.array([-5.3, -1.7, -0.4, 0.3, 1.3, 4.1])
    h = 1e-5
    expected = (values(activation, x + h) - values(activation, x - h)) / (2 * h)
    # Rounding 1e-16 phi / h and truncation h^2 phi''' / 6.
    size = np.maximum(1, np.abs(values(activation, x)))
    assert np.all(np.abs(values(activation, x, True) - expected) < 1e-9 * size)


@pytest.mark.parametrize("name", WITH_MOMENTS)
def test_moments_equal_scipys_quadrature(name):
    activation = activations.get(name)
    for q in (0.01, 2.0):
        ends = np.unique([-12, *activation.kinks() / np.sqrt(q), -3, 0, 3, 12])

        def mean(f):
            def integrand(z):
                return f(z) * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)

            parts = (
                integrate.quad(integrand, *ab, epsabs=0, epsrel=1e-11, limit=200)[0]
                for ab in zip(ends, ends[1:])  # noqa: B023
            )
            return sum(parts)

        x = functools.partial(np.multiply, np.sqrt(q))
        second = mean(lambda z: values(activation, x(z)) ** 2)  # noqa: B023
        slope = mean(lambda z: values(activation, x(z), True) ** 2)  # noqa: B023
        np.testing.assert_allclose(activation.second_moment(q), second, rtol=1e-9)
        np.testing.assert_allclose(activation.derivative_second_moment(q), slope, rtol=1e-9)


def first_quick(*names):
    """The first name, and the others for the slow suite."""
    return [names[0], *(pytest.param(name, marks=pytest.mark.slow) for name in names[1:])]


@pytest.mark.parametrize("variance", dual_maps.VARIANCES)
@pytest.mark.parametrize("name", first_quick(*dual_maps.FUNCTIONS))
def test_dual_maps_from_tiny_to_raw_variances(name, variance):
    """To the figure that `python -m benchmarks.dual_maps` shows, and a factor of two."""
    for gap in dual_maps.GAPS:
        error, rounding = dual_maps.error(name, variance, gap)
        assert error < 6e-12 and rounding < 1e-14, gap


@pytest.mark.slow
@pytest.mark.parametrize("name", dual_maps.FUNCTIONS)
def test_the_sum_that_dual_maps_are_compared_with_is_mpmaths(name):
    """E[phi(u) E[phi(v) | u]] at q = 1 and c = 0.7, nested Gauss-Legendre quadratures."""
    functions = {
        "tanh": mpmath.tanh,
        "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
        "swish": lambda x: x / (1 + mpmath.exp(-x)),
        "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
        "mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
    }
    phi, c = functions[name], mpmath.mpf("0.7")
    s = mpmath.sqrt(1 - c * c)

    def integrand(a, b):
        weight = mpmath.exp(-(a * a + b * b) / 2) / (2 * mpmath.pi)
        return weight * phi(a) * phi(c * a + s * b)

    ends = [-10, -3, 0, 3, 10]
    expected = mpmath.quad(integrand, ends, ends, method="gauss-legendre", maxdegree=4)
    assert dual_maps.reference(name, 1.0, 0.3)[0] == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(
    "name", first_quick("tanh", "sigmoid", "swish", "softplus", "mish", "elu", "softsign")
)
def test_raw_pixels_are_accepted_where_theory_and_kernels_agree(name):
    q = 1e4
    activation = activations.get(name)
    one = tf.constant(q, tf.float64)
    value, slope = activation.dual(q, q).maps(one, one, one)
    np.testing.assert_allclose(value, activation.second_moment(q), rtol=1e-9)
    np.testing.assert_allclose(slope, activation.derivative_second_moment(q), rtol=2e-9)


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        (keras.layers.LeakyReLU(0.1), "leaky_relu(negative_slope=0.1)"),
        (keras.layers.LeakyReLU(), "leaky_relu(negative_slope=0.3)"),
        (keras.layers.ELU(2.0), "elu(alpha=2.0)"),
        (keras.layers.ReLU(max_value=6.0), "relu(max_value=6.0)"),
        (keras.layers.Activation("tanh"), "tanh"),
        ("leaky_relu(0.1)", "leaky_relu(negative_slope=0.1)"),
        ("leaky_relu(0.2)", "leaky_relu"),
        (
            functools.partial(keras.activations.leaky_relu, negative_slope=0.1),
            "leaky_relu(negative_slope=0.1)",
        ),
        (functools.partial(tf.nn.leaky_relu, alpha=0.1), "leaky_relu(negative_slope=0.1)"),
        (functools.partial(keras.activations.gelu, approximate=True), "gelu(approximate=True)"),
        (keras.activations.hard_silu, "hard_swish"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_spelling_finds_the_form(identifier, name):
    activation = activations.get(identifier)
    assert activation.name == activation.identity == name
    assert activations.get(name) is activation
    x = tf.constant([-7.0, -1.2, 0.3, 2.0, 8.0], tf.float64)
    if callable(identifier):
        # Keras keeps the constants of gelu in float32.
        np.testing.assert_allclose(activation(x), identifier(x), rtol=1e-6)


def test_every_function_of_keras_is_a_form_or_refused_by_name():
    functions = {
        name: f
        for name, f in vars(keras.activations).items()
        if not name.startswith("_") and name not in ("get", "serialize", "deserialize")
        if callable(f)
    }
    x = tf.constant([[-2.3, -0.7, 0.2, 1.9]], tf.float64)
    for name, function in functions.items():
        try:
            activation = activations.get(function)
        except ValueError as error:
            assert name in ("softmax", "log_softmax", "glu", "sparsemax", "hard_shrink"), name
            assert f"{name} is no activation here: it" in str(error)
            continue
        assert activation.of_library, name
        if name != "threshold":  # has no defaults in Keras
            np.testing.assert_allclose(activation(x), function(x), rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", activations.NAMES)
def test_a_keras_model_with_it_is_saved_and_loaded(name, tmp_path):
    activation = activations.get(name)
    layer = keras.layers.Dense(3, activation=activations.keras_identifier(activation))
    again = keras.layers.Dense.from_config(layer.get_config())
    x = tf.constant([-1.5, 0.4, 2.5])
    np.testing.assert_array_equal(again.activation(x), layer.activation(x))


def test_a_piecewise_polynomial_of_a_user_is_recognized():
    mine = activations.Activation(
        lambda x: tf.where(x > 1, 2 * x - 1, tf.where(x > -0.5, x * x, -x / 2)),
        lambda x: tf.where(x > 1, 2.0, tf.where(x > -0.5, 2 * x, -0.5)),
    )
    named = activations.get(
        "piecewise_polynomial",
        kinks=(-0.5, 1.0),
        polynomials=((0.0, -0.5), (0.0, 0.0, 1.0), (-1.0, 2.0)),
    )
    assert mine.closed_form is not None
    q1, q2, q12 = (tf.constant(v, tf.float64) for v in (0.6, 1.4, 0.5))
    for one, two in zip(mine.closed_form.maps(q1, q2, q12), named.closed_form.maps(q1, q2, q12)):
        np.testing.assert_allclose(one, two, rtol=1e-9)
    np.testing.assert_allclose(mine.second_moment(0.6), named.second_moment(0.6), rtol=1e-10)


def test_a_users_kernel_function_is_used_and_checked():
    def arcsine(q1, q2, q12):
        root = tf.sqrt((1 + 2 * q1) * (1 + 2 * q2) - 4 * q12 * q12)
        return (2 / np.pi) * tf.atan2(2 * q12, root), (4 / np.pi) / root

    erf = activations.get("erf")
    mine = activations.Activation(erf.phi, erf.phi_prime, "mine", dual=arcsine)
    q = [tf.constant(v, tf.float64) for v in (0.6, 1.4, 0.5)]
    for one, two in zip(mine.closed_form.maps(*q), erf.closed_form.maps(*q)):
        np.testing.assert_allclose(one, two, rtol=1e-12)
    wrong = activations.Activation(tf.sin, tf.cos, "wrong", dual=arcsine)
    with pytest.raises(ValueError, match="dual of activation 'wrong' does not fit phi"):
        _ = wrong.closed_form


def test_identity_tells_functions_apart():
    one, two = (activations.get(lambda x, a=a: tf.tanh(a * x)) for a in (1.0, 1.001))
    assert len({one.identity, two.identity, activations.get("tanh").identity}) == 3
    assert one.identity == activations.Activation(tf.tanh, one.phi_prime, "other").identity


def test_what_has_no_moments_says_why_and_what_to_do():
    with pytest.raises(ValueError, match="sign jumps at zero.*chi_1 is infinite.*hard_tanh"):
        meanfield.fixed_point("sign", 1.0, 0.1)
    value, slope = activations.dual_maps("sign", 2.0, 0.5, 0.5)
    np.testing.assert_allclose(value, 2 / np.pi * np.arcsin(0.5), rtol=1e-12)
    assert slope == 0
    with pytest.raises(ValueError, match="jumps from 3 to 1 at x = 1.*Use a continuous"):
        meanfield.fixed_point("threshold(1.0, 3.0)", 1.0, 0.1)
    with pytest.raises(ValueError, match="softmax is no activation here: it mixes channels"):
        activations.get("softmax")
    with pytest.raises(ValueError, match="couples the channels"):
        activations.get(lambda x: x - tf.reduce_mean(x, -1, keepdims=True))
    with pytest.raises(TypeError, match="has the parameters negative_slope. Received: .'slope'"):
        activations.get("leaky_relu", slope=0.1)
    bump = activations.Activation(
        lambda x: tf.exp(-tf.abs(x - 1)), lambda x: -tf.sign(x - 1) * tf.exp(-tf.abs(x - 1)), "bump"
    )
    with pytest.raises(ValueError, match="'bump'.*kinks at 1 with curves.*Scale your inputs"):
        bump.dual(1.0, 1.0)
