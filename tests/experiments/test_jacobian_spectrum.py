"""Jacobian spectra of random Keras stacks against theory."""

import pytest
from scipy import integrate

from experiments import jacobian_spectrum
from mfcnn import meanfield
from tests.experiments.running import run


@pytest.mark.parametrize("kind", ["gaussian", "delta_orthogonal"])
def test_short_stacks_have_the_moments_of_theory(kind):
    depth, channels, q_star, draws = 4, 48, 0.25, 4
    variances = meanfield.critical_point("tanh", q_star)
    settings = {"activation": "tanh", "q_star": q_star, "depth": depth, "channels": channels}
    values = jacobian_spectrum.measure(kind, settings | {"size": 3, "draws": draws, "seed": 0})
    assert values.shape == (draws, 9 * channels)
    theory = meanfield.jacobian_moments(
        "tanh", variances[0], depth, q_star, kind == "delta_orthogonal"
    )
    mean, mean_error, variance, variance_error = jacobian_spectrum.summarize(values)
    # Four draws: Student's t with 3 degrees of freedom; depth / channels for finite width.
    correction = depth / channels
    assert abs(mean - theory.mean) < 6 * mean_error + correction
    assert abs(variance - theory.variance) < 6 * variance_error + 2 * correction * theory.variance


def test_the_binary_writes_its_files(tmp_path, pictures):
    run(jacobian_spectrum, tmp_path, "--depth=3", "--channels=8", "--draws=2")
    pictures["jacobian_spectrum.png"].assert_readable()
    for panel, name in zip(
        pictures["jacobian_spectrum.png"].panels, ("Gaussian", "Delta-orthogonal")
    ):
        assert panel.title == name and panel.x_label == "log10 singular value"
        x, density = panel.line("theory")
        # A density: one but for its tails, and for the rule at the steep edges of 400 points.
        assert 0.9 < integrate.trapezoid(density, x) < 1.01
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3
