"""Laws of large depth against the kernels themselves."""

import numpy as np
import pytest

from mfcnn import kernels, meanfield

ORDERED, CHAOTIC = (1.0, 0.1), (3.0, 0.1)


def normalised(n, features, q_star, weight_variance, bias_variance, seed=0):
    """Inputs whose first pre-activations have variance q*, with one correlation c for all pairs."""
    power = (q_star - bias_variance) / weight_variance
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(features, features)))
    x = basis[:n] + 0.5 * basis[n : n + 1]  # correlation 0.2 of the raw inputs
    return x / np.linalg.norm(x, axis=1, keepdims=True) * np.sqrt(power * features)


def entries(variances, layer, n=4):
    """Diagonal and off-diagonal entries of NNGP and NTK after `layer` affine maps."""
    limit = kernels.limits("erf", *variances)
    x = normalised(n, 12, limit.q_star, *variances)
    result = kernels.fully_connected(layer - 1, "erf", *variances)(x)
    return limit, [(float(k[0, 0]), float(k[0, 1])) for k in result], result


@pytest.mark.parametrize("variances", [ORDERED, CHAOTIC])
def test_chi_2_is_the_slope_of_chi_c(variances):
    limit = kernels.limits("erf", *variances)
    q, q12 = limit.q_star, limit.q_ab
    # T' = (4/pi) ((1 + 2q)^2 - 4 q12^2)^(-1/2).
    expected = variances[0] * 4 / np.pi * 4 * q12 * ((1 + 2 * q) ** 2 - 4 * q12**2) ** -1.5
    np.testing.assert_allclose(limit.chi_2, expected, rtol=1e-5)


@pytest.mark.parametrize("variances", [ORDERED, CHAOTIC])
def test_diagonal_of_the_ntk_is_the_geometric_sum(variances):
    limit, (_, (p, _)), _ = entries(variances, 12)
    np.testing.assert_allclose(
        p, limit.q_star * (limit.chi_1**12 - 1) / (limit.chi_1 - 1), rtol=1e-9
    )


@pytest.mark.parametrize("variances", [ORDERED, CHAOTIC])
def test_off_diagonal_corrections_decay_as_predicted(variances):
    limit, ((_, q_ab), (_, p_ab)), _ = entries(variances, 30)
    epsilon, delta = kernels.offdiagonal_decay(limit, q_ab, p_ab, 30)
    for layer in (36, 45):
        _, ((_, q_ab), (_, p_ab)), _ = entries(variances, layer)
        decay = limit.chi_c**layer
        slope = 1 + limit.chi_2 * limit.p_ab / limit.chi_c
        # Second order in epsilon, itself below 1e-2 of its limit at layer 30.
        assert abs(q_ab - limit.q_ab - decay * epsilon) < 0.02 * abs(decay * epsilon)
        expected = decay * (delta + layer * slope * epsilon)
        assert abs(p_ab - limit.p_ab - expected) < 0.03 * abs(expected)


@pytest.mark.parametrize("variances", [ORDERED, CHAOTIC])
@pytest.mark.parametrize("kernel", ["nngp", "ntk"])
def test_spectrum_law_meets_the_measured_spectrum(variances, kernel):
    limit, ((_, q_ab), (_, p_ab)), _ = entries(variances, 30)
    amplitudes = kernels.offdiagonal_decay(limit, q_ab, p_ab, 30)
    _, _, result = entries(variances, 40)
    measured = kernels.spectrum(getattr(result, kernel))
    law = kernels.spectrum_law(limit, 40, 4, *amplitudes, kernel=kernel)
    np.testing.assert_allclose(law.lambda_max, measured.lambda_max, rtol=1e-3)
    np.testing.assert_allclose(law.lambda_rest, measured.lambda_rest, rtol=0.03)


def test_condition_number_on_the_critical_line():
    variances = meanfield.critical_point("erf", 0.5)
    m, layers = 6, np.array([250, 1000])
    kappas, rest = [], []
    for layer in layers:
        limit = kernels.limits("erf", *variances)
        x = normalised(m, 12, limit.q_star, *variances)
        measured = kernels.spectrum(kernels.fully_connected(layer - 1, "erf", *variances)(x).ntk)
        kappas.append(measured.condition_number)
        rest.append(measured.lambda_rest / (2 / 3 * limit.q_star * layer))
    assert limit.phase == "critical"
    deviations = np.abs(np.array(kappas) - (m + 2) / 2)
    # m O(1 / l) with a logarithm: four times deeper is more than twice as near.
    assert deviations[1] < deviations[0] / 2 and deviations[1] < m * 10 / 1000
    assert abs(rest[1] - 1) < 0.05
    law = kernels.spectrum_law(limit, 1000, m)
    np.testing.assert_allclose(law.condition_number, (m + 2) / 2)


def test_pooling_multiplies_the_critical_condition_number_by_the_positions():
    variances = meanfield.critical_point("erf", 0.5)
    rng = np.random.default_rng(0)
    q = 0.5
    x = rng.normal(size=(3, 2, 2, 4))
    x *= np.sqrt((q - variances[1]) / variances[0] / np.mean(x**2, axis=-1, keepdims=True))
    m, d = 3, 4
    result = {
        readout: kernels.spectrum(
            kernels.convolutional(1000, "erf", *variances, kernel_size=3, readout=readout)(x).ntk
        ).condition_number
        for readout in ("flatten", "pool")
    }
    np.testing.assert_allclose(result["flatten"], (m + 2) / 2, rtol=0.1)
    np.testing.assert_allclose(result["pool"], (m * d + 2) / 2, rtol=0.1)


def test_an_unknown_kernel_is_named():
    with pytest.raises(ValueError, match="kernel must be"):
        kernels.spectrum_law(kernels.limits("erf", *ORDERED), 10, 3, kernel="gram")
