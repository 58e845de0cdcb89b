"""Near-duplicates and collinear inputs of any norm, against the recursion in 250 digits.

In chaos the distance of two inputs grows by sqrt(chi_1) in each layer, and what rounding adds to it
grows alike. mpmath's recursion works with covariances, as the papers print it; the inputs are
floats, and so exact in it.
"""

import mpmath
import numpy as np
import pytest

from mfcnn import activations, kernels
from tests.activations.exact import KNOWN, maps

CURVED = {"relu_squared", "sparse_plus", "hard_swish"}  # tests/activations/test_close.py

DEPTH = 50
# In chaos wherever there is one: chi_1 is 2 to 5, but for the activations that grow like their
# input, whose correlations converge to one.
NETWORKS = {
    "erf": (6.25, 0.25),
    "sin": (4.0, 0.1),
    "cos": (4.0, 0.1),
    "gaussian": (20.0, 0.1),
    "gelu": (2.0, 0.1),
    "sign": (2.0, 0.1),
    "linear": (1.0, 0.1),
    "relu": (2.0, 0.1),
    "leaky_relu": (1.9, 0.1),
    "abs": (1.0, 0.1),
    "abrelu": (1.6, 0.1),
}
SATURATED = [("erf", 2.5, 0.1), ("erf", 20.0, 0.1)]
# By an integral for each pair and layer: few pairs of moderate norm.
INTEGRALS = {
    "hard_tanh": (6.0, 0.1),
    "hard_sigmoid": (1000.0, 0.1),
    "relu6": (20.0, 0.1),
    "soft_shrink": (1.5, 0.1),
    "sparse_sigmoid": (200.0, 0.1),
}


def exact(x, activation, weight_variance, bias_variance, readout=None):
    """NNGP and NTK [n, n] of sequences [n, length, channels] with three circular taps.

    Vectors are sequences of length one, on which all taps meet.
    """
    n, length, channels = x.shape
    wide = np.vectorize(mpmath.mpf, otypes=[object])
    x, weight, bias = wide(x), mpmath.mpf(weight_variance), mpmath.mpf(bias_variance)

    def average(kernel):
        return sum(np.roll(kernel, (s, s), (1, 3)) for s in (-1, 0, 1)) / mpmath.mpf(3)

    def read(kernel):
        if readout == "pool":
            return kernel.sum((1, 3)) / mpmath.mpf(length**2)
        return np.trace(kernel, axis1=1, axis2=3) / mpmath.mpf(length)

    kernel = np.einsum("aic,bjc->aibj", x, x) / mpmath.mpf(channels)
    nngp = ntk = weight * average(kernel) + bias
    apply = _symmetric(maps(activation))
    for layer in range(DEPTH):
        q = np.array([[nngp[a, i, a, i] for i in range(length)] for a in range(n)])
        value, slope = apply(q[:, :, None, None], q[None, None], nngp)
        affine = average if layer < DEPTH - 1 else read
        nngp = weight * affine(value) + bias
        ntk = nngp + weight * affine(slope * ntk)
    return nngp.astype(float), ntk.astype(float)


def assert_equal(found, expected, tolerance=1e-9):
    """To the tolerance, and where entries are small beside the diagonal to its rounding.

    In each of 50 layers an entry has an error of some roundings of sqrt(K(x, x) K(y, y)): of
    inputs of norms 1e-8 and 1e20 under a linear map no more is known.
    """
    for field, value, wanted in zip(("nngp", "ntk"), found, expected):
        own = np.sqrt(np.diag(wanted))
        allowed = tolerance * np.abs(wanted) + 4 * DEPTH * 2.0**-52 * np.outer(own, own)
        error = np.max(np.abs(np.asarray(value) - wanted) / allowed) * tolerance
        assert error < tolerance, f"{field}: {error:.1e}"


