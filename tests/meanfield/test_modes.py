"""Fourier modes of the averaging operator and their depth scales."""

import numpy as np
import pytest
import tensorflow as tf

from mfcnn import meanfield
from mfcnn.meanfield._averaging import average
from tests.tolerances import float64


@pytest.mark.parametrize(
    ("profile", "size"),
    [([0.2, 0.5, 0.3], 7), ([0.1, 0.9], 4), ([[0.1, 0.2], [0.3, 0.4]], (3, 5))],
)
def test_eigenvalues_are_those_of_the_averaging_operator(profile, size):
    # A_v acts on each cyclic diagonal as a circulant: its matrix on shifts (a, a + d), d fixed.
    profile = np.array(profile)
    sizes = (size,) if np.ndim(size) == 0 else size
    n = int(np.prod(sizes))
    matrix = np.empty((n, n))
    for i in range(n):
        covariance = np.zeros((1, *sizes, 1, *sizes))
        place = np.unravel_index(i, sizes)
        covariance[(0, *place, 0, *place)] = 1.0
        mapped = average(tf.constant(covariance), profile, copies=2).numpy().reshape(n, n)
        matrix[:, i] = np.diag(mapped)
    expected = np.linalg.eigvals(matrix)
    values = meanfield.mode_eigenvalues(profile, size).ravel()
    for value in values:
        assert np.min(np.abs(expected - value)) < 1e-13
    np.testing.assert_allclose(values.sum(), np.trace(matrix), atol=float64.summed)


@pytest.mark.parametrize("name", ["gs0", "gs1", "gs2", "gs3", "gs4"])
def test_profiles_interpolate_from_delta_to_uniform(name):
    profile = meanfield.variance_profile(name, 3, rank=2)
    t = int(name[-1]) / 4
    assert profile.shape == (3, 3)
    np.testing.assert_allclose(profile.sum(), 1, rtol=1e-15)
    np.testing.assert_allclose(profile[1, 1], 1 - t + t / 9)
    np.testing.assert_allclose(profile[0, 2], t / 9)
    magnitude = np.abs(meanfield.mode_eigenvalues(profile, 8))
    uniform = np.abs(meanfield.mode_eigenvalues(meanfield.variance_profile("uniform"), 8))
    if name == "gs0":
        np.testing.assert_allclose(magnitude, 1, rtol=1e-14)
    if name == "gs4":
        np.testing.assert_allclose(magnitude, uniform)


def test_all_modes_live_forever_with_a_delta_kernel_on_the_critical_line():
    point = meanfield.critical_point("tanh", 0.01)
    delta = meanfield.mode_depth_scales("tanh", *point, meanfield.variance_profile("delta"), 8)
    assert delta.shape == (8, 8) and np.all(np.isinf(delta))
    uniform = meanfield.mode_depth_scales("tanh", *point, meanfield.variance_profile("uniform"), 8)
    assert np.isinf(uniform[0, 0]) and np.isfinite(uniform.ravel()[1:]).all()


def test_depth_scales_are_those_of_chi_c_times_the_eigenvalue():
    profile = [0.025, 0.95, 0.025]
    point = meanfield.fixed_point("erf", 2.25, 0.25)
    scales = meanfield.mode_depth_scales("erf", 2.25, 0.25, profile, 10)
    lambdas = 0.95 + 0.05 * np.cos(2 * np.pi * np.arange(10) / 10)
    np.testing.assert_allclose(scales, -1 / np.log(point.chi_c * lambdas), rtol=float64.summed)
    np.testing.assert_allclose(scales[0], point.xi_c, rtol=float64.summed)
    # A width-3 uniform kernel on 3 positions removes all other modes at once.
    assert np.all(meanfield.mode_depth_scales("erf", 2.25, 0.25, np.full(3, 1 / 3), 3)[1:] < 0.1)
