"""Near-duplicates and collinear inputs of any norm, against the recursion in 250 digits.

In chaos the distance of two inputs grows by sqrt(chi_1) in each layer, and what rounding adds to it
grows alike. mpmath's recursion works with covariances, as the papers print it; the inputs are
floats, and so exact in it.
"""

import mpmath
import numpy as np
import pytest

from mfcnn import kernels

DEPTH = 50
CHAOS = [("erf", 6.25, 0.25), ("erf", 2.5, 0.1), ("relu", 2.0, 0.1)]


def maps(activation, q1, q2, q12):
    """E[phi phi] and E[phi' phi'], one pair of mpmath numbers."""
    if activation == "erf":
        size = (1 + 2 * q1) * (1 + 2 * q2)
        value = 2 / mpmath.pi * mpmath.asin(2 * q12 / mpmath.sqrt(size))
        return value, 4 / mpmath.pi / mpmath.sqrt(size - 4 * q12**2)
    size = mpmath.sqrt(q1 * q2)
    angle = mpmath.acos(min(q12 / size, mpmath.mpf(1)))
    value = mpmath.sin(angle) + (mpmath.pi - angle) * mpmath.cos(angle)
    return size * value / (2 * mpmath.pi), (mpmath.pi - angle) / (2 * mpmath.pi)


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
    apply = np.frompyfunc(lambda *q: maps(activation, *q), 3, 2)
    for layer in range(DEPTH):
        q = np.array([[nngp[a, i, a, i] for i in range(length)] for a in range(n)])
        value, slope = apply(q[:, :, None, None], q[None, None], nngp)
        affine = average if layer < DEPTH - 1 else read
        nngp = weight * affine(value) + bias
        ntk = nngp + weight * affine(slope * ntk)
    return nngp.astype(float), ntk.astype(float)


def assert_equal(found, expected, tolerance=1e-9):
    for field, value, wanted in zip(("nngp", "ntk"), found, expected):
        error = np.max(np.abs(np.asarray(value) / wanted - 1))
        assert error < tolerance, f"{field}: {error:.1e}"


def close_inputs(shape):
    """Inputs that nearly coincide and inputs that are collinear, at norms from 1e-8 to 1e20."""
    rng = np.random.default_rng(0)
    x, other = rng.normal(size=(2, *shape))
    near = [x + 10.0**-k * other for k in (3, 5, 7, 9, 11, 12)]
    scaled = [x * (1 + 10.0**-k) for k in (3, 7, 12)]
    large = [norm * x for norm in (1e-8, 1e-3, 1e3, 1e8, 1e20)]
    larger = [norm * factor * x for norm in (1e3, 1e8, 1e20) for factor in (1 + 1e-3, 1 + 1e-9, 3)]
    return np.array([x, *near, *scaled, *large, *larger])


@pytest.mark.parametrize("activation, weight_variance, bias_variance", CHAOS)
def test_dense_kernels_keep_nine_digits(activation, weight_variance, bias_variance):
    x = close_inputs((6,))
    with mpmath.workdps(200):
        expected = exact(x[:, None], activation, weight_variance, bias_variance)
    kernel = kernels.fully_connected(DEPTH, activation, weight_variance, bias_variance)
    assert_equal(kernel(x), expected)
    assert_equal(kernel(x, x[:2]), [e[:, :2] for e in expected])


@pytest.mark.parametrize("readout", ["flatten", "pool"])
def test_convolutional_kernels_keep_nine_digits(readout):
    x = close_inputs((2, 1))[::2]
    with mpmath.workdps(200):
        expected = exact(x, "erf", 6.25, 0.25, readout)
    assert_equal(kernels.convolutional(DEPTH, "erf", 6.25, 0.25, readout=readout)(x), expected)


def test_inputs_that_are_equal_are_found_wherever_they_stand():
    x = np.random.default_rng(0).normal(size=(6, 4))
    x[4] = x[1]
    kernel = kernels.fully_connected(DEPTH, "erf", 6.25, 0.25)
    for values, own in zip(kernel(x, x[[1, 3]]), kernel(x)):
        own = np.diag(own)
        np.testing.assert_allclose(values.numpy()[[1, 4, 3], [0, 0, 1]], own[[1, 4, 3]], rtol=1e-12)
    nngp, ntk = kernel(x)
    assert nngp[1, 4] == nngp[1, 1] and ntk[1, 4] == ntk[1, 1]
