"""eps of the finite-width paper: kernels of which it is known."""

import numpy as np
import pytest

from experiments import perturbation
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table


def test_equal_covariances_have_no_perturbation_and_the_theorems_variance():
    theta = np.full([8, 8], 0.5) + 0.5 * np.eye(8)
    found = perturbation.compared(theta, 2 * theta)
    assert max(found["spread"], found["norm"]) < 1e-14
    assert found["theorem"] == pytest.approx(1)  # there it is exact


def test_eps_is_the_perturbation_over_the_eigenvalue_of_its_direction():
    """A change along e_1 - e_2, an eigenvector of the mean kernel."""
    theta, size = np.full([4, 4], 0.5) + 0.5 * np.eye(4), 0.01
    theta[0, 1] = theta[1, 0] = 0.5 - size
    theta[2, 3] = theta[3, 2] = 0.5 + size  # of the test inputs, so that the mean stays
    found = perturbation.compared(theta, theta)
    # Of two training inputs the mean kernel has 0.5 along e_1 - e_2 and 1.5 along e_1 + e_2.
    assert found["norm"] == pytest.approx(size / 0.5)
    assert found["spread"] == pytest.approx(np.sqrt(4 / 12) * size / 0.5)


def test_the_binary_draws_its_table(tmp_path, pictures):
    run(perturbation, tmp_path, "--examples=4", "--max_depth=4")
    picture = pictures["perturbation.png"]
    picture.assert_readable()
    rows = table(tmp_path / "metrics.csv", activation="relu", phase="chaotic")
    drawn = picture.panel("operator norm").line("relu, chaotic")
    assert_drawn(drawn, [row["depth"] for row in rows], [row["norm"] for row in rows])
