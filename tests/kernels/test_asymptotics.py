"""Laws of large depth against the kernels themselves."""

import numpy as np
import pytest

from mfcnn import kernels, meanfield
from tests.kernels import reference
from tests.tolerances import float64

ORDERED, CHAOTIC = (1.0, 0.1), (3.0, 0.1)
CRITICAL = meanfield.critical_point("erf", 0.5)


def normalised(shape, limit, weight_variance, bias_variance, seed=0):
    """Random inputs [m, ..., features]; every position has pre-activations of variance q*."""
    x = np.random.default_rng(seed).normal(size=shape)
    power = (limit.q_star - bias_variance) / weight_variance
    return x * np.sqrt(power / np.mean(x**2, axis=-1, keepdims=True))


def measured(variances, layers, activation="erf", m=5):
    """Limits and kernels [layers, m, m] after numbers of affine maps, of random inputs."""
    limit = kernels.limits(activation, *variances)
    x = normalised((m, 12), limit, *variances)
    return limit, kernels.fully_connected([n - 1 for n in layers], activation, *variances)(x)


@pytest.mark.parametrize("variances", [ORDERED, CHAOTIC, CRITICAL])
def test_chi_2_and_chi_3_are_slopes_of_chi_c(variances):
    limit = kernels.limits("erf", *variances)
    q, q12 = limit.q_star, limit.q_ab
    # T' = (4/pi) (A - 4 q12^2)^(-1/2) with A = (1 + 2q)^2.
    rest = (1 + 2 * q) ** 2 - 4 * q12**2
    second = 16 / np.pi * q12 * rest**-1.5
    third = 16 / np.pi * (rest**-1.5 + 12 * q12**2 * rest**-2.5)
    np.testing.assert_allclose(limit.chi_2, variances[0] * second, rtol=float64.solved)
    np.testing.assert_allclose(limit.chi_3, variances[0] * third, rtol=1e-8)


@pytest.mark.parametrize(
    "activation, kinks",
    [("relu", {0.0: 1.0}), ("leaky_relu", {0.0: 0.8}), ("hard_tanh", {-1.0: 1.0, 1.0: 1.0})],
)
def test_a_kink_is_the_chance_that_it_lies_between_two_signals(activation, kinks):
    """E[(phi'(u) - phi'(v))^2] / 2 = jump^2 P(u < x0 < v), P = density(x0) E[(v - u)_+]."""
    limit = kernels.limits(activation, 1.2, 0.1)
    q = limit.q_star
    density = {x: np.exp(-x * x / (2 * q)) / np.sqrt(2 * np.pi * q) for x in kinks}
    # v - u has variance 2 q (1 - c), and E[(v - u)_+] = sqrt(q (1 - c) / pi).
    expected = 1.2 * sum(jump**2 * density[x] for x, jump in kinks.items()) * np.sqrt(q / np.pi)
    np.testing.assert_allclose(limit.kink, expected, rtol=1e-6)
    assert np.isinf(limit.chi_2)
    if activation == "relu":
        # The angle is sqrt(2 (1 - c)) (1 + (1 - c) / 12 + ...): no second order.
        assert abs(limit.bend) < 1e-6


@pytest.mark.parametrize("variances", [ORDERED, CHAOTIC])
def test_diagonal_of_the_ntk_is_the_geometric_sum(variances):
    limit, result = measured(variances, [12])
    expected = limit.q_star * (limit.chi_1**12 - 1) / (limit.chi_1 - 1)
    np.testing.assert_allclose(np.diag(result.ntk[0]), expected, rtol=float64.solved)


@pytest.mark.parametrize("variances", [ORDERED, CHAOTIC])
def test_off_diagonal_corrections_decay_as_predicted(variances):
    layers = [30, 36, 45]
    limit, result = measured(variances, layers)
    distinct = ~np.eye(5, dtype=bool)
    entries = [k.numpy()[:, distinct] for k in result]
    amplitudes = kernels.offdiagonal_decay(limit, *(e[0] for e in entries), 30)
    law = kernels.offdiagonal_law(limit, np.array(layers)[:, None], *amplitudes)
    # What is left out is quadratic: chi_2 epsilon / (2 chi_c (1 - chi_c)) of epsilon for the NNGP,
    # and for the NTK that of both factors and of chi_3, each grown by at most the layers between.
    epsilon = np.max(np.abs(entries[0][0] - limit.q_ab))
    curvature = limit.chi_2 + limit.chi_3 * epsilon
    bound = curvature * epsilon / (limit.chi_c * (1 - limit.chi_c))
    for entry, predicted, end, grow in zip(
        entries, law, (limit.q_ab, limit.p_ab), (1, 1 + limit.chi_3 / limit.chi_2 * limit.p_ab)
    ):
        deviation = np.abs(entry[1:] - predicted[1:]) / np.abs(entry[1:] - end)
        assert np.max(deviation) < grow * bound


