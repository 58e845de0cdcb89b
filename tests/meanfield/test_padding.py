"""Zeros at the border and shrinking images, against matrices written out."""

import numpy as np
import pytest

from experiments import vanilla, verdict
from mfcnn import meanfield


def shifts(size, taps):
    """The matrix [size, size] of each tap of a filter: row a takes position a + offset, or zero."""
    return [np.eye(size, k=i - (taps - 1) // 2) for i in range(taps)]


@pytest.mark.parametrize("size", [2, 5])
def test_zero_padded_covariances_of_linear_networks(size):
    v, w, b = np.array([0.2, 0.5, 0.3]), 0.9, 0.1
    root = np.random.default_rng(0).standard_normal((size, 2 * size))
    sigma = root @ root.T / size
    start = sigma.reshape(1, size, 1, size)
    path = meanfield.covariance_trajectory(start, "linear", w, b, v, 3, padding="same")
    for found in path[1:]:
        sigma = w * sum(t * s @ sigma @ s.T for t, s in zip(v, shifts(size, 3))) + b
        np.testing.assert_allclose(found.reshape(size, size), sigma, rtol=1e-12)
    last = meanfield.covariance_trajectory(start, "linear", w, b, v, 3, "same", last_only=True)
    np.testing.assert_array_equal(last, path[-1])


def test_valid_layers_are_sums_without_a_border():
    v, w, b, size = np.array([0.2, 0.5, 0.3]), 0.9, 0.1, 7
    sigma = np.diag(np.arange(1.0, size + 1))
    path = meanfield.covariance_trajectory(
        sigma.reshape(1, size, 1, size), "linear", w, b, v, 3, padding="valid"
    )
    for found in path[1:]:
        n = len(sigma) - 2
        sigma = w * sum(v[i] * sigma[i : i + n, i : i + n] for i in range(3)) + b
        np.testing.assert_allclose(found.reshape(n, n), sigma, rtol=1e-12)
    assert len(sigma) == 1


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_gradients_of_linear_networks_by_hand(padding):
    v, w, b, depth, size = np.array([0.2, 0.5, 0.3]), 0.9, 0.1, 3, 7
    inputs = np.linspace(0.5, 2.0, size)
    taps = shifts(size, 3)
    kept = [
        [s[1 : n - 1] for s in shifts(n, 3)] if padding == "valid" else taps
        for n in (size, size - 2, size - 4)
    ]
    seconds, variances = inputs, [inputs]
    for matrices in kept:
        seconds = w * sum(t * s @ seconds for t, s in zip(v, matrices)) + b
        variances.append(seconds)
    signal, expected = np.ones(len(variances[-1])), []
    for layer in reversed(range(depth)):
        expected.insert(0, sum(signal @ (s @ variances[layer]) for s in kept[layer]))
        signal = w * sum(t * s.T @ signal for t, s in zip(v, kept[layer]))
    found = meanfield.log_gradient_norms("linear", w, b, depth, inputs, v, size, padding)
    np.testing.assert_allclose(
        np.exp(found - found[-1]), np.array(expected) / expected[-1], rtol=1e-12
    )


def test_eigenvalues_with_zeros_are_sines():
    # Of a tridiagonal Toeplitz matrix in each direction.
    cosines = (1 + 2 * np.cos(np.pi * np.arange(1, 8) / 8)) / 3
    expected = np.sort(np.abs(np.outer(cosines, cosines)).ravel())[::-1]
    found = np.abs(meanfield.mode_eigenvalues("uniform", 7, "same")).ravel()
    np.testing.assert_allclose(found, expected, atol=1e-14)
    delta = meanfield.mode_eigenvalues("delta", 7, "same")
    np.testing.assert_allclose(delta, 1, rtol=1e-14)


def test_the_verdict_is_that_of_the_network():
    # 64 channels, 10 layers: fluctuations of some percent; the mean over four draws within five
    # standard errors and the 2 / c by which orthogonal channels differ from Gaussian ones.
    images = np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype("float32")
    network = {"depth": 10, "filters": 64, "padding": "same", "initialization": "orthogonal"}
    config = vanilla.configuration(default=True) | network
    row = verdict.compare(config, images, draws=4)
    for name in ("log10_gradient_ratio", "log10_variance"):
        error = 5 * row[f"{name}_deviation"] / 2 + np.log10(1 + 2 / 64)
        assert abs(row[name] - row[f"{name}_theory"]) < error
    assert row["trains"]
