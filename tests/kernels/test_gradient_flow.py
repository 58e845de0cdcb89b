"""Training on any loss: against closed forms, and the momentum that still converges."""

import numpy as np
import pytest
import scipy.special

from mfcnn import kernels

RANDOM = np.random.default_rng(0)
ROOT = RANDOM.standard_normal([9, 12])
TRAIN, TEST = ROOT[:5] @ ROOT[:5].T / 12, ROOT[5:] @ ROOT[:5].T / 12
Y = RANDOM.uniform(size=[5, 3])
F0, F0_TEST = RANDOM.standard_normal([5, 3]), RANDOM.standard_normal([4, 3])
TIMES = [3.0, 0.0, 0.5]  # in any order


@pytest.mark.parametrize("start", [{}, {"f0_train": F0, "f0_test": F0_TEST}], ids=["zero", "f0"])
def test_the_squared_loss_has_the_closed_form_of_predict(start):
    found = kernels.gradient_flow(TRAIN, TEST, Y, TIMES, "squared", 0.7, **start)
    expected = kernels.predict(TRAIN, TEST, Y, TIMES, 0.7, **start)
    np.testing.assert_allclose(found.test, expected, atol=1e-6)


def test_one_input_under_the_logistic_loss_is_a_lambert_function():
    # df/dt = lambda / (1 + exp(f)), so that f + exp(f) = 1 + lambda t from f = 0.
    times = np.array([0.0, 1.0, 10.0, 100.0])
    found = kernels.gradient_flow([[2.0]], [[1.0]], [1.0], times, "binary_cross_entropy")
    total = 1 + 2 * times
    exact = total - np.real(scipy.special.lambertw(np.exp(np.minimum(total, 300))))
    np.testing.assert_allclose(found.train[:, 0, 0], exact, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(found.test, found.train / 2, rtol=1e-12)


def test_two_classes_are_the_logistic_loss_of_their_difference():
    first = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    both = kernels.gradient_flow(TRAIN, TEST, np.stack([first, 1 - first], 1), TIMES)
    one = kernels.gradient_flow(2 * TRAIN, 2 * TEST, first, TIMES, "binary_cross_entropy")
    np.testing.assert_allclose(both.test[..., 0] - both.test[..., 1], one.test[..., 0], atol=1e-5)


def test_a_loss_of_ones_own_and_a_single_time():
    found = kernels.gradient_flow(TRAIN, TEST, Y, 0.5, lambda f, y: f - y)
    np.testing.assert_allclose(found.test, kernels.predict(TRAIN, TEST, Y, 0.5), atol=1e-6)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"times": -1.0}, "times must be"),
        ({"times": np.inf}, "times must be finite"),
        ({"times": [[1.0]]}, "times must be"),
        ({"loss": "hinge"}, "loss must be"),
        ({"loss": lambda f, y: f[:1]}, "loss must return"),
        ({"learning_rate": 0}, "learning_rate must be"),
        ({"tolerance": 0}, "tolerance must be"),
        ({"f0_train": F0}, "f0_test must be given"),
        ({"y_train": Y[:2]}, r"y_train must be \[5, k\]"),
        ({"kernel_test_train": TEST[:, :3]}, "kernel_test_train must have 5 columns"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, words):
    good = {"kernel_train_train": TRAIN, "kernel_test_train": TEST, "y_train": Y, "times": 1.0}
    with pytest.raises(ValueError, match=words):
        kernels.gradient_flow(**good | changes)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("factor, converges", [(0.99, True), (1.01, False)])
def test_the_largest_learning_rate_with_momentum(momentum, nesterov, factor, converges):
    rate = factor * kernels.max_learning_rate(TRAIN, momentum, nesterov)
    f, velocity = np.ones(5), np.zeros(5)
    for _ in range(4000):  # Keras's SGD
        step = -rate * TRAIN @ f
        velocity = momentum * velocity + step
        f = f + (momentum * velocity + step if nesterov else velocity)
        if np.max(np.abs(f)) > 1e6:
            break
    assert (np.linalg.norm(f) < 3) == converges