@pytest.mark.parametrize("kernel", ["nngp", "ntk"])
@pytest.mark.parametrize("activation, variances", [("erf", ORDERED), ("relu", (1.5, 0.1))])
def test_condition_number_of_the_ordered_phase_needs_the_spread_of_the_pairs(
    activation, variances, kernel
):
    limit, result = measured(variances, [30, 45], activation)
    amplitudes = kernels.offdiagonal_decay(limit, result.nngp[0], result.ntk[0], 30)
    found = kernels.spectrum(getattr(result, kernel)[1])
    law = kernels.spectrum_law(limit, 45, 5, *amplitudes, kernel=kernel)
    # The correction is chi_1^30 = 1e-3 (relu: its root, 1e-2) of the limit at the layer of the fit.
    tolerance = 0.01 if activation == "erf" else 0.03
    np.testing.assert_allclose(law.lambda_max, found.lambda_max, rtol=1e-3)
    np.testing.assert_allclose(law.lambda_rest, found.lambda_rest, rtol=tolerance)
    np.testing.assert_allclose(law.condition_number, found.condition_number, rtol=tolerance)
    distinct = ~np.eye(5, dtype=bool)
    mean = kernels.spectrum_law(limit, 45, 5, *(a[distinct].mean() for a in amplitudes))
    assert mean.condition_number < 0.8 * kernels.spectrum(result.ntk[1]).condition_number


def test_chaotic_spectrum_follows_its_law_and_kappa_falls_to_one():
    limit, result = measured(CHAOTIC, [30, 40, 60])
    amplitudes = kernels.offdiagonal_decay(limit, result.nngp[0], result.ntk[0], 30)
    for index, layer in ((1, 40), (2, 60)):
        found = kernels.spectrum(result.ntk[index])
        law = kernels.spectrum_law(limit, layer, 5, *amplitudes)
        # p_ab / p = 1e-3 and less, known to some percent.
        measured_law = found.lambda_max, found.lambda_rest, found.condition_number
        np.testing.assert_allclose(law, measured_law, rtol=1e-4)
    assert found.condition_number - 1 < 1e-5
    # Slides, "Chaotic regime: spectrum NNGP": two levels, apart from chi_c^60 = 1e-4 of them.
    c = limit.c_star
    nngp = kernels.spectrum(result.nngp[2])
    np.testing.assert_allclose(nngp.condition_number, (4 * c + 1) / (1 - c), rtol=1e-3)
    law = kernels.spectrum_law(limit, 60, 5, *amplitudes, kernel="nngp")
    np.testing.assert_allclose(law.condition_number, nngp.condition_number, rtol=1e-5)


def assert_law_of_the_critical_line(limit, result, layers, leading, **arguments):
    """Each of layers (l, 4 l, 16 l) predicts the next, with an error of O(log(l) / l).

    The law leaves out terms of O(log(l) / l) in the entries, at the layer of the fit and at that
    of the prediction. With both four times deeper the error falls to a quarter, up to logarithms:
    below a half. And it is small against the law's own correction of the paper's leading order.
    """
    m = result.ntk.shape[-1]
    errors = []
    for index, layer in enumerate(layers[:2]):
        fitted = kernels.offdiagonal_decay(
            limit, result.nngp[index], result.ntk[index], layer, arguments.get("positions", 1)
        )
        found = kernels.spectrum(result.ntk[index + 1])
        law = kernels.spectrum_law(limit, layers[index + 1], m, *fitted, **arguments)
        errors.append(np.array(law) - [found.lambda_max, found.lambda_rest, found.condition_number])
    assert np.all(np.abs(errors[1]) < 0.5 * np.abs(errors[0]))
    assert abs(errors[1][2]) < 0.01 * abs(found.condition_number - leading)
    bare = kernels.spectrum_law(limit, layers[-1], m, **arguments)
    np.testing.assert_allclose(bare.condition_number, leading)


@pytest.mark.parametrize(
    "activation, variances, ratio", [("erf", CRITICAL, 1 / 3), ("relu", (2.0, 0.0), 1 / 4)]
)
def test_condition_number_on_the_critical_line(activation, variances, ratio):
    """(m + 2) / 2, for kinks (m + 3) / 3, and the correction of order log(l) / l beside it."""
    m, layers = 5, [100, 400, 1600]
    limit, result = measured(variances, layers, activation, m)
    assert limit.phase == "critical"
    assert_law_of_the_critical_line(limit, result, layers, (1 + (m - 1) * ratio) / (1 - ratio))


def test_pooling_multiplies_the_critical_condition_number_by_the_positions():
    """(m d + 2) / 2, and the same corrections."""
    m, d, layers = 3, 4, [101, 401, 1601]
    limit = kernels.limits("erf", *CRITICAL)
    x = normalised((m, 2, 2, 4), limit, *CRITICAL)
    depths = [n - 1 for n in layers]
    pooled = kernels.convolutional(depths, "erf", *CRITICAL, readout="pool")(x)
    assert_law_of_the_critical_line(limit, pooled, layers, (m * d + 2) / 2, positions=d, pool=True)


