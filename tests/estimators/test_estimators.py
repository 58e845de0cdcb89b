"""Kernels in scikit-learn: its own checks, grid searches, pickles, Gaussian processes."""

import pickle

import keras
import numpy as np
import pytest
from sklearn import base, datasets, gaussian_process, model_selection, pipeline, preprocessing
from sklearn.utils.estimator_checks import parametrize_with_checks

import mfcnn
from mfcnn.estimators import GaussianProcessKernel, KernelClassifier, KernelRegressor


def _kernel(**changes):
    arguments = {"depth": 2, "activation": "relu", "weight_variance": 2.0, "bias_variance": 0.1}
    return mfcnn.kernels.fully_connected(**arguments | changes)


# The checks are of the interface; at depth zero nothing is compiled for their many shapes.
_QUICK = [kind(_kernel(depth=0), ridge=1e-3) for kind in (KernelRegressor, KernelClassifier)]


@parametrize_with_checks(_QUICK)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([KernelRegressor(), KernelClassifier()])
def test_scikit_learns_own_checks_of_the_default(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    x, y = datasets.load_digits(return_X_y=True)
    return x[:400], y[:400], x[400:700], y[400:700]


def test_a_grid_search_over_the_kernels_arguments(digits):
    x, y, x_test, y_test = digits
    kernel = _kernel()
    model = pipeline.make_pipeline(preprocessing.Normalizer(), KernelClassifier(kernel, ridge=1e-3))
    grid = {
        "kernelclassifier__kernel__depth": [0, 3],
        "kernelclassifier__kernel__weight_variance": [1.0, 2.0],
    }
    search = model_selection.GridSearchCV(model, grid, cv=2).fit(x, y)
    assert search.best_params_["kernelclassifier__kernel__depth"] == 3  # depth 0 is linear
    linear = KernelClassifier(_kernel(depth=0), ridge=1e-3).fit(x, y)
    assert search.score(x_test, y_test) > linear.score(x_test, y_test)
    assert kernel.depth == 2, "the user's own kernel is not changed"


def test_predictions_are_those_of_the_closed_formula(digits):
    x, y, x_test, _ = digits
    kernel = _kernel()
    model = KernelRegressor(kernel, ridge=1e-3).fit(x, y)
    matrix = kernel(x, get="ntk").numpy()
    matrix += 1e-3 * np.mean(np.diag(matrix)) * np.eye(len(x))
    mean = kernel(x_test, x, get="ntk").numpy() @ np.linalg.solve(matrix, y - y.mean()) + y.mean()
    # The condition number times the rounding of float64.
    tolerance = np.linalg.cond(matrix) * np.finfo(np.float64).eps * np.abs(y).max()
    np.testing.assert_allclose(model.predict(x_test), mean, rtol=0, atol=tolerance)


def test_the_iterative_route_agrees_with_the_direct_one(digits):
    x, y, x_test, _ = digits
    direct, iterative = (
        KernelRegressor(_kernel(), ridge=1e-3, solver=solver).fit(x, y).predict(x_test)
        for solver in ("direct", "iterative")
    )
    assert np.any(direct != iterative)
    bound = mfcnn.kernels.solve(_kernel(), x, y - y.mean(), 1e-3).error_bound
    assert np.max(np.abs(iterative - direct)) <= 2 * bound * np.linalg.norm(y - y.mean())


@pytest.mark.parametrize(
    "kernel",
    [
        _kernel(activation="tanh", weight_variance=np.float32(1.5)),
        mfcnn.kernels.convolutional(1, "erf", 1.5, 0.1, padding="same", readout="pool"),
    ],
)
def test_kernels_are_cloned_and_pickled_as_the_calls_that_make_them(kernel):
    for copy in (pickle.loads(pickle.dumps(kernel)), base.clone(kernel)):
        assert copy is not kernel and repr(copy) == repr(kernel)


def test_fitted_estimators_are_pickled(digits):
    x, y, x_test, _ = digits
    model = KernelClassifier(_kernel(), ridge=1e-2).fit(x, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(model.predict(x_test), again.predict(x_test))


def test_the_kernel_of_a_keras_model(digits):
    x, y, x_test, _ = digits
    layers = [keras.Input([64]), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    kernel = mfcnn.kernels.from_keras(keras.Sequential(layers))
    same = mfcnn.kernels.fully_connected(1, "relu", 1.0, 0.0)
    scores = [
        KernelClassifier(one, ridge=1e-3).fit(x / 16, y).decision_function(x_test / 16)
        for one in (kernel, same)
    ]
    # Glorot's variances differ from `same` by a factor of the whole kernel, which ridge follows.
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)


@pytest.mark.parametrize("get", ["nngp", "ntk"])
def test_gradients_of_gaussian_processes_are_those_of_differences(get):
    x = np.random.default_rng(0).standard_normal([6, 3])
    kernel = GaussianProcessKernel(_kernel(activation="erf"), 1.4, 0.2, get=get)
    _, slopes = kernel(x, eval_gradient=True)
    step = 1e-5
    for k in range(2):
        moved = [kernel.theta + step * sign * np.eye(2)[k] for sign in (1, -1)]
        high, low = (kernel.clone_with_theta(theta)(x) for theta in moved)
        # Central differences: the error is of the order step^2 plus rounding over the step.
        np.testing.assert_allclose(slopes[..., k], (high - low) / (2 * step), atol=1e-8)


def test_marginal_likelihood_finds_the_variances_of_the_process():
    random = np.random.default_rng(1)
    x = random.standard_normal([60, 2])
    truth = GaussianProcessKernel(_kernel(activation="erf"), 3.0, 0.3)
    y = np.linalg.cholesky(truth(x) + 1e-2 * np.eye(60)) @ random.standard_normal(60)
    start = GaussianProcessKernel(_kernel(activation="erf"), 1.0, 0.05)
    process = gaussian_process.GaussianProcessRegressor(start, alpha=1e-2).fit(x, y)
    at_truth = process.log_marginal_likelihood(truth.theta)
    assert process.log_marginal_likelihood_value_ >= at_truth - 1e-3
    assert process.log_marginal_likelihood(start.theta) < at_truth - 1


def test_a_fixed_variance_stays():
    kernel = GaussianProcessKernel(_kernel(), bias_variance_bounds="fixed")
    x = np.random.default_rng(0).standard_normal([20, 2])
    process = gaussian_process.GaussianProcessClassifier(kernel).fit(x, x[:, 0] > 0)
    assert process.kernel_.bias_variance == kernel.bias_variance
    assert process.score(x, x[:, 0] > 0) > 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": "relu"}, "kernel must be a kernel of mfcnn.kernels or None. Received"),
        ({"ridge": -1.0}, "ridge must be .*Received: ridge=-1.0"),
        ({"ridge": np.nan}, "ridge must be .*Received: ridge=nan"),
        ({"get": "both"}, "get must be one of 'nngp', 'ntk'"),
    ],
)
def test_bad_arguments_are_refused_at_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        KernelRegressor(**changes).fit(np.eye(3), np.arange(3))


def test_a_singular_kernel_without_ridge_has_no_answer():
    x = np.repeat(np.eye(3), 2, axis=0)
    with pytest.raises(ArithmeticError, match="no digits left"):
        KernelRegressor(ridge=0.0).fit(x, np.arange(6))


def test_an_unknown_argument_of_the_kernel_is_refused():
    with pytest.raises(ValueError, match="fully_connected kernel has the arguments depth, "):
        KernelRegressor(_kernel()).set_params(kernel__width=3)
