"""Which Fourier modes the verdict lets through: those that keep exp(-6) of themselves."""

import numpy as np
import pytest

from mfcnn import activations, meanfield


@pytest.mark.parametrize("depth", [5, 8, 20, 60])
def test_a_mode_survives_while_it_keeps_the_sixth_power_of_1_over_e(depth):
    size, variances = 8, meanfield.critical_point("tanh", 0.05)
    verdict = meanfield.trainability("tanh", *variances, depth, "gs1", size=size)
    profile = np.full([3, 3], 0.25 / 9)
    profile[1, 1] += 0.75
    # chi_c = 1 on the critical line: a mode is multiplied by its |lambda| in each layer.
    kept = np.abs(np.fft.fft2(profile, [size, size])).ravel() ** depth
    assert verdict.modes == size**2
    assert verdict.surviving_modes == np.sum(kept >= np.exp(-6))


def test_the_number_of_depth_scales_matters_at_these_depths():
    profile = np.full([3, 3], 0.25 / 9)
    profile[1, 1] += 0.75
    kept = np.log(np.abs(np.fft.fft2(profile, [8, 8])))
    counts = {limit: [np.sum(d * kept >= -limit) for d in (5, 8, 20, 60)] for limit in (1, 5, 6, 7)}
    for limit in (1, 5, 7):
        assert counts[limit] != counts[6]


@pytest.mark.parametrize("q_star", [1e-3, 1e-2])
def test_correlations_of_critical_tanh_go_to_one_with_the_square_of_the_variance(q_star):
    # d = 1 - c falls by (2/3) q^2 (3 - d) d^2 a layer, from tanh(u) = u - u^3 / 3 + 2 u^5 / 15. The
    # next order in q has coefficients of order ten.
    weight_variance, _ = meanfield.critical_point("tanh", q_star)
    d = np.linspace(0.1, 1.0, 10)
    fall = d - weight_variance * activations.get("tanh").covariance_secant(q_star, 1 - d) * d
    np.testing.assert_allclose(fall, 2 / 3 * q_star**2 * (3 - d) * d**2, rtol=20 * q_star)
