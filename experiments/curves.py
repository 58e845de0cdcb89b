"""Curves of a table: its rows by what tells them apart, and their columns as arrays."""

from typing import Any

import numpy as np

__all__ = ["Rows", "column", "curves_of"]

# The rows of a table, as they come from a measurement or back from a CSV file.
Rows = list[dict[str, Any]]


def curves_of(rows: Rows, *names: str) -> dict[tuple[Any, ...], Rows]:
    """The rows of each curve; curves and rows keep the order of the table.

    Args:
        rows: dicts.
        *names: of the columns in which curves differ.

    Returns:
        dict from the values in these columns, a tuple, to the rows that have them.

    Example:
        >>> rows = [{"depth": 2, "step": 1}, {"depth": 4, "step": 1}, {"depth": 2, "step": 2}]
        >>> {key: len(curve) for key, curve in curves_of(rows, "depth").items()}
        {(2,): 2, (4,): 1}
    """
    found: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def column(rows: Rows, name: str) -> np.ndarray:
    """The values of a column.

    Example:
        >>> column([{"depth": 2}, {"depth": 4}], "depth")
        array([2, 4])
    """
    return np.array([row[name] for row in rows])
