"""Variance profiles: names, arrays, shapes."""

import numpy as np
import pytest

import mfcnn
from mfcnn import profiles


@pytest.mark.parametrize("name", [*profiles.NAMES, "GS0", "Delta", "UNIFORM", None])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, (3, 5), np.int64(4)])
def test_profiles_are_distributions_of_the_windows_shape(name, kernel_size):
    profile = profiles.parse(name, kernel_size, 2)
    assert profile.shape == tuple(np.broadcast_to(kernel_size, 2))
    assert np.all(profile >= 0) and profile.sum() == pytest.approx(1, abs=1e-15)


def test_the_names_of_one_profile_agree():
    np.testing.assert_array_equal(profiles.parse("gs4"), profiles.parse(None))
    np.testing.assert_array_equal(profiles.parse("GS0"), profiles.parse("delta"))
    np.testing.assert_allclose(profiles.parse("gs1"), 0.75 * profiles.parse("delta") + 0.25 / 9)


def test_the_orthogonal_profile_is_the_mean_square_of_orthogonal_kernels():
    draws, channels = 400, 8
    initializer = mfcnn.initializers.ConvolutionOrthogonal(seed=0)
    kernels = initializer.stack(draws, (3, 3, channels, channels)).numpy()
    shares = (kernels**2).sum((3, 4)) / channels
    error = shares.std(0, ddof=1) / np.sqrt(draws)
    assert np.all(np.abs(shares.mean(0) - profiles.parse("orthogonal")) < 4 * error)


def test_arrays_keep_their_shape_and_one_axis_is_separable():
    profile = np.array([[0.5, 0.0], [0.25, 0.25]])
    np.testing.assert_array_equal(profiles.parse(profile), profile)
    taps = np.array([0.25, 0.5, 0.25])
    np.testing.assert_array_equal(profiles.parse(taps, 3, 2), np.outer(taps, taps))
    assert profiles.parse(taps).shape == (3,)


@pytest.mark.parametrize(
    ("profile", "kernel_size", "message"),
    [
        ("gs5", 3, "must be None, an array, or one of"),
        (3, 3, "1 to 3 axes"),
        ([[1.0]], 3, r"must have \[3, 3\]"),
        ([[0.5, 0.6]], None, "sum to one"),
        ([[-0.5, 1.5]], None, "not be negative"),
        ([[np.nan, 1.0]], None, "finite"),
        ([["a"]], None, "real numbers"),
        (np.ones([1, 1, 1, 1]), None, "1 to 3 axes"),
    ],
)
def test_what_is_not_a_profile_is_refused(profile, kernel_size, message):
    rank = 2 if kernel_size else None
    with pytest.raises(ValueError, match=message):
        profiles.parse(profile, kernel_size, rank)
