"""Predictions against explicit gradient descent, dense algebra and limits."""

import warnings

import numpy as np
import pytest

from mfcnn import kernels, meanfield


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


def ill_conditioned(condition_number, m=60, seed=0):
    """A kernel with eigenvalues evenly spread over the decades, and targets K a for a random a."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(m, m)))
    values = np.logspace(0, -np.log10(condition_number), m)
    train = (basis * values) @ basis.T
    test = rng.normal(size=(5, m)) @ (basis * np.sqrt(values)).T
    a = rng.normal(size=(m, 1))
    return (train + train.T) / 2, test, train @ a, test @ a


@pytest.mark.parametrize("condition_number", [1e6, 1e10, 1e12, 1e14])
def test_predictions_have_the_digits_that_are_promised(condition_number):
    train, test, y, expected = ill_conditioned(condition_number)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prediction = kernels.predict(train, test, y)
    found = np.linalg.eigvalsh(train)
    # eps (3 + sqrt(m) / 2) lambda_max / lambda_min, of a in every direction.
    error = np.finfo(float).eps * (3 + np.sqrt(60) / 2) * found[-1] / found[0]
    assert (len(caught) > 0) == (error > 1e-3)
    assert error < 1
    size = np.linalg.norm(np.linalg.solve(train, y))
    assert np.max(np.abs(prediction - expected)) < 10 * error * size * np.max(np.abs(test))


@pytest.mark.parametrize("condition_number", [1e17, 1e20, np.inf])
def test_beyond_them_a_prediction_is_refused(condition_number):
    train, test, y, _ = ill_conditioned(min(condition_number, 1e300))
    for function in (kernels.predict, lambda *args: kernels.train_mean(args[0], args[2])):
        with pytest.raises(ValueError, match="no correct digit"):
            function(train, test, y)
    with pytest.raises(ValueError, match="no correct digit"):
        kernels.ensemble(train, test, train, test, np.eye(5), y)
    assert np.isinf(kernels.spectrum(train).condition_number)
    # Kernels in float32 have fewer digits: the eps of their own dtype counts.
    train, test, y, _ = ill_conditioned(1e8)
    kernels.predict(train, test, y)
    with pytest.raises(ValueError, match="no correct digit"):
        kernels.predict(train.astype(np.float32), test, y)


def test_prediction_from_a_networks_own_outputs_is_that_of_small_gradient_steps():
    train, test, _, y = problem()
    rng = np.random.default_rng(1)
    start, start_test, steps, time = rng.normal(size=y.shape), rng.normal(size=(3, 2)), 40000, 3.0
    dual = np.zeros_like(y)
    for _ in range(steps):
        dual += time / steps * (y - start - train @ dual)
    found = kernels.predict(train, test, y, time=time, f0_train=start, f0_test=start_test)
    np.testing.assert_allclose(found, start_test + test @ dual, atol=2e-3)
    # Trained for ever on its own training inputs it gives the targets wherever it began.
    np.testing.assert_allclose(
        kernels.predict(train, train, y, f0_train=start, f0_test=start), y, atol=1e-9
    )
    for wrong in ({"f0_train": start}, {"f0_test": start_test}):
        with pytest.raises(ValueError, match="must be given where the other f0 is"):
            kernels.predict(train, test, y, **wrong)
    with pytest.raises(ValueError, match="f0_test must be"):
        kernels.predict(train, test, y, f0_train=start, f0_test=start)


def test_a_vector_of_times_is_each_of_them():
    train, test, both, y = problem()
    times = [0.0, 0.7, 5.0, np.inf]
    found = kernels.predict(train, test, y, time=times)
    at_train = kernels.train_mean(train, y, time=times)
    many = kernels.ensemble(train, test, train, test, both, y, time=times)
    for k, time in enumerate(times):
        one = kernels.ensemble(train, test, train, test, both, y, time=time)
        np.testing.assert_allclose(found[k], kernels.predict(train, test, y, time=time), rtol=1e-13)
        np.testing.assert_allclose(at_train[k], kernels.train_mean(train, y, time), atol=1e-13)
        np.testing.assert_allclose(many.mean[k], one.mean, atol=1e-13)
        np.testing.assert_allclose(many.covariance[k], one.covariance, atol=1e-13)


def test_a_relative_ridge_does_not_depend_on_the_kernels_scale():
    train, test, _, y = problem()
    one, other = (
        kernels.predict(c * train, c * test, y, ridge=kernels.relative_ridge(c * train, 1e-2))
        for c in (1.0, 1e6)
    )
    np.testing.assert_allclose(one, other, rtol=1e-9)


def test_eigenvector_overlap_is_what_the_prediction_is_made_of():
    train, test, _, y = problem(m=8, n=5)
    found = kernels.eigenvector_overlap(train, test)
    np.testing.assert_allclose(found.overlap.sum(0), 1, rtol=1e-12)
    # |prediction|^2 of y = v_i is sum_j (s_j / lambda_i)^2 overlap_ij: no other number enters.
    _, vectors = np.linalg.eigh(train)
    for i in range(8):
        size = np.sum(kernels.predict(train, test, vectors[:, ::-1][:, i]) ** 2)
        expected = np.sum(found.singular_values**2 * found.overlap[i]) / found.eigenvalues[i] ** 2
        np.testing.assert_allclose(size, expected, rtol=1e-9)
    same = kernels.eigenvector_overlap(train, train)
    np.testing.assert_allclose(same.overlap, np.eye(8), atol=1e-9)
    np.testing.assert_allclose(same.captured, 1, rtol=1e-9)
    # Directions that know nothing of each other: k / m on the average over draws.
    rng = np.random.default_rng(0)
    draws = np.array(
        [kernels.eigenvector_overlap(train, rng.normal(size=(4, 8))).captured for _ in range(400)]
    )
    error = draws.std(0) / np.sqrt(len(draws))
    assert np.all(np.abs(draws.mean(0) - np.arange(1, 5) / 8) < 5 * error)


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


def real_kernels(variances, depths, m=6, n=3):
    """NTKs of erf networks on normalised inputs: limit, [train and train], [test and train]."""
    limit = kernels.limits("erf", *variances)
    x = np.random.default_rng(0).normal(size=(m + n, 10))
    power = (limit.q_star - variances[1]) / variances[0]
    x *= np.sqrt(power / np.mean(x**2, axis=1, keepdims=True))
    ntk = kernels.fully_connected(depths, "erf", *variances)(x, get="ntk").numpy()
    return limit, ntk[:, :m, :m], ntk[:, m:, :m]


def test_ordered_limit_is_the_prediction_of_deep_networks():
    """Theta = p* + A with A of order l chi_1^l: the difference falls as A does."""
    limit, train, test = real_kernels((1.0, 0.1), [20, 40])
    y = np.random.default_rng(1).normal(size=(6, 2))
    errors = [
        np.max(
            np.abs(kernels.predict(a, b, y) - kernels.ordered_limit(a - limit.p, b - limit.p, y))
        )
        for a, b in zip(train, test)
    ]
    sizes = [np.max(np.abs(a - limit.p)) for a in train]
    assert sizes[1] < 0.05 * sizes[0]
    assert 0.5 < (errors[1] / errors[0]) / (sizes[1] / sizes[0]) < 2  # linear in A
    assert np.max(np.abs(kernels.predict(train[1], test[1], y))) > 0.1


def test_the_chaotic_data_dependent_part_falls_with_xi_star():
    depths = [20, 40]
    limit, train, test = real_kernels((3.0, 0.1), depths)
    y = np.random.default_rng(1).normal(size=(6, 2))
    sizes = []
    for depth, a, b in zip(depths, train, test):
        p = limit.q_star * (limit.chi_1 ** (depth + 1) - 1) / (limit.chi_1 - 1)
        delta = kernels.data_dependent_part(a, b, y, p, limit.p_ab)
        sizes.append(np.max(np.abs(delta)))
    # Equation 10: (delta + l epsilon) (chi_c / chi_1)^l, the bracket growing by at most 41 / 21.
    ratio = sizes[1] / sizes[0] / np.exp(-20 / limit.xi_star)
    assert 0.9 < ratio < 41 / 21 * 1.1


def test_the_regularized_ordered_data_dependent_part_falls_with_xi_1():
    limit, train, test = real_kernels((1.0, 0.1), [30, 50])
    y = np.random.default_rng(1).normal(size=(6, 2))
    deltas = [
        np.max(np.abs(kernels.data_dependent_part(a, b, y, limit.p, limit.p, ridge=1.0)))
        for a, b in zip(train, test)
    ]
    sizes = [np.max(np.abs(a - limit.p)) for a in train]
    # Linear in A, fifty times below the ridge; A is (delta + l s epsilon) chi_1^l (equation 14).
    assert 0.8 < (deltas[1] / deltas[0]) / (sizes[1] / sizes[0]) < 1.25
    rate = np.log(deltas[0] / deltas[1]) / 20
    assert 1 / limit.xi_1 - np.log(3) / 20 < rate < 1 / limit.xi_1  # the bracket grows, < 3 times


def test_the_critical_data_dependent_part_falls_as_the_depth():
    depths = [249, 999]
    variances = meanfield.critical_point("erf", 0.5)
    limit, train, test = real_kernels(variances, depths)
    y = np.random.default_rng(1).normal(size=(6, 2))
    sizes = []
    for depth, a, b in zip(depths, train, test):
        p = limit.q_star * (depth + 1)
        sizes.append(np.max(np.abs(kernels.data_dependent_part(a, b, y, p, p / 3))))
    # O(1 / l) with a logarithm: log(1000) / log(250) = 1.25.
    assert 0.2 < sizes[1] / sizes[0] < 0.25 * 1.25 * 1.1


def test_spectrum_of_a_two_level_matrix():
    result = kernels.spectrum(3.0 * np.eye(5) + 2.0)
    np.testing.assert_allclose(
        [result.lambda_max, result.lambda_rest, result.lambda_min, result.condition_number],
        [13.0, 3.0, 3.0, 13 / 3],
    )
    assert np.isinf(kernels.spectrum(np.ones((3, 3))).condition_number)


def test_several_spectra_at_once():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(2, 3, 4, 4))
    matrices = factors @ np.swapaxes(factors, -1, -2)
    together = kernels.spectrum(matrices)
    assert together.eigenvalues.shape == (2, 3, 4) and together.lambda_rest.shape == (2, 3)
    one = kernels.spectrum(matrices[1, 2])
    for field, expected in zip(together, one):
        np.testing.assert_array_equal(field[1, 2], expected)


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
        ({"learning_rate": 0.0}, "learning_rate must be"),
        ({"time": [[1.0, 2.0]]}, "time must be"),
        ({"time": [1.0, -2.0]}, "time must be"),
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
