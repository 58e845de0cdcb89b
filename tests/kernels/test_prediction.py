"""Predictions against explicit gradient descent, dense algebra and limits."""

import numpy as np
import pytest

from mfcnn import kernels


def problem(m=8, n=3, k=2, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(m + n, 20))
    theta = features @ features.T / 20
    y = rng.normal(size=(m, k))
    return theta[:m, :m], theta[m:, :m], theta[m:, m:], y


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_prediction_at_time_t_is_that_of_small_gradient_steps(ridge):
    train, test, _, y = problem()
    f_train, f_test, steps, rate, time = np.zeros_like(y), np.zeros((3, 2)), 40000, 0.7, 5.0
    dual = np.zeros_like(y)  # f = Theta dual, and the penalty ridge |weights|^2 / 2 decays it
    for _ in range(steps):
        dual += time / steps * rate * (y - f_train - ridge * dual)
        f_train = train @ dual
    f_test = test @ dual
    # Euler's error: time / steps times |Theta|^2 time, 1e-3.
    prediction = kernels.predict(train, test, y, time=time, learning_rate=rate, ridge=ridge)
    np.testing.assert_allclose(prediction, f_test, atol=2e-3)
    at_train = kernels.train_mean(train, y, time=time, learning_rate=rate, ridge=ridge)
    np.testing.assert_allclose(at_train, f_train, atol=2e-3)


def test_limits_of_time():
    train, test, _, y = problem()
    np.testing.assert_allclose(kernels.predict(train, test, y), test @ np.linalg.solve(train, y))
    np.testing.assert_allclose(kernels.predict(train, test, y, time=0.0), 0, atol=1e-15)
    np.testing.assert_allclose(
        kernels.predict(train, test, y, time=1e12), kernels.predict(train, test, y), rtol=1e-9
    )
    np.testing.assert_allclose(kernels.train_mean(train, y), y, rtol=1e-9)
    assert kernels.predict(train, test, y[:, 0]).shape == (3, 1)


def test_a_singular_kernel_is_refused_at_infinite_time_only():
    train, test, _, y = problem()
    features = np.linalg.cholesky(train)
    train = features[:, :4] @ features[:, :4].T
    with pytest.raises(ValueError, match="no correct digit"):
        kernels.predict(train, test, y)
    assert np.all(np.isfinite(kernels.predict(train, test, y, time=10.0)))
    assert np.all(np.isfinite(kernels.predict(train, test, y, ridge=1e-3)))


def test_ill_conditioned_kernels_keep_the_digits_they_have():
    # Eigenvalues over 13 decades in a known basis; y in the span of the large ones.
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    values = np.array([1.0, 1e-2, 1e-4, 1e-7, 1e-10, 1e-13])
    train = (basis * values) @ basis.T
    y = basis[:, :1] * 2.0
    with pytest.warns(UserWarning, match="digits"):
        prediction = kernels.predict(train, train, y)
    np.testing.assert_allclose(prediction, y, atol=1e-2)


def test_ensemble_of_trained_networks_interpolates_without_variance():
    train, test, both, y = problem()
    nngp = [k * 0.5 + 0.1 for k in (train, test, both)]
    result = kernels.ensemble(train, train, nngp[0], nngp[0], nngp[0], y)
    np.testing.assert_allclose(result.mean, y, atol=1e-9)
    np.testing.assert_allclose(result.covariance, 0, atol=1e-9)
    start = kernels.ensemble(train, test, *nngp, y, time=0.0)
    np.testing.assert_allclose(start.covariance, nngp[2], atol=1e-12)


def test_ensemble_equals_monte_carlo_over_initial_functions():
    train, test, both, y = problem()
    joint = np.block([[train, test.T], [test, both]]) * 0.5
    rng = np.random.default_rng(1)
    start = rng.multivariate_normal(np.zeros(11), joint, size=20000)
    g = kernels.predict(train, test, np.eye(8), time=2.0)
    final = start[:, 8:] + (y[:, 0] - start[:, :8]) @ g.T
    result = kernels.ensemble(train, test, joint[:8, :8], joint[8:, :8], joint[8:, 8:], y, time=2.0)
    error = np.sqrt(np.outer(final.var(0), final.var(0)) * 2 / 20000)
    assert np.all(np.abs(np.cov(final.T) - result.covariance) < 5 * error)
    assert np.all(np.abs(final.mean(0) - result.mean[:, 0]) < 5 * final.std(0) / np.sqrt(20000))


def test_posterior_is_the_conditional_gaussian():
    train, test, both, y = problem()
    result = kernels.posterior(train, test, both, y, noise=0.1)
    inverse = np.linalg.inv(train + 0.1 * np.eye(8))
    np.testing.assert_allclose(result.mean, test @ inverse @ y)
    np.testing.assert_allclose(result.covariance, both - test @ inverse @ test.T)


def test_ordered_limit_is_the_limit_of_predictions():
    train, test, _, y = problem()
    expected = kernels.ordered_limit(train, test, y)
    errors = []
    for size in (1e-3, 1e-5):
        errors.append(
            np.max(np.abs(kernels.predict(2 + size * train, 2 + size * test, y) - expected))
        )
    # Linear in the size of the data-dependent part.
    assert errors[0] < 1e-2 and errors[1] < 2e-2 * errors[0] + 1e-8


def test_data_dependent_part_vanishes_for_the_limit_kernel():
    _, _, _, y = problem()
    limit = 2.0 * np.eye(8) + 0.5
    delta = kernels.data_dependent_part(limit, np.full((3, 8), 0.5), y, 2.5, 0.5)
    np.testing.assert_allclose(delta, 0, atol=1e-12)
    train, test, _, _ = problem()
    delta = kernels.data_dependent_part(train, test, y, np.inf, 0.5)
    np.testing.assert_allclose(delta, kernels.predict(train, test, y))


def test_spectrum_of_a_two_level_matrix():
    result = kernels.spectrum(3.0 * np.eye(5) + 2.0)
    np.testing.assert_allclose(
        [result.lambda_max, result.lambda_rest, result.lambda_min, result.condition_number],
        [13.0, 3.0, 3.0, 13 / 3],
    )
    assert np.isinf(kernels.spectrum(np.ones((3, 3))).condition_number)


def test_learning_rates_beyond_the_largest_diverge():
    train, _, _, y = problem()
    for factor, bounded in ((0.99, True), (1.01, False)):
        f = np.zeros_like(y)
        for _ in range(3000):
            f -= factor * kernels.max_learning_rate(train) * train @ (f - y)
        assert (np.max(np.abs(f)) < 1e3) == bounded


@pytest.mark.parametrize(
    "change, message",
    [
        ({"time": -1.0}, "time must be"),
        ({"ridge": -1.0}, "ridge must be"),
        ({"learning_rate": np.inf}, "learning_rate must be"),
        ({"y_train": np.ones(7)}, "y_train must be"),
        ({"kernel_train_train": np.ones((8, 7))}, "square"),
        ({"kernel_train_train": np.triu(np.ones((8, 8)))}, "symmetric"),
        ({"kernel_train_train": -np.eye(8)}, "positive semi-definite"),
        ({"kernel_test_train": np.ones((3, 7))}, "8 columns"),
        ({"kernel_test_train": np.full((3, 8), np.nan)}, "finite"),
    ],
)
def test_bad_arguments_are_named(change, message):
    train, test, _, y = problem()
    arguments = {"kernel_train_train": train, "kernel_test_train": test, "y_train": y} | change
    with pytest.raises(ValueError, match=message):
        kernels.predict(**arguments)
