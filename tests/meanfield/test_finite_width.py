"""Mean field form of the kernel and theorem 5.3 against the analytic kernels and networks."""

import numpy as np
import pytest

from mfcnn import empirical, kernels, meanfield


def _equicorrelated(n, covariance, dimension):
    """Inputs [n, d] with |x|^2 = d and <x, x'> = covariance d."""
    gram = dimension * ((1 - covariance) * np.eye(n) + covariance)
    x = np.zeros([n, dimension])
    x[:, :n] = np.linalg.cholesky(gram)
    return x


@pytest.mark.parametrize("activation", ["relu", "erf", "tanh"])
@pytest.mark.parametrize("depth", [1, 4])
def test_it_is_the_analytic_kernel_in_another_parameterization(activation, depth):
    """NTK-parameterized: Theta = weight_variance sum_l qhat_{l-1} p_l + bias_variance sum_l p_l.

    The analytic kernels come from other code (recursions of the kernel, not of errors); tanh is
    tabulated there to about 1e-9.
    """
    w, b, covariance = 1.7, 0.2, 0.4
    form = meanfield.mean_field_ntk(activation, depth, w, b, covariance)
    x = _equicorrelated(2, covariance, 6)
    exact = kernels.fully_connected(depth, activation, w, b)(x)
    theta = [
        w * form.alpha * form.kappa_1 + b * form.biases_1,
        w * form.alpha * form.kappa_2 + b * form.biases_2,
    ]
    np.testing.assert_allclose(theta, exact.ntk[0], rtol=1e-7)
    np.testing.assert_allclose([form.q, form.q_sr], exact.nngp[0], rtol=1e-7)


def test_lemma_5_2_is_the_mean_kernel_of_wide_networks():
    width, size = 200, 50
    form = meanfield.mean_field_ntk("tanh", 3, 1.5, 0.1, 0.0, input_width_ratio=size / width)
    samples = empirical.ntk_samples("tanh", width, 3, 1.5, 0.1, 100, size)[-1]
    # Four standard errors and the finite width's 3 / width.
    error = samples.std() / 10
    assert abs(samples.mean() - form.theta(width)[0]) < 4 * error + 0.015 * samples.mean()


@pytest.mark.parametrize("samples", [2, 7])
def test_theorem_5_3_is_exact_for_inputs_of_equal_covariance(samples):
    x = _equicorrelated(samples + 1, 0.3, 20)
    exact = kernels.fully_connected(3, "erf", 2.0, 0.1)(x)
    theta, nngp = np.array(exact.ntk), np.array(exact.nngp)
    # By hand: the output on the last input is f(x) - Theta(x, X) Theta(X, X)^{-1} f(X) + const.
    weights = np.append(-np.linalg.solve(theta[:-1, :-1], theta[:-1, -1]), 1.0)
    expected = weights @ nngp @ weights
    found = meanfield.trained_output_variance(
        theta[0, 0], theta[0, 1], nngp[0, 0], nngp[0, 1], samples
    )
    np.testing.assert_allclose(found, expected, rtol=1e-8)
