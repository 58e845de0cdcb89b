"""Singular values of the input-output Jacobian of a deep random network, in the limit of width."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mfcnn import activations, arguments
from mfcnn.meanfield._free_products import FreeProduct
from mfcnn.meanfield._jacobian_moments import jacobian_moments, layer_variances
from mfcnn.meanfield._roots import bracketed_root

__all__ = ["JacobianSpectrum", "jacobian_density", "jacobian_spectrum"]

# Below it the spectrum is so narrow that the first order of log(1 + x) is exact to 1e-6.
_NARROW = 1e-6
# A product of nearly isometric factors has log T on a semicircle, to this order.
_SEMICIRCLE = 0.05
# For the extremes: points in log T, different variances of layers and values of phi'^2.
_QUANTILE_POINTS, _QUANTILE_VARIANCES, _QUANTILE_SLOPES = 60, 6, 64


@dataclasses.dataclass(frozen=True)
class JacobianSpectrum:
    """The law of the singular values s, of those that are not zero.

    Attributes:
        mean_log: mean of log s.
        log_spread: standard deviation of log s; 0 is dynamical isometry.
        s_min: the smallest of `width` singular values: 1 / (2 width) of the law lies below it.
        s_max: the largest of them, likewise.
        condition_number: s_max / s_min.
        bulk: (least, largest) singular value of the law. The least is 0 for Gaussian weights and
            where phi' comes near 0.
        nonzero: the share of singular values that are not zero; below 1 where phi' is 0 on an
            interval (relu, hard_tanh). All others are exactly zero.
    """

    mean_log: float
    log_spread: float
    s_min: float
    s_max: float
    condition_number: float
    bulk: tuple[float, float]
    nonzero: float


def jacobian_density(
    activation: Any,
    weight_variance: float,
    depth: int,
    q: ArrayLike,
    points: ArrayLike,
    orthogonal: bool = False,
) -> np.ndarray:
    """Density of the squared singular values of the Jacobian.

    Atoms are left out: at 0, where phi' vanishes on an interval, and at weight_variance^depth for
    orthogonal weights and a phi' that is 1 on one.

    Args:
        activation: a name or an `Activation`.
        weight_variance: sigma_w^2, positive.
        depth: the number of layers.
        q: variance of the pre-activations, positive, one for all layers or [depth].
        points: squared singular values, positive, [m].
        orthogonal: whether the weights are orthogonal rather than Gaussian.

    Returns:
        float64 [m].

    Raises:
        ValueError: for points or variances that are not positive, depth < 1, or a flat distribution
            (linear and orthogonal), which has no density.

    Example:
        >>> import mfcnn
        >>> mfcnn.meanfield.jacobian_density("linear", 1.0, 1, 1.0, [1.0, 5.0]).round(6)
        array([0.275664, 0.      ])

    Source: CNN paper, section 2.2.1 (Pennington et al., 2018).
    """
    activation = activations.get(activation)
    depth = arguments.depth(depth)
    weight_variance = arguments.variance("weight_variance", weight_variance, positive=True)
    q = layer_variances(q, depth, positive=True)
    points = arguments.variances("points", points, positive=True)
    orthogonal = arguments.boolean("orthogonal", orthogonal)
    if points.ndim != 1:
        raise ValueError(f"points must have the shape [m]. Received: points.shape={points.shape}")
    law = FreeProduct(activation, weight_variance, q, orthogonal)
    if law.flat:
        raise ValueError("All singular values are equal: there is no density.")
    if orthogonal and depth == 1:
        return _slope_density(activation, q[0], points / weight_variance) / weight_variance
    return law.log_density(np.log(points)) / points


def jacobian_spectrum(
    activation: Any,
    weight_variance: float,
    depth: int,
    q: ArrayLike,
    orthogonal: bool = False,
    width: int | None = 1000,
) -> JacobianSpectrum:
    """Spread, extremes and condition of the singular values of the Jacobian.

    Mean and spread of log s are exact in the limit of width, by one integral over the product of
    S-transforms on the negative axis; the extremes are quantiles of the law.

    Where phi' is 0 on an interval (relu, hard_tanh), a layer of `width` rows has a random rank, and
    the layer of least rank decides which singular values are zero. That changes the spread by a
    factor of two at any width in reach (1 / sqrt(width) against gaps of zero), so the law has the
    ranks of that width; width=None is the limit, in which all layers have one rank.

    Args:
        activation: a name or an `Activation`.
        weight_variance: sigma_w^2, positive.
        depth: the number of layers.
        q: variance of the pre-activations, one for all layers or [depth], one for each.
        orthogonal: whether the weights are orthogonal rather than Gaussian.
        width: the number of singular values: positions times channels. None is the limit, where
            s_min and s_max are the edges of the bulk.

    Returns:
        A `JacobianSpectrum`.

    Raises:
        ValueError: for a variance that is negative or depth or width below 1, or phi' = 0.

    Example:
        >>> import mfcnn
        >>> found = mfcnn.meanfield.jacobian_spectrum("linear", 1.0, depth=10, q=1.0)
        >>> exact = (10**2 + 10 * 3.141592653589793**2 / 3) ** 0.5 / 2  # Fuss-Catalan
        >>> round(found.log_spread, 9) == round(exact, 9)
        True

    Source: CNN paper, section 2.2.1; the spread is a derivation of our own (BUILD_NOTES.md).
    """
    activation = activations.get(activation)
    depth = arguments.depth(depth)
    weight_variance = arguments.variance("weight_variance", weight_variance, positive=True)
    q = layer_variances(q, depth)
    orthogonal = arguments.boolean("orthogonal", orthogonal)
    width = None if width is None else arguments.integer("width", width, 1)
    law = FreeProduct(activation, weight_variance, q, orthogonal, width)
    with np.errstate(over="ignore", divide="ignore"):
        mean, variance = law.log_moments()
        moments = jacobian_moments(activation, weight_variance, depth, q, orthogonal)
        if moments.relative_variance < _NARROW:
            variance = moments.relative_variance
        least, largest = (mean, mean) if law.flat else law.edges()
        spread = np.sqrt(variance)
        if width is None:
            low, high = least, largest
        elif law.flat or spread < _SEMICIRCLE:
            reach = spread * stats.semicircular.isf(1 / (2 * width), scale=2)
            low, high = mean - reach, mean + reach
        elif orthogonal and depth == 1:
            low, high = _slope_quantiles(activation, q[0], weight_variance, width)
        else:
            coarse = FreeProduct(
                activation,
                weight_variance,
                q,
                orthogonal,
                width,
                _QUANTILE_VARIANCES,
                _QUANTILE_SLOPES,
            )
            low, high = _quantiles(coarse, mean, spread, coarse.edges()[1], width)
        return JacobianSpectrum(
            mean_log=0.5 * mean,
            log_spread=float(0.5 * spread),
            s_min=float(np.exp(0.5 * low)),
            s_max=float(np.exp(0.5 * high)),
            condition_number=float(np.exp(0.5 * (high - low))),
            bulk=(float(np.exp(0.5 * least)), float(np.exp(0.5 * largest))),
            nonzero=law.nonzero,
        )


def _quantiles(
    law: FreeProduct, mean: float, spread: float, largest: float, width: int
) -> tuple[float, float]:
    """The log T below and above which 1 / (2 width) of the values lie that are not zero."""
    low = mean - (np.log(2 * width) + 4) * spread  # the lower tail is exponential at most
    # Points as dense at the upper edge as a square root there needs.
    points = largest - (largest - low) * np.linspace(0, 1, _QUANTILE_POINTS) ** 2
    density = law.log_density(points)
    slices = 0.5 * (density[1:] + density[:-1]) * -np.diff(points)
    tail = law.nonzero / (2 * width)
    # Each tail summed from its own end: the rule's error is that of the tail.
    above = law.atom() + np.append(0.0, np.cumsum(slices))
    below = np.append(0.0, np.cumsum(slices[::-1]))
    return float(np.interp(tail, below, points[::-1])), float(np.interp(tail, above, points))


def _slope_quantiles(
    activation: activations.Activation, q: float, weight_variance: float, width: int
) -> tuple[float, float]:
    """One orthogonal layer: the quantiles of log(weight_variance phi'(h)^2) themselves."""
    z = np.sqrt(q) * np.linspace(-9, 9, 200_001)
    d = np.asarray(activation.phi_prime(z)) ** 2
    weights = np.exp(-0.5 * (z / np.sqrt(q)) ** 2) if q > 0 else np.ones_like(z)
    d, weights = d[d > 0], weights[d > 0]
    order = np.argsort(d)
    total = np.cumsum(weights[order])
    ends = np.interp([total[-1] / (2 * width), total[-1] * (1 - 1 / (2 * width))], total, d[order])
    low, high = np.log(weight_variance * ends)
    return float(low), float(high)


def _slope_density(activation: activations.Activation, q: float, points: np.ndarray) -> np.ndarray:
    """Density of phi'(h)^2, h ~ N(0, q), by the change of variables at each h with that value."""
    edges = np.sqrt(q) * np.linspace(-12, 12, 2401)
    d = np.asarray(activation.phi_prime(edges)) ** 2
    # Pairs (point, interval of h) with a crossing.
    rows, columns = np.nonzero((d[:-1] < points[:, None]) != (d[1:] < points[:, None]))

    def excess(h: np.ndarray) -> np.ndarray:
        return np.asarray(activation.phi_prime(h)) ** 2 - points[rows]

    h = bracketed_root(excess, edges[columns], edges[columns + 1])
    step = 1e-5 * np.sqrt(q)
    slope = (excess(h + step) - excess(h - step)) / (2 * step)
    with np.errstate(divide="ignore"):
        parts = np.exp(-(h**2) / (2 * q)) / np.sqrt(2 * np.pi * q) / np.abs(slope)
    return np.bincount(rows, parts, points.size)
