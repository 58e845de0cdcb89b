"""The variance of trained ensembles."""

import numpy as np
import pytest

from experiments import output_variance
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table


def test_a_trained_ensemble_has_the_variance_of_wide_networks():
    """Targets 0, so that a random kernel adds nothing at first order.

    The mean over 40 test points and 200 networks: four standard errors by networks, and 4 / width
    for the finite width.
    """
    rng = np.random.default_rng(0)
    x, x_test = (rng.normal(size=(n, 30)) for n in (5, 40))
    examples = output_variance.Examples(x, np.zeros(5), x_test, np.ones(40))
    network = output_variance.Network("erf", 2, 100, 2.0, 0.1)
    outputs, loss = output_variance.trained_ensemble(network, examples, 200, 400, 0)
    assert loss.max() < 1e-4
    squares = np.mean((outputs - outputs.mean(0)) ** 2, axis=1)
    theory = output_variance.predicted(network, examples)
    exact = theory.exact
    assert theory.bias == 1  # the mean output is 0
    error = squares.std() / np.sqrt(200)
    assert abs(squares.sum() / 199 - exact) < 4 * error + 0.04 * exact


def test_variance_and_bias_are_unbiased_and_add_up_to_the_squared_error():
    """Many ensembles of three networks: the means of both, four standard errors."""
    rng = np.random.default_rng(0)
    outputs = 0.7 + 2.0 * rng.normal(size=(4000, 3, 2))
    found = [output_variance.decomposed(one, np.full(2, 0.2)) for one in outputs]
    many = output_variance.decomposed(outputs.reshape(-1, 2), np.full(2, 0.2))
    # The bias's error is 2 (0.7 - 0.2) times that of a mean of 12,000 pairs of deviation 2.
    assert many["bias_error"] == pytest.approx(2 * 0.5 * 2 / np.sqrt(24_000), rel=0.1)
    for name, value in (("measured", 4.0), ("measured_bias", 0.25)):
        values = np.array([row[name] for row in found])
        assert abs(values.mean() - value) < 4 * values.std() / np.sqrt(len(values))
    total = found[0]["measured"] + found[0]["measured_bias"]
    squares = np.mean((outputs[0] - 0.2) ** 2)
    assert abs(total - squares) < 1e-12


def test_the_binary_writes_its_files(tmp_path, pictures):
    sizes = "--depth=1 --widths=16 --networks=5 --examples=4 --steps=5"
    run(output_variance, tmp_path, *sizes.split(), "--weight_variances=2")
    picture = pictures["output_variance.png"]
    picture.assert_readable()
    (row,) = table(tmp_path / "metrics.csv")
    panel = picture.panel("depth 1")
    assert_drawn(panel.line("wide networks, exact"), [2], [row["exact_wide"]])
    assert_drawn(panel.line("theorem 5.3"), [2], [row["theorem"]])
    assert_drawn(panel.lines[0][1:], [2], [row["measured"]])
    bias = picture.panel("sum of both")
    assert_drawn(bias.line("wide networks, exact"), [2], [row["bias_wide"]])
    assert_drawn(bias.lines[0][1:], [2], [row["measured_bias"]])
    assert panel.legend[-1] == "trained, width 16"
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 2
