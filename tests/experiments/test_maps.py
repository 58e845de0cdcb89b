"""Rows of a sweep as a matrix."""

import numpy as np

from experiments import maps

ROWS = [
    {"depth": 9, "weight_variance": 2.0, "loss": 1},
    {"depth": 3, "weight_variance": 1.0, "loss": 2},
    {"depth": 3, "weight_variance": 1.0, "loss": 3},
]


def test_depth_runs_upwards_the_last_row_counts_and_holes_are_nan():
    xs, ys, values = maps.table(ROWS, "loss")
    assert (xs, ys) == ([1.0, 2.0], [3, 9])
    np.testing.assert_array_equal(values, [[3, np.nan], [np.nan, 1]])


def test_a_part_of_the_rows_can_be_laid_on_the_axes_of_all():
    _, _, values = maps.table(ROWS[:1], "loss", xs=[1.0, 2.0], ys=[3, 9])
    np.testing.assert_array_equal(values, [[np.nan, np.nan], [np.nan, 1]])
