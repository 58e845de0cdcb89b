"""Moments against SciPy's adaptive quadrature; names, mappings and errors."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special
from scipy.integrate import quad

from mfcnn import activations
from mfcnn.activations import Activation

# Independent NumPy definitions: phi, phi', kinks. Relative error asked for: 1e-11, an order above
# what quad reports for itself.
REFERENCES = {
    "tanh": (np.tanh, lambda x: np.cosh(x) ** -2.0, []),
    "erf": (special.erf, lambda x: 2 / np.sqrt(np.pi) * np.exp(-x * x), []),
    "relu": (lambda x: x * (x > 0), lambda x: 1.0 * (x > 0), [0.0]),
    "leaky_relu": (lambda x: x * (0.2 + 0.8 * (x > 0)), lambda x: 0.2 + 0.8 * (x > 0), [0.0]),
    "abs": (abs, np.sign, [0.0]),
    "linear": (lambda x: x, lambda x: 1.0, []),
    "hard_tanh": (lambda x: min(max(x, -1.0), 1.0), lambda x: 1.0 * (abs(x) < 1), [-1.0, 1.0]),
    "sigmoid": (special.expit, lambda x: special.expit(x) * special.expit(-x), []),
    "softplus": (lambda x: np.logaddexp(0.0, x), special.expit, []),
    "swish": (
        lambda x: x * special.expit(x),
        lambda x: special.expit(x) + x * special.expit(x) * special.expit(-x),
        [],
    ),
    "gelu": (
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi),
        [],
    ),
    "sin": (np.sin, np.cos, []),
    "cos": (np.cos, lambda x: -np.sin(x), []),
    "exp": (np.exp, np.exp, []),
    "gaussian": (lambda x: np.exp(-x * x), lambda x: -2 * x * np.exp(-x * x), []),
}


def gaussian_expectation(f, q, kinks=()):
    """E[f(x)], x ~ N(0, q), by SciPy, with the panels ending at the kinks."""
    s = np.sqrt(q)
    ends = sorted({-14.0, -6.0, -2.0, 0.0, 2.0, 6.0, 14.0} | {k / s for k in kinks if abs(k) < s})

    def integrand(z):
        return f(s * z) * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)

    panels = (quad(integrand, *ab, epsabs=1e-18, epsrel=1e-12) for ab in zip(ends, ends[1:]))
    return sum(value for value, _ in panels)


def gaussian_covariance(f, q, c, kinks=()):
    """E[f(u) f(v)] by SciPy, one integral inside the other."""
    s = np.sqrt(q)

    def inner(u):
        r = np.sqrt(1 - c * c)
        ends = sorted(
            {-9.0, 0.0, 9.0} | {(k - c * u) / (s * r) for k in kinks if abs(k - c * u) < 9 * s * r}
        )

        def integrand(z):
            return f(c * u + s * r * z) * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)

        parts = (quad(integrand, *ab, epsabs=1e-14, epsrel=1e-12) for ab in zip(ends, ends[1:]))
        return sum(value for value, _ in parts)

    return gaussian_expectation(lambda u: f(u) * inner(u), q, kinks)


def test_every_name_has_a_reference():
    assert set(REFERENCES) <= set(activations.NAMES)  # the others: test_forms


@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
@pytest.mark.parametrize("q", [1e-6, 0.03, 1.0, 10.0])
@pytest.mark.parametrize("name", REFERENCES)
def test_one_point_moments_agree_with_quadrature(name, q):
    phi, phi_prime, kinks = REFERENCES[name]
    activation = activations.get(name)
    second = gaussian_expectation(lambda x: phi(x) ** 2, q, kinks)
    derivative = gaussian_expectation(lambda x: phi_prime(x) ** 2, q, kinks)
    np.testing.assert_allclose(activation.second_moment(q), second, rtol=1e-11)
    np.testing.assert_allclose(activation.derivative_second_moment(q), derivative, rtol=1e-11)
    mean = gaussian_expectation(phi, q, kinks)
    np.testing.assert_allclose(activation.mean(q), mean, rtol=1e-11, atol=1e-14 * np.sqrt(second))
    # The slope against quadrature of the same integral: absolute in units of its two parts.
    slope = gaussian_expectation(lambda x: x * phi(x) * phi_prime(x), q, kinks) / q
    np.testing.assert_allclose(
        activation.second_moment_slope(q), slope, rtol=1e-10, atol=1e-13 * np.sqrt(second / q)
    )
    scale = q * derivative + second
    np.testing.assert_allclose(
        activation.deficit(q), q * derivative - second, rtol=1e-10, atol=1e-12 * scale
    )


@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
@pytest.mark.parametrize("c", [0.0, 0.7, 0.999, -0.6])
@pytest.mark.parametrize("name", ["tanh", "erf", "relu", "hard_tanh", "sin", "exp", "gaussian"])
def test_two_point_moments_agree_with_nested_quadrature(name, c):
    q = 1.3
    phi, phi_prime, kinks = REFERENCES[name]
    activation = activations.get(name)
    scale = activation.second_moment(q)
    expected = gaussian_covariance(phi, q, c, kinks)
    np.testing.assert_allclose(activation.covariance(q, c), expected, rtol=0, atol=1e-10 * scale)
    scale = activation.derivative_second_moment(q)
    expected = gaussian_covariance(phi_prime, q, c, kinks)
    np.testing.assert_allclose(
        activation.derivative_covariance(q, c), expected, rtol=0, atol=1e-10 * scale
    )


@pytest.mark.parametrize("name", ["erf", "relu", "hard_tanh", "sin", "cos", "exp", "gaussian"])
@pytest.mark.parametrize("q", [1e-6, 0.4, 10.0])
@pytest.mark.parametrize("gap", [1e-9, 1e-3, 0.4, 1.7])
def test_closed_forms_agree_with_general_quadrature(name, q, gap):
    known = activations.get(name)
    general = Activation(known.phi, known.phi_prime)
    c = 1 - gap
    for moment in ("derivative_covariance", "covariance_secant"):
        expected, value = (getattr(a, moment)(q, c) for a in (general, known))
        total = known.derivative_second_moment(q)
        # exp falls to the nested quadrature, whose terms are up to E[phi'^2].
        atol = (2e-12 if name == "exp" else 1e-13) * total
        if moment == "covariance_secant":  # differences of rounded values of phi (cos: of 1)
            atol += 1e-16 * np.sqrt(known.second_moment(q) * total / (q * gap))
        np.testing.assert_allclose(value, expected, rtol=1e-11, atol=atol)


@pytest.mark.parametrize("name", ["erf", "hard_tanh", "gaussian"])
@pytest.mark.parametrize(
    ("q", "gap"), [*itertools.product((600.0, 1e5), (1e-12, 1e-4, 0.4, 1.7)), (1e9, 1e-4)]
)
def test_general_quadrature_resolves_features_far_narrower_than_the_signal(name, q, gap):
    known = activations.get(name)
    general = Activation(known.phi, known.phi_prime)
    c = 1 - gap
    for moment in ("derivative_covariance", "covariance_secant"):
        expected, value = (getattr(a, moment)(q, c) for a in (known, general))
        # The nested quadrature (a kink, or q = 1e9) subtracts from E[phi'^2].
        atol = 1e-13 * known.derivative_second_moment(q)
        np.testing.assert_allclose(value, expected, rtol=1e-10, atol=atol)


@pytest.mark.parametrize("q", [1e-6, 1e-4])
def test_deficit_keeps_its_digits_at_small_variance(q):
    # Series: erf x = a (x - x^3/3 + x^5/10 - x^7/42), E[x^2k] = (2k-1)!! q^k, a^2 = 4 / pi, give
    # q E[phi'^2] - E[phi^2] = a^2 (4/3 q^3 - 8 q^4 + ...); measured on erf's general quadrature.
    erf = activations.get("erf")
    general = Activation(erf.phi, erf.phi_prime)
    # (2/pi)(y - arctan y), y = 2q/sqrt(1+4q): y^3/3 - y^5/5 + y^7/7
    y = 2 * q / np.sqrt(1 + 4 * q)
    expected = 2 / np.pi * (y**3 / 3 - y**5 / 5 + y**7 / 7)
    np.testing.assert_allclose(erf.deficit(q), expected, rtol=1e-14)
    # Rounding of phi' (1e-16) against its change over the distribution, of order q.
    np.testing.assert_allclose(general.deficit(q), expected, rtol=1e-16 / q * 4)


@pytest.mark.parametrize("kink", [0.3, -1.75])
def test_kinks_of_user_functions_are_found(kink):
    # A relu shifted by `kink`: E[phi'^2] is a normal tail, E[phi^2] known in closed form.
    shifted = Activation(lambda x: np.maximum(x - kink, 0), lambda x: 1.0 * (x > kink))
    for q in (1e-3, 0.5, 20.0):
        t = kink / np.sqrt(q)
        tail, density = special.ndtr(-t), np.exp(-t * t / 2) / np.sqrt(2 * np.pi)
        np.testing.assert_allclose(shifted.derivative_second_moment(q), tail, rtol=1e-12)
        second = q * ((1 + t * t) * tail - t * density)
        np.testing.assert_allclose(shifted.second_moment(q), second, rtol=1e-9 if t > 5 else 1e-11)
    reference = gaussian_covariance(lambda x: max(x - kink, 0.0), 0.5, 0.6, [kink])
    np.testing.assert_allclose(shifted.covariance(0.5, 0.6), reference, rtol=1e-10)


@pytest.mark.parametrize("name", activations.NAMES)
def test_phi_prime_is_the_derivative_of_phi(name):
    activation = activations.get(name)
    for dtype, tolerance in ((tf.float32, 1e-6), (tf.float64, 1e-14), (tf.bfloat16, 2e-2)):
        x = tf.cast(tf.constant([-3.3, -0.9, -0.2, 0.1, 0.8, 2.7]), dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = activation(x)
        expected = tape.gradient(y, x)
        value = activation.phi_prime(x)
        assert value.dtype == y.dtype == dtype
        np.testing.assert_allclose(
            tf.cast(value, tf.float64),
            tf.cast(expected, tf.float64),
            rtol=tolerance,
            atol=tolerance,
        )


def test_moments_are_available_while_a_graph_is_built():
    @tf.function
    def scaled(x):
        return x * float(activations.get("swish").second_moment(1.0))

    np.testing.assert_allclose(
        scaled(tf.constant(2.0, tf.float64)), 2 * activations.get("swish").second_moment(1.0)
    )


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (tf.tanh, "tanh"),
        (keras.activations.tanh, "tanh"),
        (keras.activations.relu, "relu"),
        (tf.nn.relu, "relu"),
        (keras.activations.gelu, "gelu"),
        (keras.activations.linear, "linear"),
        (keras.activations.silu, "swish"),
        (tf.math.erf, "erf"),
    ],
)
def test_known_functions_map_to_names(function, name):
    assert activations.get(function) is activations.get(name)
    x = tf.constant([-1.2, 0.3, 2.0], tf.float64)
    # Keras and TF keep the constants of gelu in float32 only.
    np.testing.assert_allclose(activations.get(name)(x), function(x), rtol=1e-6)


def test_vectorised_moments_keep_the_shape():
    q = np.array([[0.1, 1.0, 10.0]])
    assert activations.get("tanh").second_moment(q).shape == (1, 3)
    assert activations.get("tanh").covariance(q, np.array([[0.1], [0.9]])).shape == (2, 3)
    assert np.ndim(activations.get("tanh").second_moment(0.5)) == 0


@pytest.mark.parametrize(
    ("phi", "phi_prime"),
    [
        (np.sign, np.zeros_like),  # jumps: E[phi'^2] does not exist
        (np.tanh, lambda x: 1 - np.tanh(x)),
        (lambda x: np.where(x > 0, x, np.nan), np.ones_like),
    ],
)
def test_a_derivative_that_is_none_is_refused(phi, phi_prime):
    with pytest.raises(ValueError, match="phi_prime must be the derivative of phi, and phi cont"):
        Activation(phi, phi_prime).derivative_second_moment(1.0)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="abs.*erf.*tanh.*Received: 'tahn'"):
        activations.get("tahn")
    with pytest.raises(TypeError, match="Received: 3"):
        activations.get(3)
    with pytest.raises(TypeError, match="phi_prime must be callable"):
        Activation(np.tanh, 1.0)
    with pytest.raises(ValueError, match="q must be finite and positive"):
        activations.get("tanh").second_moment(-1.0)
    with pytest.raises(ValueError, match=r"c must lie in \[-1, 1\]"):
        activations.get("tanh").covariance(1.0, 1.5)
    with pytest.raises(TypeError, match="float32"):
        Activation(lambda x: np.float32(x), lambda x: np.ones_like(x)).second_moment(1.0)
    with pytest.raises(ValueError, match="not piecewise smooth"):
        noise = np.random.default_rng(0)
        Activation(lambda x: x + 1e-6 * noise.random(x.shape), np.ones_like).second_moment(1.0)