def _symmetric(function):
    """The function for all pairs of positions, of which it computes half."""

    def apply(q1, q2, nngp):
        shape, count = nngp.shape, q1.size
        value, slope = np.empty([2, count, count], object)
        variances, matrix = q1.ravel(), nngp.reshape(count, count)
        for i in range(count):
            for j in range(i + 1):
                both = function(variances[i], variances[j], matrix[i, j])
                value[i, j], slope[i, j] = both
                value[j, i], slope[j, i] = both
        return value.reshape(shape), slope.reshape(shape)

    return apply


def close_inputs(shape):
    """Inputs that nearly coincide and inputs that are collinear, at norms from 1e-8 to 1e20."""
    rng = np.random.default_rng(0)
    x, other = rng.normal(size=(2, *shape))
    near = [x + 10.0**-k * other for k in (3, 7, 12)]
    scaled = [x * (1 + 10.0**-k) for k in (3, 12)]
    large = [1e-8 * x, 1e8 * x, 1e8 * (1 + 1e-9) * x, 1e20 * x, 1e20 * (1 + 1e-3) * x, 3e20 * x]
    return np.array([x, *near, *scaled, *large])


@pytest.mark.parametrize(
    "activation, weight_variance, bias_variance",
    [*((name, *variances) for name, variances in NETWORKS.items()), *SATURATED],
)
def test_dense_kernels_keep_nine_digits(activation, weight_variance, bias_variance):
    x = close_inputs((6,))
    with mpmath.workdps(250):
        expected = exact(x[:, None], activation, weight_variance, bias_variance)
    kernel = kernels.fully_connected(DEPTH, activation, weight_variance, bias_variance)
    assert_equal(kernel(x), expected)


@pytest.mark.slow
@pytest.mark.parametrize("activation", INTEGRALS)
def test_kinks_keep_nine_digits(activation):
    x, other = np.random.default_rng(0).normal(size=(2, 6))
    x = np.array([x, x + 1e-7 * other, x * (1 + 1e-12)])
    with mpmath.workdps(60):
        expected = exact(x[:, None], activation, *INTEGRALS[activation])
    assert_equal(kernels.fully_connected(DEPTH, activation, *INTEGRALS[activation])(x), expected)


def test_small_variances_of_an_exponential():
    x = close_inputs((6,))
    x = x[np.max(np.abs(x), axis=1) < 3]
    with mpmath.workdps(80):
        expected = exact(x[:, None], "exp", 0.05, 0.1)
    assert_equal(kernels.fully_connected(DEPTH, "exp", 0.05, 0.1)(x), expected)


def test_tables_keep_nine_digits():
    x = close_inputs((6,))
    x = x[np.max(np.abs(x), axis=1) < 3]
    erf = activations.get("erf")
    own = activations.Activation(erf.phi, erf.phi_prime)  # has no closed form
    with mpmath.workdps(80):
        expected = exact(x[:, None], "erf", 2.5, 0.1)
    assert_equal(kernels.fully_connected(DEPTH, own, 2.5, 0.1)(x), expected)


def test_every_closed_form_is_tested():
    assert {*NETWORKS, *INTEGRALS, "exp", *CURVED} == KNOWN


@pytest.mark.parametrize("readout", ["flatten", "pool"])
@pytest.mark.parametrize("activation", ["erf", "sin"])
def test_convolutional_kernels_keep_nine_digits(activation, readout):
    x = close_inputs((2, 1))[::2]
    with mpmath.workdps(200):
        expected = exact(x, activation, *NETWORKS[activation], readout)
    kernel = kernels.convolutional(DEPTH, activation, *NETWORKS[activation], readout=readout)
    assert_equal(kernel(x), expected)


def test_inputs_that_are_equal_are_found_wherever_they_stand():
    x = np.random.default_rng(0).normal(size=(6, 4))
    x[4] = x[1]
    kernel = kernels.fully_connected(DEPTH, "erf", 6.25, 0.25)
    for values, own in zip(kernel(x, x[[1, 3]]), kernel(x)):
        own = np.diag(own)
        np.testing.assert_allclose(values.numpy()[[1, 4, 3], [0, 0, 1]], own[[1, 4, 3]], rtol=1e-12)
    nngp, ntk = kernel(x)
    assert nngp[1, 4] == nngp[1, 1] and ntk[1, 4] == ntk[1, 1]
