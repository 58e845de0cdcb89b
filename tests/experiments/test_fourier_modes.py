"""Figure S4: conditional sampling against explicit networks, slopes against theory."""

import numpy as np

from experiments import fourier_modes
from mfcnn import activations, meanfield
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table

ARGUMENTS = ("erf", 2.25, 0.25)


def test_the_start_is_a_covariance_with_the_given_modes():
    point = meanfield.fixed_point(*ARGUMENTS)
    fixed = meanfield.fixed_point_covariance(point, (10,)).reshape(10, 10)
    start = fourier_modes.start_covariance(point)
    assert np.linalg.eigvalsh(start)[0] > 0
    np.testing.assert_allclose(
        fourier_modes.modes_of(fixed - start), fourier_modes.START, atol=1e-15
    )
    np.testing.assert_allclose(-6 * fourier_modes.START[:3], [1, 2 / 3, (2 / 3) ** 3])


def test_conditional_draws_have_the_law_of_explicit_networks():
    # First layer: mean and spread of the empirical covariance over networks of 20 channels.
    channels, networks = 20, 4000
    point = meanfield.fixed_point(*ARGUMENTS)
    coefficients = fourier_modes.ensemble(point, channels, networks, 1, seed=0)[:, 1].real
    rng = np.random.default_rng(0)
    fixed = meanfield.fixed_point_covariance(point, (10,)).reshape(10, 10)
    phi = activations.get("erf").phi
    grams = []
    for start in (fourier_modes.start_covariance(point), fixed):
        h = np.linalg.cholesky(start) @ rng.standard_normal((networks, 10, channels))
        x = np.asarray(phi(h))
        w = rng.standard_normal((3, networks, channels, channels)) * 1.5 / np.sqrt(channels)
        w *= np.sqrt(fourier_modes.PROFILE)[:, None, None, None]
        h = sum(np.roll(x, 1 - k, axis=1) @ w[k] for k in range(3))
        h += 0.5 * rng.standard_normal((networks, 1, channels))
        grams.append(h @ np.swapaxes(h, 1, 2) / channels)
    explicit = fourier_modes.modes_of(grams[1] - grams[0]).real
    error = np.hypot(explicit.std(axis=0), coefficients.std(axis=0)) / np.sqrt(networks)
    assert np.all(np.abs(explicit.mean(axis=0) - coefficients.mean(axis=0)) < 4.5 * error)


def test_slopes_agree_with_theory():
    point = meanfield.fixed_point(*ARGUMENTS)
    coefficients = fourier_modes.ensemble(point, 1000, 100, 12, seed=1, amplitude=0.01)
    slope, error, _ = fourier_modes.slopes(coefficients, first=1, signal=5.0)
    scales = meanfield.mode_depth_scales(*ARGUMENTS, fourier_modes.PROFILE, 10)
    # Jackknife errors over ten groups: Student's t with 9 degrees, six modes; 3 % for 1 / c.
    assert np.all(np.abs(slope + 1 / scales) < 5 * error + 0.03 / scales)


def test_the_binary_writes_its_files(tmp_path, pictures):
    run(fourier_modes, tmp_path, "--channels=1000", "--networks=60", "--depth=24")
    picture = pictures["fourier_modes.png"]
    picture.assert_readable()
    for amplitude in (1, 0.01):
        panel = picture.panel(f"times {amplitude:g}")
        assert panel.scales == ("linear", "log") and panel.x_label == "layer"
        for mode in range(6):
            rows = table(tmp_path / "metrics.csv", amplitude=amplitude, mode=mode)
            layers = [row["layer"] for row in rows]
            measured, iterated = panel.lines[3 * mode : 3 * mode + 2]
            assert_drawn(measured[1:], layers, [abs(row["measured"]) for row in rows])
            assert_drawn(iterated[1:], layers, [abs(row["iterated"]) for row in rows])
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 2 * 6 * 25
