"""Samples of a data set at the fixed point."""

import numpy as np
import pytest

from experiments import samples
from mfcnn import kernels
from tests.tolerances import float64

VARIANCES = 2.0, 0.1


def test_first_pre_activations_have_the_fixed_points_variance():
    limit = kernels.limits("erf", *VARIANCES)
    x, _ = samples.draw("digits", "train", 20, 0)
    flat = samples.at_fixed_point(x.reshape(20, -1), limit, *VARIANCES)
    for depth in (0, 5):  # and keep it
        nngp = kernels.fully_connected(depth, "erf", *VARIANCES)(flat, get="nngp").numpy()
        np.testing.assert_allclose(np.diag(nngp), limit.q_star, rtol=float64.deep)
    colours = np.random.default_rng(0).normal(size=(2, 4, 4, 3))
    scaled = samples.at_fixed_point(colours, limit, *VARIANCES, pixels=True)
    variance = VARIANCES[0] * np.mean(scaled**2, axis=-1) + VARIANCES[1]
    np.testing.assert_allclose(variance, limit.q_star, rtol=float64.summed)


def test_a_sample_is_drawn_at_random_and_by_its_seed():
    images, labels = samples.draw("digits", "train", 200, 0)
    again, other = samples.draw("digits", "train", 200, 0), samples.draw("digits", "train", 200, 1)
    np.testing.assert_array_equal(images, again[0])
    assert images.dtype == np.float64 and np.any(labels != other[1])
    # A balanced sample has 20 of each class; a random one has that with a probability of 1e-5.
    assert np.any(np.bincount(labels, minlength=10) != 20)


def test_more_examples_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="subset must be at most 360.*Received: subset=361"):
        samples.draw("digits", "test", 361, 0)


def test_targets_have_mean_zero():
    y = samples.targets(np.array([0, 2, 1]), 4)
    np.testing.assert_allclose(y.sum(axis=1), 0, atol=1e-15)
    np.testing.assert_array_equal(np.argmax(y, axis=1), [0, 2, 1])