@pytest.mark.parametrize("variances", [ORDERED, CHAOTIC])
@pytest.mark.parametrize("profile", [[1 / 3] * 3, [0.2, 0.5, 0.3]])
def test_corrections_of_a_cnn_propagate_by_fourier_modes(variances, profile):
    """Against the recursion of equations 27 and 31 on one diagonal of a kernel over positions."""
    limit = kernels.limits("erf", *variances)
    rng = np.random.default_rng(0)
    size = 6
    # Away from c = 1, where a pair of positions with random sign would leave the domain.
    epsilon, delta = -1e-7 * rng.random(size), 1e-7 * rng.normal(size=size)

    def average(field):
        return sum(v * np.roll(field, 1 - tap) for tap, v in enumerate(profile))

    nngp, ntk = limit.q_ab + epsilon, limit.p_ab + delta
    found = []
    for _ in range(15):
        value, slope = reference.erf_maps(limit.q_star, limit.q_star, nngp)
        nngp = variances[0] * average(value) + variances[1]
        ntk = nngp + variances[0] * average(slope * ntk)
        found.append((nngp - limit.q_ab, ntk - limit.p_ab))
    law = kernels.mode_corrections(limit, np.arange(1, 16), epsilon, delta, profile)
    for expected, corrections in zip(np.array(found).transpose(1, 0, 2), law):
        # Quadratic terms are 1e-7 of the linear ones; q_ab itself is exact to 1e-16 of 1.
        np.testing.assert_allclose(corrections, expected, rtol=1e-4, atol=float64.summed)


def test_bad_arguments_are_named():
    limit = kernels.limits("erf", *ORDERED)
    with pytest.raises(ValueError, match="kernel must be"):
        kernels.spectrum_law(limit, 10, 3, kernel="gram")
    with pytest.raises(ValueError, match="epsilon must be"):
        kernels.spectrum_law(limit, 10, 3, np.zeros((2, 2)), np.zeros((2, 2)))


LAWS = {
    "offdiagonal_law": lambda limit, **amplitudes: kernels.offdiagonal_law(limit, 9, **amplitudes),
    "spectrum_law": lambda limit, **amplitudes: kernels.spectrum_law(limit, 9, 5, **amplitudes),
    "offdiagonal_decay": lambda limit: kernels.offdiagonal_decay(limit, 0.0, 0.0, 9),
    "mode_corrections": lambda limit: kernels.mode_corrections(limit, 9, [1.0], [1.0], None),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("variances", [(1.0, 0.0), (0.5, 0.0)])
def test_laws_refuse_a_variance_of_zero(law, variances):
    with pytest.raises(ValueError, match="limit must have a finite q_star above 0"):
        LAWS[law](kernels.limits("tanh", *variances))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("field", ["q_star", "chi_1", "chi_c"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_laws_refuse_limits_that_are_none(law, field, value):
    with pytest.raises(ValueError, match="limit must have"):
        LAWS[law](kernels.limits("tanh", *ORDERED)._replace(**{field: value}))


@pytest.mark.parametrize("law", ["offdiagonal_law", "spectrum_law"])
@pytest.mark.parametrize(
    "variances, amplitudes",
    [
        (ORDERED, {"epsilon": 0.0}),  # without the delta that keeps p_ab below p
        (ORDERED, {"epsilon": 100.0, "delta": 0.0}),
        (CHAOTIC, {"epsilon": -1e6}),
        (CRITICAL, {"epsilon": -1e6}),
    ],
)
def test_amplitudes_of_no_kernel_are_refused(law, variances, amplitudes):
    limit = kernels.limits("erf", *variances)
    with pytest.raises(ValueError, match="epsilon and delta must be the amplitudes of one kernel"):
        LAWS[law](limit, **amplitudes)


def test_laws_have_no_value_at_layers_that_are_too_few():
    limit = kernels.limits("erf", *ORDERED)
    # At the first layer |q_ab| is above q*, and at the last one close to it.
    law = kernels.spectrum_law(limit, [1, 60], 5, epsilon=-10 * limit.q_star, kernel="nngp")
    assert np.isnan(law.condition_number[0]) and law.condition_number[1] > 1


def test_the_condition_number_outlives_the_diagonal():
    limit, result = measured(CHAOTIC, [30])
    amplitudes = kernels.offdiagonal_decay(limit, result.nngp[0], result.ntk[0], 30)
    for given in (amplitudes, [a[0, 1] for a in amplitudes]):
        law = kernels.spectrum_law(limit, [30, 10_000], 5, *given)
        assert law.condition_number[0] > 1
        assert np.isinf(law.lambda_max[1]) and law.condition_number[1] == 1


def test_corrections_where_none_is_left_or_none_is_known():
    limit = kernels.limits("erf", *ORDERED)
    with pytest.raises(ValueError, match="layer must be so small"):
        kernels.offdiagonal_decay(limit, limit.q_ab, limit.p_ab, 100_000)
    with pytest.raises(ValueError, match="nngp must be below q_star"):
        kernels.offdiagonal_decay(kernels.limits("erf", *CRITICAL), 100.0, 1.0, 9)
    with pytest.raises(ValueError, match="limit must have a finite chi_2"):
        kernels.mode_corrections(kernels.limits("relu", 1.5, 0.1), 9, [1.0], [1.0], None)
