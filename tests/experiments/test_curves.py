"""Rows of a table as curves."""

import numpy as np

from experiments.curves import column, curves_of

ROWS = [
    {"depth": 9, "kernel": "ntk", "loss": 1},
    {"depth": 3, "kernel": "ntk", "loss": 2},
    {"depth": 9, "kernel": "nngp", "loss": 3},
    {"depth": 9, "kernel": "ntk", "loss": 4},
]


def test_curves_and_their_rows_keep_the_tables_order():
    curves = curves_of(ROWS, "depth", "kernel")
    assert list(curves) == [(9, "ntk"), (3, "ntk"), (9, "nngp")]
    assert curves[9, "ntk"] == [ROWS[0], ROWS[3]]
    assert curves_of(ROWS) == {(): ROWS} and curves_of([], "depth") == {}


def test_a_column_is_an_array():
    np.testing.assert_array_equal(column(ROWS, "loss"), [1, 2, 3, 4])
