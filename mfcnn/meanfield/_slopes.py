"""The slopes phi'(h) of deep layers: their distribution, and the ranks that a width gives them."""

import dataclasses

import numpy as np
from scipy import stats

from mfcnn import activations

__all__ = ["Layers", "grouped", "of_finite_width", "slope_distribution", "thinned"]


@dataclasses.dataclass(frozen=True)
class Layers:
    """Layers of one distribution of d = phi'^2, and how many there are."""

    d: np.ndarray
    weights: np.ndarray
    count: float

    @property
    def nonzero(self) -> float:
        """The probability that d > 0."""
        share = float(self.weights[self.d > 0].sum())
        return 1.0 if share > 1 - 1e-13 else share  # a rounded sum: 1 - share must be exact

    def with_nonzero(self, share: float, count: float) -> "Layers":
        """The layers with another probability that d > 0."""
        if self.nonzero == 1:
            return dataclasses.replace(self, count=count)
        weights = self.weights * share / self.nonzero
        weights[self.d == 0] = 1 - share
        return Layers(self.d, weights, count)


def slope_distribution(
    activation: activations.Activation, q: float
) -> tuple[np.ndarray, np.ndarray]:
    """Values of phi'(h)^2, ascending, and their probabilities for h ~ N(0, q), q >= 0."""
    if q == 0:
        values, weights = activation.slopes_at_zero(), np.array([0.5, 0.5])
    else:
        values, weights = activation.derivative_distribution(q)
        # Rare slopes count by their part of the mean as well: saturated units have hardly others.
        shares, parts = weights / weights.sum(), weights * values**2
        keep = (shares > 1e-18) | (parts > 1e-18 * parts.sum())
        values, weights = values[keep], weights[keep]
    d, inverse = np.unique(values**2, return_inverse=True)
    return d, np.bincount(inverse, weights) / weights.sum()


def grouped(values: np.ndarray, weights: np.ndarray, most: int) -> list[tuple[float, float]]:
    """(value, weight) pairs that stand for many positive values, at most `most`, ascending.

    Many different values are put into bins of equal ratio, each at its mean. For the variances of
    layers that is exact to second order: for small q all that enters is linear in q.
    """
    unique, inverse = np.unique(values, return_inverse=True)
    totals = np.bincount(inverse, weights)
    if unique.size > most:
        low = max(unique[0], 1e-6 * min(unique[-1], 1.0))
        edges = np.geomspace(low, unique[-1], most + 1)[1:-1]
        places = np.searchsorted(edges, unique)
        sums = np.bincount(places, totals * unique, most)
        totals = np.bincount(places, totals, most)
        unique, totals = sums[totals > 0] / totals[totals > 0], totals[totals > 0]
    return list(zip(unique.tolist(), totals.tolist()))


def of_finite_width(layers: list[Layers], width: int) -> list[Layers]:
    """The layers with the shares of zero slopes that `width` rows have, as in a sample.

    The l-th least of `depth` binomial shares is taken at the probability (l - 3/8) / (depth + 1/4)
    (Blom's scores), and the layers have their places in an order that no stretch of them tells.
    Shares are put together by their distance from the least, which alone decides.
    """
    depth = int(sum(layer.count for layer in layers))
    turns = np.arange(1, depth + 1) * (np.sqrt(5) - 1) / 2
    levels = np.empty(depth)
    levels[np.argsort(turns % 1)] = (np.arange(depth) + 0.625) / (depth + 0.25)
    ends = np.cumsum([int(layer.count) for layer in layers])[:-1]
    rows = [
        _binomial_quantiles(part, layer.nonzero, width)
        for layer, part in zip(layers, np.split(levels, ends))
    ]
    least = min(int(row.min()) for row in rows)
    found = []
    for layer, row in zip(layers, rows):
        bins = np.frexp(row - least)[1]  # 0, 1, 2 to 3, 4 to 7, ... more than the least
        for place in np.unique(bins):
            inside = row[bins == place]
            found.append(layer.with_nonzero(float(inside.mean()) / width, inside.size))
    return found


def _binomial_quantiles(levels: np.ndarray, share: float, width: int) -> np.ndarray:
    """Numbers of slopes out of `width` that are not zero, at least one."""
    if share == 1:
        return np.full(levels.size, width)
    reach = 12 * np.sqrt(width * share * (1 - share)) + 12  # no level lies beyond it
    low = max(1, int(width * share - reach))
    counts = np.arange(low, min(width, int(width * share + reach) + 1) + 1)
    below = stats.binom.cdf(counts[:-1], width, share)
    return counts[np.searchsorted(below, levels)]


def thinned(d: np.ndarray, weights: np.ndarray, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    if most is None or d.size <= most:
        return d, weights
    zero = d == 0  # an atom of its own
    pairs = [(0.0, float(weights[zero].sum()))] if zero.any() else []
    pairs += grouped(d[~zero], weights[~zero], most)
    values = np.array(pairs)
    return values[:, 0], values[:, 1]
