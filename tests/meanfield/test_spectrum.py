"""Spectra of the Jacobian: theory against closed forms and random matrices."""

import numpy as np
import pytest
from scipy import integrate
from scipy.integrate import quad
from scipy.special import erf

from benchmarks import random_products
from mfcnn import meanfield


def random_jacobian(phi_prime, q, weight_variance, depth, n, orthogonal, rng):
    product = np.eye(n)
    for _ in range(depth):
        w = rng.standard_normal((n, n))
        if orthogonal:
            u, r = np.linalg.qr(w)
            w = u * np.sign(np.diag(r))
        else:
            w /= np.sqrt(n)
        slopes = phi_prime(np.sqrt(q) * rng.standard_normal(n))
        product = slopes[:, None] * (np.sqrt(weight_variance) * w @ product)
    return np.linalg.svd(product, compute_uv=False) ** 2


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize(
    ("name", "phi_prime"),
    [
        ("tanh", lambda x: np.cosh(x) ** -2.0),
        ("hard_tanh", lambda x: 1.0 * (np.abs(x) < 1)),
    ],
)
def test_moments_and_density_agree_with_random_matrices(name, phi_prime, orthogonal):
    q, weight_variance, depth, n = 0.6, 1.4, 3, 300
    rng = np.random.default_rng(0)
    draws = np.stack(
        [
            random_jacobian(phi_prime, q, weight_variance, depth, n, orthogonal, rng)
            for _ in range(6)
        ]
    )
    theory = meanfield.jacobian_moments(name, weight_variance, depth, q, orthogonal)
    means, variances = draws.mean(axis=1), draws.var(axis=1)
    # Fluctuations of a spectrum's moments are of order 1 / n: standard errors over draws, and the
    # same again for the 1 / n shift of the mean.
    for values, expected in ((means, theory.mean), (variances, theory.variance)):
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert abs(values.mean() - expected) < 5 * error + 2 * depth**2 * expected / n
    low, high = np.quantile(draws, [0.55, 0.9])
    points = np.linspace(low, high, 200)
    if orthogonal and name == "hard_tanh":
        points = points[points < 0.99 * weight_variance**depth]
        if points.size < 50:
            points = np.linspace(0.05, 0.9, 200) * weight_variance**depth
        low, high = points[[0, -1]]
    density = meanfield.jacobian_density(name, weight_variance, depth, q, points, orthogonal)
    expected = integrate.trapezoid(density, points)
    share = np.mean((draws >= low) & (draws <= high), axis=1)
    assert abs(share.mean() - expected) < 5 * share.std(ddof=1) / np.sqrt(len(share)) + 5 / n


def test_one_gaussian_layer_is_marchenko_pastur():
    points = np.linspace(0.05, 7.9, 50)
    density = meanfield.jacobian_density("linear", 2.0, 1, 1.0, points)
    expected = np.sqrt(points * (8 - points)) / (4 * np.pi * points)
    np.testing.assert_allclose(density, expected, rtol=1e-10)
    outside = meanfield.jacobian_density("linear", 2.0, 1, 1.0, np.array([8.5, 20.0]))
    np.testing.assert_allclose(outside, 0.0, atol=1e-12)


@pytest.mark.parametrize(("depth", "edge"), [(2, 27 / 4), (5, 6**6 / 5**5)])
def test_linear_gaussian_products_end_at_the_fuss_catalan_edge(depth, edge):
    inside, outside = meanfield.jacobian_density(
        "linear", 1.0, depth, 1.0, np.array([0.99, 1.01]) * edge
    )
    assert inside > 1e-4 and outside < 1e-12


@pytest.mark.parametrize(
    ("name", "q", "depth", "orthogonal"),
    [("erf", 0.02, 50, True), ("tanh", 0.02, 50, True), ("tanh", 0.5, 6, False)],
)
def test_the_density_has_the_moments(name, q, depth, orthogonal):
    weight_variance, _ = meanfield.critical_point(name, q)
    theory = meanfield.jacobian_moments(name, weight_variance, depth, q, orthogonal)
    logs = np.linspace(-8.0, 4.0, 800)  # beyond the edge of the last case
    points = np.exp(logs)
    density = meanfield.jacobian_density(name, weight_variance, depth, q, points, orthogonal)
    mean, second = (integrate.trapezoid(density * points**k, logs) for k in (2, 3))
    np.testing.assert_allclose(mean, theory.mean, rtol=3e-3)
    np.testing.assert_allclose(second, theory.variance + theory.mean**2, rtol=1e-2)


