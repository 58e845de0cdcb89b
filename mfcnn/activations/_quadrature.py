"""Gaussian expectations of functions of one variable, exact to rounding, kinks included.

An expectation over x ~ N(0, q) is a sum of 16-point Gauss-Legendre rules on panels. The panels end
at every standard deviation and at the edges that `find_panels` found: between two edges phi and
phi' are polynomials of degree 31 to rounding, so neither a kink nor a large q costs accuracy.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = [
    "expectation",
    "find_panels",
    "hermite_basis",
    "hermite_functions",
    "integrals",
    "nested_expectation",
    "nodes",
    "pair_expectation",
    "pair_resolution",
]

# Beyond 16 standard deviations the density is below 1e-55: enough for phi that grow like exp(x).
_STANDARD_DEVIATIONS = 16.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
# Maps 16 values at the nodes to Legendre coefficients; the last rows measure what is unresolved.
_TO_LEGENDRE = (
    np.polynomial.legendre.legvander(_NODES, 15) * _WEIGHTS[:, None] * (np.arange(16) + 0.5)
).T
_RESOLVED = 1e-13
Function = Callable[[np.ndarray], np.ndarray]
_OUTWARD = 2.0 ** np.arange(0, 9)
_START = np.concatenate([-_OUTWARD[::-1], [0.0], _OUTWARD])


def find_panels(functions: Sequence[Function]) -> tuple[np.ndarray, np.ndarray]:
    """Splits [-256, 256] into panels on which all functions are smooth.

    Args:
        functions: callables from a float64 array to a float64 array of the same shape.

    Returns:
        (edges, kinks): float64 arrays; kinks are the edges at which some function or its
        slope jumps.

    Raises:
        ValueError: if the functions are not piecewise smooth to float64 precision.
    """
    scales = [np.max(np.abs(f(np.linspace(-1.0, 1.0, 101)))) for f in functions]
    edges, kinks = _bisect(functions, scales, _START)
    if kinks.size:
        start = np.unique(np.concatenate([_START, kinks]))
        # From the kinks on, both sides are smooth: what is left to split are real features.
        edges, rest = _bisect(functions, scales, start)
        kinks = np.unique(np.concatenate([kinks, rest]))
    jumps = [k for k in edges[1:-1] if _jumps(functions, scales, k)]
    return edges, np.unique(np.concatenate([kinks, jumps]))


def _bisect(
    functions: Sequence[Function], scales: list, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    left, right = edges[:-1], edges[1:]
    done, kinks = [edges], []
    while left.size:
        x = 0.5 * (left + right)[:, None] + 0.5 * (right - left)[:, None] * _NODES
        rough = np.zeros(left.shape, bool)
        for f, scale in zip(functions, scales):
            values = f(x)
            tail = np.max(np.abs(values @ _TO_LEGENDRE[-3:].T), axis=1)
            # An argument far from 0 is itself rounded, and phi moves with it. Values that overflow
            # can't be split: they show where they are used.
            size = np.maximum(scale, np.max(np.abs(values), axis=1)) * (1 + np.abs(left))
            rough |= tail > _RESOLVED * size
        left, right = left[rough], right[rough]
        if left.size > 4096:
            raise ValueError(
                "The activation is not piecewise smooth to float64 precision near "
                f"x = {left[0]:.6g}. phi and phi_prime must compute in the dtype they are given."
            )
        middle = 0.5 * (left + right)
        tiny = right - left < 1e-14 * np.maximum(1.0, np.abs(middle))
        kinks.append(middle[tiny])
        left, right, middle = left[~tiny], right[~tiny], middle[~tiny]
        done.append(middle)
        left, right = np.concatenate([left, middle]), np.concatenate([middle, right])
    return np.unique(np.concatenate(done)), _merge(np.concatenate(kinks) if kinks else np.array([]))


def _merge(points: np.ndarray) -> np.ndarray:
    """One point for each cluster of neighbours closer than 1e-12."""
    points = np.sort(points)
    if points.size < 2:
        return points
    return points[np.concatenate([[True], np.diff(points) > 1e-12 * (1 + np.abs(points[1:]))])]


def _jumps(functions: Sequence[Function], scales: list, edge: float) -> bool:
    """Whether a function or its slope jumps at an edge (polynomials from both sides disagree)."""
    h = 2.0**-6
    t = h * (0.5 + 0.5 * _NODES)
    for f, scale in zip(functions, scales):
        both = [
            np.polynomial.legendre.Legendre(_TO_LEGENDRE @ f(edge + side * t)) for side in (-1, 1)
        ]
        value = [p(-1.0) for p in both]
        slope = [side * p.deriv()(-1.0) * 2 / h for side, p in zip((-1, 1), both)]
        size = max(scale, abs(value[0]))
        if abs(value[0] - value[1]) > 1e-11 * size or abs(slope[0] - slope[1]) > 1e-7 * size / h:
            return True
    return False


def integrals(function: Function, edges: np.ndarray) -> np.ndarray:
    """Integral of the function over each panel, float64 [n - 1]."""
    half = 0.5 * np.diff(edges)
    x = 0.5 * (edges[1:] + edges[:-1])[:, None] + half[:, None] * _NODES
    return half * (function(x) @ _WEIGHTS)


def _rule(mean: Any, deviation: Any, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for N(mean, deviation^2), broadcast over the leading axes: [..., m]."""
    mean, deviation = np.broadcast_arrays(mean, deviation)
    mean, deviation = mean[..., None], deviation[..., None]
    reach = _STANDARD_DEVIATIONS
    grid = np.linspace(-reach, reach, int(2 * reach) + 1)
    ends = np.clip((edges - mean) / deviation, -reach, reach)
    z = np.sort(np.concatenate([np.broadcast_to(grid, mean.shape[:-1] + grid.shape), ends], -1))
    half = 0.5 * np.diff(z, axis=-1)[..., None]
    nodes = 0.5 * (z[..., 1:] + z[..., :-1])[..., None] + half * _NODES
    weights = half * _WEIGHTS * np.exp(-0.5 * nodes**2) / np.sqrt(2 * np.pi)
    shape = nodes.shape[:-2] + (-1,)
    return mean + deviation * nodes.reshape(shape), weights.reshape(shape)


