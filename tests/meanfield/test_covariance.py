"""Covariance dynamics against random networks, brute force and their linearization."""

import numpy as np
import pytest

from mfcnn import activations, meanfield
from tests.tolerances import float64

PROFILES = {1: np.array([0.2, 0.5, 0.3]), 2: np.array([[0.1, 0.2, 0.1], [0.3, 0.2, 0.1]])}


def random_covariance(shape, seed=0):
    n = int(np.prod(shape))
    matrix = np.random.default_rng(seed).standard_normal((n, 2 * n))
    return (matrix @ matrix.T / (2 * n)).reshape(*shape, *shape)


def brute_force(covariance, activation, weight_variance, bias_variance, profile):
    """One layer, entry by entry, with shifts by index arithmetic."""
    shape = covariance.shape[: covariance.ndim // 2]
    n = int(np.prod(shape))
    matrix = covariance.reshape(n, n)
    q = np.diag(matrix)
    mapped = np.empty((n, n))
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    phi = activations.get(activation).phi
    for i in range(n):
        for j in range(n):
            c = np.clip(matrix[i, j] / np.sqrt(q[i] * q[j]), -1, 1)
            u = np.sqrt(q[i]) * nodes[:, None]
            v = np.sqrt(q[j]) * (c * nodes[:, None] + np.sqrt(1 - c * c) * nodes)
            second = weights @ (np.asarray(phi(u)) * np.asarray(phi(v))) @ weights
            mapped[i, j] = weight_variance * second + bias_variance
    result = np.zeros_like(mapped)
    for i in np.ndindex(*shape):
        for j in np.ndindex(*shape):
            total = 0.0
            for b in np.ndindex(*profile.shape):
                shift = [k - (m - 1) // 2 for k, m in zip(b, profile.shape)]
                a, d = (
                    (x[0], *((p + s) % m for p, s, m in zip(x[1:], shift, shape[1:])))
                    for x in (i, j)
                )
                total += (
                    profile[b]
                    * mapped[np.ravel_multi_index(a, shape), np.ravel_multi_index(d, shape)]
                )
            result[np.ravel_multi_index(i, shape), np.ravel_multi_index(j, shape)] = total
    return result.reshape(covariance.shape)


@pytest.mark.parametrize(
    ("shape", "activation"), [((1, 5), "tanh"), ((2, 4), "erf"), ((2, 2, 3), "tanh")]
)
def test_a_layer_agrees_with_brute_force(shape, activation):
    profile = PROFILES[len(shape) - 1]
    covariance = random_covariance(shape)
    trajectory = meanfield.covariance_trajectory(covariance, activation, 1.6, 0.1, profile, 2)
    assert trajectory.shape == (3, *shape, *shape)
    np.testing.assert_array_equal(trajectory[0], covariance)
    # 80-point Gauss-Hermite: 1e-9 for tanh at these variances.
    for before, after in zip(trajectory, trajectory[1:]):
        expected = brute_force(before, activation, 1.6, 0.1, profile)
        np.testing.assert_allclose(after, expected, atol=2e-8)


def test_random_networks_have_the_predicted_covariance():
    # Three layers of explicit random convolutions, 1D, c channels.
    channels, networks, size = 200, 30, 5
    profile, weight_variance, bias_variance = PROFILES[1], 1.8, 0.2
    start = random_covariance((1, size), seed=3)
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(start.reshape(size, size))
    found = []
    for _ in range(networks):
        h = root @ rng.standard_normal((size, channels))
        for _ in range(3):
            x, total = np.tanh(h), 0.0
            for offset, v in zip((-1, 0, 1), profile):
                w = rng.standard_normal((channels, channels)) * np.sqrt(
                    weight_variance * v / channels
                )
                total = total + np.roll(x, -offset, axis=0) @ w
            h = total + np.sqrt(bias_variance) * rng.standard_normal(channels)
        found.append(h @ h.T / channels)
    found = np.stack(found)
    expected = meanfield.covariance_trajectory(
        start, "tanh", weight_variance, bias_variance, profile, 3
    )[-1].reshape(size, size)
    error = found.std(axis=0, ddof=1) / np.sqrt(networks)
    # 15 different entries: 4 standard errors, and the 1 / c correction of the mean.
    assert np.all(np.abs(found.mean(axis=0) - expected) < 4 * error + 2 / channels)


@pytest.mark.parametrize(("weight_variance", "bias_variance"), [(1.2, 0.3), (2.25, 0.25)])
def test_the_linearization_is_the_derivative_of_the_map(weight_variance, bias_variance):
    profile, size = np.array([0.1, 0.7, 0.2]), 6
    arguments = ("erf", weight_variance, bias_variance, profile)
    point = meanfield.fixed_point(*arguments[:3])
    fixed = meanfield.fixed_point_covariance(point, (size,))
    linear = meanfield.linearize_covariance(*arguments, size)
    np.testing.assert_allclose(
        meanfield.covariance_trajectory(fixed, *arguments, 1)[1], fixed, rtol=float64.summed
    )
    direction = np.random.default_rng(0).standard_normal((size, size))
    # Off-diagonal changes lower the covariances: at c* = 1 they can only fall.
    direction = -np.abs(direction + direction.T)
    np.fill_diagonal(direction, 0.0 if point.c_star == 1 else 0.5)
    errors = []
    for step in (1e-4, 1e-5):
        changed = fixed + step * direction.reshape(fixed.shape)
        moved = meanfield.covariance_trajectory(changed, *arguments, 1)[1] - fixed
        expected = linear.apply(step * direction.reshape(fixed.shape), profile)
        errors.append(np.max(np.abs(moved - expected)) / step)
    assert errors[0] < 1e-2 and errors[1] < 0.2 * errors[0]  # the rest is of second order


def test_modes_decay_as_the_linearization_says():
    # Deep enough that only the slowest part is left, one mode at a time.
    profile, size, depth = np.array([0.025, 0.95, 0.025]), 10, 60
    arguments = ("erf", 2.25, 0.25, profile)
    point = meanfield.fixed_point(*arguments[:3])
    fixed = meanfield.fixed_point_covariance(point, (size,))
    linear = meanfield.linearize_covariance(*arguments, size)
    for mode in (0, 2, 5):
        wave = 1e-7 * np.cos(2 * np.pi * mode * np.arange(size) / size)
        change = np.zeros((size, size))
        for i in range(size):
            change[i, (i + 1) % size] += wave[i]
            change[(i + 1) % size, i] += wave[i]
        start = fixed - change.reshape(fixed.shape)
        history = meanfield.covariance_trajectory(start, *arguments, depth).reshape(-1, size, size)
        diagonal = (fixed.reshape(size, size) - history)[
            :, np.arange(size), (np.arange(size) + 1) % size
        ]
        found = np.abs(np.fft.fft(diagonal)[:, mode])
        # Amplitude 1e-7 leaves a non-linearity of 1e-7, rounding 1e-16 / 1e-9.
        np.testing.assert_allclose(
            found[40] / found[20], linear.off_diagonal[mode] ** 20, rtol=1e-4
        )


def test_two_equal_inputs_stay_equal():
    one = random_covariance((1, 4), seed=5).reshape(4, 4)
    both = np.tile(one, (2, 2)).reshape(2, 4, 2, 4)
    result = meanfield.covariance_trajectory(both, "relu", 1.8, 0.1, PROFILES[1], 5)[-1]
    np.testing.assert_allclose(result[0, :, 1, :], result[0, :, 0, :], rtol=1e-7)


def test_a_dead_signal_lives_on_its_biases():
    dead = np.zeros((1, 4, 1, 4))
    np.testing.assert_array_equal(
        meanfield.covariance_trajectory(dead, "tanh", 1.5, 0.0, PROFILES[1], 2)[-1], dead
    )
    # The bias alone: then all positions are equal, c = 1.
    second = activations.get("tanh").second_moment(0.1)
    result = meanfield.covariance_trajectory(dead, "tanh", 1.5, 0.1, PROFILES[1], 2)
    np.testing.assert_allclose(result[1], 0.1, rtol=1e-14)
    np.testing.assert_allclose(result[2], 1.5 * second + 0.1, rtol=float64.deep)


def test_an_overflow_is_told_with_its_layer():
    with pytest.raises(ValueError, match="leaves the range of float64 by layer"):
        start = random_covariance((1, 4))
        meanfield.covariance_trajectory(start, "relu", 4.0, 0.1, PROFILES[1], 2000)
