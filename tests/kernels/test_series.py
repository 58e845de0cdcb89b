"""Series of an angle: against NumPy's arc cosine and its own Chebyshev sums."""

import numpy as np
import pytest
import tensorflow as tf

from mfcnn.kernels import _series

CORRELATIONS = np.concatenate(
    [np.linspace(-1, 1, 4001), 1 - np.logspace(-13, -1, 40), np.logspace(-13, -1, 40) - 1]
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_arc_cosine_is_exact_to_a_few_roundings_near_one_too(dtype):
    correlation = CORRELATIONS.astype(dtype)
    exact = np.arccos(correlation.astype(np.longdouble))
    found = _series.arc_cosine(tf.constant(correlation)).numpy()
    # Relative: a small angle is the root of a gap. XLA and a plain call may differ by rounding.
    np.testing.assert_allclose(found, exact.astype(dtype), rtol=8 * np.finfo(dtype).eps)


def test_correlations_beyond_one_count_as_one():
    assert _series.arc_cosine(tf.constant([1.1, -1.1], tf.float64)).numpy() == pytest.approx(
        [0, np.pi], rel=1e-15
    )


@pytest.mark.parametrize("terms", [1, 2, 4, 5, 31, 256])
def test_four_chains_are_the_sum_of_the_series(terms):
    random = np.random.default_rng(terms)
    series = random.standard_normal(terms) * 0.9 ** np.arange(terms)
    correlation = np.append(random.uniform(-1, 1, 1000), [-1, 1])
    found = _series.evaluate(tf.constant(correlation), tf.constant(_series.chains(series)))
    expected = np.polynomial.chebyshev.chebval(2 * np.arccos(correlation) / np.pi - 1, series)
    # A rounding of x moves T_n by n of them at most n times over; coefficients fall off.
    size = np.abs(series) @ (1 + np.arange(terms)) ** 2
    assert np.max(np.abs(found - expected)) < 4 * np.finfo(float).eps * size


def test_an_input_beside_itself_has_angle_zero():
    parts = tf.constant(_series.chains(np.array([0.0, 1.0])))  # 2 angle / pi - 1
    close = tf.constant([1 - 1e-15, 1.0, 1 + 1e-15], tf.float64)
    np.testing.assert_array_equal(_series.evaluate(close, parts), [-1, -1, -1])