def test_published_variance_of_critical_networks():
    # Variance L (mu_2 / mu_1^2 - 1 - s_1): L for linear Gaussian, 0 for linear orthogonal,
    # L (1 / p - 1) for orthogonal hard-tanh, p the fraction of linear units.
    assert abs(meanfield.jacobian_moments("linear", 1.0, 30, 1.0).variance - 30) < 1e-12
    assert meanfield.jacobian_moments("linear", 1.0, 30, 1.0, orthogonal=True).variance < 1e-28
    q, depth = 0.2, 10
    p = erf(1 / np.sqrt(2 * q))
    moments = meanfield.jacobian_moments("hard_tanh", 1 / p, depth, q, orthogonal=True)
    np.testing.assert_allclose(moments.variance, depth * (1 / p - 1), rtol=1e-12)


def test_variances_of_each_layer_multiply():
    q = np.array([0.1, 0.5, 2.0])
    parts = [meanfield.jacobian_moments("tanh", 1.5, 1, v) for v in q]
    whole = meanfield.jacobian_moments("tanh", 1.5, 3, q)
    np.testing.assert_allclose(whole.mean, np.prod([p.mean for p in parts]), rtol=1e-12)
    np.testing.assert_allclose(
        whole.relative_variance, sum(p.relative_variance for p in parts), rtol=1e-12
    )


@pytest.mark.parametrize("depth", [1, 2, 10, 100])
def test_gaussian_products_have_the_spread_of_the_fuss_catalan_law(depth):
    # The p-th moment is Gamma((L+1)p + 1) / (Gamma(p + 1) Gamma(Lp + 2)): two derivatives at p = 0.
    found = meanfield.jacobian_spectrum("linear", 1.0, depth, 1.0)
    np.testing.assert_allclose(found.mean_log, -depth / 2, rtol=1e-10)
    exact = np.sqrt(depth**2 + depth * np.pi**2 / 3) / 2
    np.testing.assert_allclose(found.log_spread, exact, rtol=1e-10)
    edge = (depth + 1) ** (depth + 1) / depth**depth
    assert found.bulk == (0.0, pytest.approx(np.sqrt(edge), rel=1e-8))


def test_one_orthogonal_layer_has_the_law_of_the_slopes():
    # log s = log phi'(h): mean and spread by quadrature, the density by a change of variables.
    q, weight_variance = 0.5, 1.7
    z, weights = np.polynomial.hermite_e.hermegauss(120)
    logs = np.log(np.sqrt(weight_variance) * np.cosh(np.sqrt(q) * z) ** -2.0)
    weights = weights / weights.sum()
    mean = weights @ logs
    found = meanfield.jacobian_spectrum("tanh", weight_variance, 1, q, orthogonal=True)
    np.testing.assert_allclose(found.mean_log, mean, rtol=1e-9)
    np.testing.assert_allclose(found.log_spread, np.sqrt(weights @ (logs - mean) ** 2), rtol=1e-8)
    points = np.array([0.2, 0.9, 1.5])
    # d = sech^4(h) / ..., h = arcosh(d^-1/4): |dd / dh| = 4 d tanh(h).
    d = points / weight_variance
    h = np.arccosh(d**-0.25)
    gauss = np.exp(-(h**2) / (2 * q)) / np.sqrt(2 * np.pi * q)
    expected = 2 * gauss / (4 * d * np.tanh(h)) / weight_variance
    density = meanfield.jacobian_density("tanh", weight_variance, 1, q, points, orthogonal=True)
    np.testing.assert_allclose(density, expected, rtol=1e-6)


def test_isometric_networks_have_no_spread():
    found = meanfield.jacobian_spectrum("linear", 1.0, 50, 1.0, orthogonal=True)
    assert found.log_spread == 0 and found.condition_number == 1
    # Near isometry log s is log-normal to first order: sqrt(relative variance) / 2.
    q, depth = 1e-4, 10_000
    weight_variance, _ = meanfield.critical_point("tanh", q)
    arguments = ("tanh", weight_variance, depth, q, True)
    relative = meanfield.jacobian_moments(*arguments).relative_variance
    found = meanfield.jacobian_spectrum(*arguments)
    np.testing.assert_allclose(found.log_spread, np.sqrt(relative) / 2, rtol=1e-3)


def test_layers_of_different_variances_add_up():
    # Means and variances of log s do not add, but a permutation of the layers changes nothing, and
    # layers of two variances are those of a product of two blocks.
    q = np.repeat([0.05, 0.4], [3, 2])
    found = meanfield.jacobian_spectrum("tanh", 1.4, 5, q, orthogonal=True)
    turned = meanfield.jacobian_spectrum("tanh", 1.4, 5, q[::-1].copy(), orthogonal=True)
    assert found == turned
    draws = np.log(_drawn("tanh", 1.4, q, 300, True, np.random.default_rng(0)))
    # The spread of 300 log singular values: fluctuations of the order 1 / n, five of them.
    np.testing.assert_allclose(found.mean_log, draws.mean(), atol=5 / 300)
    np.testing.assert_allclose(found.log_spread, draws.std(), atol=10 / 300)


