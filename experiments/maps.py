"""Maps of a quantity over two settings, by default depth against the weight variance."""

from collections.abc import Iterable, Mapping

import numpy as np

from mfcnn import activations, meanfield

__all__ = ["critical_weight_variance", "table"]


def critical_weight_variance(activation: str, bias_variance: float) -> float:
    """The weight variance with chi_1 = 1, where a map's critical line is.

    A homogeneous activation has it at any bias variance, though with biases its variance q grows
    without end and has no fixed point.

    Example:
        >>> critical_weight_variance("relu", 1.0)
        2.0
    """
    homogeneity = activations.get(activation).homogeneity
    if homogeneity is not None:
        return 1 / homogeneity
    return float(meanfield.critical_weight_variance(activation, bias_variance))


def table(
    rows: Iterable[Mapping],
    value: str,
    x: str = "weight_variance",
    y: str = "depth",
    xs: Iterable[float] | None = None,
    ys: Iterable[float] | None = None,
) -> tuple[list, list, np.ndarray]:
    """A column of a sweep's rows as a matrix, as `pcolormesh` takes it.

    Args:
        rows: dicts; of several at one place the last counts.
        value: name of the column.
        x: name of the column that runs to the right.
        y: name of the column that runs upwards.
        xs: all values of x, where the rows have only some; else those of the rows.
        ys: likewise of y.

    Returns:
        (values of x ascending, of y ascending, float64 [y, x]), NaN where there is no row.

    Example:
        >>> table([{"depth": 2, "weight_variance": 1.5, "loss": 0.25}], "loss")
        ([1.5], [2], array([[0.25]]))
    """
    rows = list(rows)
    xs, ys = (
        sorted({row[name] for row in rows} if given is None else set(given))
        for name, given in ((x, xs), (y, ys))
    )
    values = np.full([len(ys), len(xs)], np.nan)
    for row in rows:
        values[ys.index(row[y]), xs.index(row[x])] = row[value]
    return xs, ys, values