def nodes(q: float, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes x and weights of expectations under N(0, q) for one q, both [m]."""
    deviation = np.sqrt(np.float64(q))
    x, weights = _rule(0.0, deviation, edges)
    # By the density, since all that is left of a saturated phi' may be one narrow panel.
    keep = (weights > 0) & (np.abs(x) < 13.5 * deviation)
    return x[keep], weights[keep]


def expectation(function: Function, q: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """E[function(x)] for x ~ N(0, q).

    Args:
        function: takes x [n, m] and returns values [n, m].
        q: variances, float64 [n], positive.
        edges: panel edges of `find_panels`.

    Returns:
        float64 [n].
    """
    q = np.asarray(q, np.float64)
    values = np.empty_like(q)
    chunk = 4096
    for i in range(0, q.size, chunk):
        x, weights = _rule(0.0, np.sqrt(q[i : i + chunk]), edges)
        values[i : i + chunk] = np.einsum("nm,nm->n", weights, function(x))
    return values


def nested_expectation(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray],
    q: float,
    gap: float,
    edges: np.ndarray,
    kinks: np.ndarray,
) -> float:
    """E[function(u, v)] for u, v ~ N(0, q) with correlation 1 - gap, for kinked integrands.

    The inner integral runs over v given u, the outer one over u. Given u, v has the deviation
    sqrt(q (1 - c^2)), so that near a kink the outer integrand varies on that scale: the outer
    panels are refined there.

    Args:
        function: takes u [m, 1] and v [m, k] and returns values [m, k].
        q: one variance, a positive float.
        gap: 1 - c, a float in (0, 2).
        edges: panel edges of `find_panels`.
        kinks: the kinks among them.

    Returns:
        A float.
    """
    c = 1.0 - gap
    deviation = np.sqrt(q * gap * (2.0 - gap))
    steps = np.arange(-_STANDARD_DEVIATIONS, _STANDARD_DEVIATIONS + 1)
    near = [edges]
    if abs(c) > 1e-3:  # otherwise v hardly depends on u and the outer integrand is smooth
        near += [kink / c + deviation / abs(c) * steps for kink in np.union1d(kinks, 0.0)]
    u, outer = _rule(0.0, np.sqrt(q), np.concatenate(near))
    keep = outer > 1e-40
    u, outer = u[keep], outer[keep]
    total = 0.0
    for i in range(0, u.size, 512):
        v, inner = _rule(c * u[i : i + 512], deviation, edges)
        keep = np.max(inner, axis=0) > 1e-40  # panels of no width, and far tails
        v, inner = v[:, keep], inner[:, keep]
        total += outer[i : i + 512] @ np.sum(inner * function(u[i : i + 512, None], v), axis=1)
    return total


def pair_resolution(q: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Points per standard deviation that `pair_expectation` needs for N(0, q), powers of two."""
    feature = np.min(np.diff(edges)) / np.sqrt(q)
    return 2 ** np.ceil(np.log2(np.maximum(4.0, 2.0 / feature))).astype(int)


def pair_expectation(
    f: Function, q: np.ndarray, gap: np.ndarray, resolution: int, half_square: bool = False
) -> np.ndarray:
    """E[f(u) f(v)], or E[(f(u) - f(v))^2] / 2, for smooth f and u, v of correlation 1 - gap.

    In standard deviations and with c = |1 - gap| the density of u and v (or -v) is

        exp(-(u^2 + v^2) / (2 (1 + c))) exp(-(u - v)^2 / (2 s^2)),    s^2 = (1 - c^2) / c:

    the expectation is a Gaussian convolution of f exp(-u^2 / (2 (1 + c))). On a uniform grid, where
    the trapezoidal rule is exact to rounding for smooth f, it is a product of Fourier transforms.
    The half square has 1 - exp(-k^2 s^2 / 2) in each term: nothing cancels as gap -> 0.

    Args:
        f: callable on float64 arrays [n, m].
        q: variances, float64 [n].
        gap: float64 [n], in [0, 2].
        resolution: grid points in a standard deviation, a power of two.
        half_square: which of the two.

    Returns:
        float64 [n].
    """
    reach = int(_STANDARD_DEVIATIONS) * resolution
    z = np.arange(-reach, reach) / resolution
    size = 4 * reach  # twice the points, so that the convolution does not wrap around
    gap = gap[:, None]
    x, c = np.sqrt(q)[:, None] * z, np.abs(1 - gap)
    window = np.exp(-(z**2) / (2 * (1 + c)))
    density = np.exp(-(z**2) / 2)
    values, mirrored = f(x), f(-x) if np.any(gap > 1) else None
    if half_square:  # a constant part of f would cancel
        mean = (values @ density / density.sum())[:, None]
        values, mirrored = values - mean, None if mirrored is None else mirrored - mean
    transform = other = np.fft.rfft(values * window, size)
    if mirrored is not None:
        other = np.fft.rfft(np.where(gap > 1, mirrored, values) * window, size)
    product = (transform * np.conj(other)).real

    kernel, scale, copies = _kernel(gap, c, resolution, size, half_square)
    if half_square:
        product = (
            np.fft.rfft(window, size) * np.conj(np.fft.rfft(values**2 * window, size))
        ).real - product
    return scale[:, 0] * ((kernel * product) @ copies)


def _kernel(
    gap: np.ndarray, c: np.ndarray, resolution: int, size: int, half_square: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The Gaussian that `pair_expectation` convolves with, transformed; factors; multiplicities."""
    wave = 2 * np.pi * resolution / size * np.arange(size // 2 + 1)
    copies = np.where((wave == 0) | (wave == wave[-1]), 1.0, 2.0)
    narrow = np.maximum(c, 0.5)
    kernel = -0.5 * wave**2 * gap * (2 - gap) / narrow
    scale = 1 / (resolution * size * np.sqrt(2 * np.pi * narrow))
    kernel = np.where(half_square & (gap <= 0.5), np.expm1(kernel), np.exp(kernel))
    wide = c[:, 0] < 0.5  # there the kernel is wider than the grid: sampled, not transformed
    if np.any(wide):
        distance = np.minimum(np.arange(size), size - np.arange(size)) / resolution
        c = c[wide]
        sampled = np.exp(-(distance**2) * c / (2 * (1 - c * c)))
        kernel[wide] = np.fft.rfft(sampled).real / np.sqrt(1 - c * c)
        scale[wide] = 1 / (2 * np.pi * resolution**2 * size)
    return kernel, scale, copies


def hermite_basis(largest: float, edges: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes z [m] and the matrix [m, order] with f(sqrt(q) z) @ matrix = E[f He_k] / sqrt(k!).

    Args:
        largest: the largest variance q that the nodes must resolve.
        edges: panel edges of `find_panels`; f must be smooth.
        order: the number of coefficients, >= 2.
    """
    feature = np.min(np.diff(edges)) / np.sqrt(largest)
    width = min(1.0, feature, 8.0 / np.sqrt(order))
    count = 2 * int(np.ceil(_STANDARD_DEVIATIONS / width))
    ends = np.linspace(-_STANDARD_DEVIATIONS, _STANDARD_DEVIATIONS, count + 1)
    z, weights = _rule(0.0, 1.0, ends)
    keep = weights > 1e-60
    z, weights = z[keep], weights[keep]
    return z, (hermite_functions(z, order) * (weights * np.exp(0.25 * z**2))).T


def hermite_functions(z: np.ndarray, order: int) -> np.ndarray:
    """He_k(z) exp(-z^2 / 4) / sqrt(k!) for k < order, [order, m]: they stay bounded."""
    basis = np.empty((order, z.size))
    basis[0] = np.exp(-0.25 * z**2)
    basis[1] = z * basis[0]
    for k in range(1, order - 1):
        basis[k + 1] = (z * basis[k] - np.sqrt(k) * basis[k - 1]) / np.sqrt(k + 1)
    return basis