def _drawn(name, weight_variance, q, n, orthogonal, rng):
    """Singular values of one random product, those that are not zero, to full relative accuracy."""
    return random_products.singular_values(name, weight_variance, q, n, orthogonal, rng)


def test_two_projections_have_the_known_law():
    # Two free projections of trace p: P Q P has the atom 2 p - 1 at 1, 1 - p at 0, and between them
    # the density sqrt(x (4 p (1 - p) - x)) / (2 pi x (1 - x)) (Voiculescu, Dykema, Nica, 1992).
    q = 0.3
    p = erf(1 / np.sqrt(2 * q))
    edge = 4 * p * (1 - p)

    def moment(k):
        def integrand(angle):  # x = edge sin^2
            x = edge * np.sin(angle) ** 2
            return np.log(x) ** k * edge * np.cos(angle) ** 2 / (np.pi * (1 - x)) / p

        return quad(integrand, 0, np.pi / 2, epsabs=1e-12)[0]

    np.testing.assert_allclose(moment(0), (1 - p) / p, rtol=1e-9)  # with both atoms: one
    found = meanfield.jacobian_spectrum("hard_tanh", 1.0, 2, q, orthogonal=True, width=None)
    np.testing.assert_allclose(found.mean_log, moment(1) / 2, rtol=1e-8)
    variance = moment(2) - moment(1) ** 2
    np.testing.assert_allclose(found.log_spread, np.sqrt(variance) / 2, rtol=1e-8)
    np.testing.assert_allclose(found.nonzero, p, rtol=1e-12)


def test_a_finite_width_has_the_ranks_of_its_own():
    # The least of L binomial shares, and more of the limit's spread the wider the network.
    q, depth = 0.3, 100
    p = erf(1 / np.sqrt(2 * q))
    found = [
        meanfield.jacobian_spectrum("hard_tanh", 1.0, depth, q, True, width)
        for width in (100, 1000, 10**5, 10**7, None)
    ]
    spreads = [one.log_spread for one in found]
    assert spreads == sorted(spreads) and spreads[0] < 0.4 * spreads[-1] < 0.9 * spreads[-2]
    for width, one in zip((100, 1000, 10**5), found):
        draws = np.random.default_rng(0).binomial(width, p, (4000, depth)).min(axis=1) / width
        # The median of the least share, and a step of a coin.
        assert abs(one.nonzero - np.median(draws)) <= 1 / width + 0.1 * draws.std()
    tanh = [meanfield.jacobian_spectrum("tanh", 1.0, 10, q, True, n) for n in (100, None)]
    assert tanh[0].log_spread == tanh[1].log_spread and tanh[1].s_max == tanh[0].bulk[1]


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize("depth", [10, 30])
def test_the_spread_of_hard_tanh_is_that_of_random_matrices(orthogonal, depth):
    _spread_and_extremes("hard_tanh", orthogonal, depth, 100, 20)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 10, 100])
@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize("name", ["linear", "tanh", "hard_tanh"])
def test_spread_and_extremes_are_those_of_random_matrices(name, orthogonal, depth):
    _spread_and_extremes(name, orthogonal, depth, 200, 10)


def _spread_and_extremes(name, orthogonal, depth, n, draws):
    q = 0.3
    weight_variance, _ = meanfield.critical_point(name, q)
    rng = np.random.default_rng(0)
    layers = np.full(depth, q)
    found = [_drawn(name, weight_variance, layers, n, orthogonal, rng) for _ in range(draws)]
    theory = meanfield.jacobian_spectrum(name, weight_variance, depth, q, orthogonal, width=n)
    spreads = np.array([np.std(np.log(s)) for s in found])
    tops = np.log([s[0] for s in found])
    shares = np.array([s.size / n for s in found])
    # Standard errors, and corrections of relative order 1 / n to the limit of width. The Lyapunov
    # exponents digamma(k / 2) / 2 of long Gaussian products are 1.034 and 1.024 times as wide as
    # their limit at n = 100 and 200; 8 / n holds it.
    for values, expected, bias in (
        (spreads, theory.log_spread, 8 / n * theory.log_spread),
        (shares, theory.nonzero, 1 / n),
        (tops, np.log(theory.s_max), 0.1 + depth / n),
    ):
        error = values.std(ddof=1) / np.sqrt(draws)
        assert abs(values.mean() - expected) < 4 * error + bias + 1e-9


def test_the_density_does_not_hang_on_how_many_points_are_asked_for():
    points = np.geomspace(1e-3, 5, 3000)  # several chunks
    arguments = ("tanh", 1.3, 4, 0.4)
    whole = meanfield.jacobian_density(*arguments, points)
    parts = [meanfield.jacobian_density(*arguments, points[k : k + 1])[0] for k in (0, 700, 2999)]
    np.testing.assert_allclose(parts, whole[[0, 700, 2999]], rtol=1e-9, atol=1e-13)
