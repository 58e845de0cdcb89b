"""Gaussian moments of an activation by quadrature, for any phi and phi'.

For u ~ N(0, q) a moments object has the methods

    second(q)      E[phi(u)^2]
    derivative(q)  E[phi'(u)^2]
    slope(q)       d/dq E[phi(u)^2] = E[u phi(u) phi'(u)] / q = E[phi'^2 + phi phi'']
    mean(q)        E[phi(u)]
    deficit(q)     q E[phi'(u)^2] - E[phi(u)^2]

and pair(q), which prepares u, v ~ N(0, q) with correlation c = 1 - gap:

    derivative(gap)  E[phi'(u) phi'(v)]
    secant(gap)      (E[phi(u)^2] - E[phi(u) phi(v)]) / (q gap), the mean of derivative over [c, 1]

Arguments and results are float64 arrays of one shape [n], q > 0 and 0 <= gap <= 2. The deficit and
the secant are differences that vanish with q and gap: they are never formed by subtraction of the
whole, so that the critical line and c -> 1 keep their digits.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn.activations import _quadrature as quadrature

__all__ = ["ClosedForm", "Numerical", "Pair"]


@dataclasses.dataclass(frozen=True)
class Pair:
    """The two-point moments at some variances, as functions of the gap."""

    derivative: Callable[[np.ndarray], np.ndarray]
    secant: Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """The moments as functions of q, and the two-point moments as functions of (q, gap)."""

    second: Callable[[np.ndarray], np.ndarray]
    derivative: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    mean: Callable[[np.ndarray], np.ndarray]
    deficit: Callable[[np.ndarray], np.ndarray]
    pair_derivative: Callable[[np.ndarray, np.ndarray], np.ndarray]
    pair_secant: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def pair(self, q: np.ndarray) -> Pair:
        """The two-point moments at variances q."""
        parts = self.pair_derivative, self.pair_secant
        return Pair(*(functools.partial(part, q) for part in parts))


class Numerical:
    """Moments by quadrature; locates the features and kinks of phi and phi' once, when needed."""

    def __init__(self, phi: Callable, phi_prime: Callable, refusal: str | None = None) -> None:
        """Takes the activation and its derivative, callables on TF tensors or numpy arrays.

        With a refusal, the reason why there are no moments, asking for one raises a ValueError.
        """
        self.refusal = refusal
        self.phi = _on_float64(phi, "phi")
        self.phi_prime = _on_float64(phi_prime, "phi_prime")
        self._found: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def panels(self) -> tuple[np.ndarray, np.ndarray]:
        """(edges, kinks) of `quadrature.find_panels`."""
        if self.refusal:
            raise ValueError(self.refusal)
        if self._found is None:
            found = quadrature.find_panels([self.phi, self.phi_prime])
            self._check_derivative(found[0])
            self._found = found
        return self._found

    def _check_derivative(self, edges: np.ndarray) -> None:
        """Refuses phi_prime that is not the derivative of phi, as where phi jumps."""
        edges = edges[np.abs(edges) <= 16]  # where signals are, and phi has its features
        with np.errstate(over="ignore", invalid="ignore"):
            rise = np.diff(self.phi(edges))
            integral = quadrature.integrals(self.phi_prime, edges)
            off = ~(np.abs(integral - rise) <= 1e-9 * np.max(np.abs(rise)) + 1e-100)
        if np.any(off):
            i = np.argmax(off)
            raise ValueError(
                "phi_prime must be the derivative of phi, and phi continuous. From "
                f"x = {edges[i]:.6g} to {edges[i + 1]:.6g} phi rises by {rise[i]:.6g}, the "
                f"integral of phi_prime is {integral[i]:.6g}."
            )

    def _expectation(self, function: Callable, q: np.ndarray) -> np.ndarray:
        return quadrature.expectation(function, q, self.panels[0])

    def second(self, q: np.ndarray) -> np.ndarray:
        """E[phi^2]."""
        return self._expectation(lambda x: self.phi(x) ** 2, q)

    def derivative(self, q: np.ndarray) -> np.ndarray:
        """E[phi'^2]."""
        return self._expectation(lambda x: self.phi_prime(x) ** 2, q)

    def slope(self, q: np.ndarray) -> np.ndarray:
        """d/dq E[phi^2]; by Stein's lemma without a second derivative."""
        return self._expectation(lambda x: x * self.phi(x) * self.phi_prime(x), q) / q

    def mean(self, q: np.ndarray) -> np.ndarray:
        """E[phi]."""
        return self._expectation(self.phi, q)

    def hermite_basis(self, largest: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Nodes and matrix of `quadrature.hermite_basis` with enough orders for phi, or None."""
        edges, kinks = self.panels
        if kinks.size:
            return None
        second = self.second(np.array([largest]))[0]
        for order in (32, 64, 160, 400):
            # He_k varies on the scale 1 / sqrt(k): too coarse for phi, at a cost that has no bound.
            if order * np.min(np.diff(edges)) ** 2 < largest / 4:
                continue
            z, matrix = quadrature.hermite_basis(largest, edges, order)
            found = np.sum((self.phi(np.sqrt(largest) * z) @ matrix) ** 2)
            if abs(found - second) < 1e-13 * second:
                return z, matrix
        return None

    def derivative_distribution(self, q: float) -> tuple[np.ndarray, np.ndarray]:
        """Values of phi' at the nodes of the quadrature at one variance q, and their weights."""
        x, weights = quadrature.nodes(q, self.panels[0])
        values = self.phi_prime(x)
        # Few different values (piecewise linear phi) need few nodes.
        unique, inverse = np.unique(values, return_inverse=True)
        return unique, np.bincount(inverse, weights)

    def deficit(self, q: np.ndarray) -> np.ndarray:
        """The difference q E[phi'^2] - E[phi^2]."""
        # With phi = a u + R and a = E[phi'], R is orthogonal to u and E[R'] = 0, so the deficit is
        # E[q R'^2 - R^2]: small terms only, where q E[phi'^2] and E[phi^2] agree in most digits.
        # Per chunk, since the integrand depends on q.
        values = np.empty_like(q)
        means = self._expectation(self.phi_prime, q)
        for i, (variance, a) in enumerate(zip(q, means)):
            values[i] = self._expectation(
                lambda x, a=a, variance=variance: (
                    variance * (self.phi_prime(x) - a) ** 2 - (self.phi(x) - a * x) ** 2
                ),
                q[i : i + 1],
            )[0]
        return values

    def pair(self, q: np.ndarray) -> Any:
        """The two-point moments at variances q."""
        return _NumericalPair(self, q)


class _NumericalPair:
    """Two-point moments: Fourier quadrature for smooth phi, nested quadrature elsewhere."""

    _FINEST = 2**12  # points per standard deviation; beyond, the nested quadrature is quicker
    _CONVERGED = 1e-12
    _CHUNK = 2**20  # points evaluated at once

    def __init__(self, moments: Numerical, q: np.ndarray) -> None:
        self._moments, self._q = moments, q
        # A variance often comes with many correlations.
        variances, rows = np.unique(q, return_inverse=True)
        total = moments.derivative(variances)
        edges, kinks = moments.panels
        resolution = quadrature.pair_resolution(variances, edges)
        if kinks.size:
            resolution[:] = 0
        resolution[resolution > self._FINEST] = 0
        # As gap -> 0 the secant is E[phi'^2]: the grid must find what the panels give.
        gap = np.full_like(total, 1e-30)
        secant = self._by_fourier(moments.phi, variances, gap, resolution, half_square=True) / gap
        off = np.abs(secant / variances - total) > self._CONVERGED * total
        resolution[off | np.isnan(secant)] = 0
        self._total, self._resolution = total[rows], resolution[rows]  # 0: not smooth

    def derivative(self, gap: np.ndarray) -> np.ndarray:
        """E[phi'(u) phi'(v)]."""
        f = self._moments.phi_prime
        values = self._by_fourier(f, self._q, gap, self._resolution)
        for i in np.flatnonzero(np.isnan(values)):
            values[i] = self._total[i] - self._nested_half_square(f, int(i), gap[i])
        return np.where(gap == 0, self._total, values)

    def secant(self, gap: np.ndarray) -> np.ndarray:
        """(E[phi(u)^2] - E[phi(u) phi(v)]) / (q gap)."""
        f = self._moments.phi
        values = self._by_fourier(f, self._q, gap, self._resolution, half_square=True)
        for i in np.flatnonzero(np.isnan(values)):
            values[i] = self._nested_half_square(f, int(i), gap[i])
        return np.where(gap == 0, self._total, values / np.where(gap == 0, 1.0, self._q * gap))

    def _by_fourier(
        self,
        f: Callable,
        q: np.ndarray,
        gap: np.ndarray,
        resolutions: np.ndarray,
        half_square: bool = False,
    ) -> np.ndarray:
        """`quadrature.pair_expectation` where there is a resolution, NaN elsewhere."""
        values = np.full_like(q, np.nan)
        for resolution in np.unique(resolutions[resolutions > 0]):
            rows = np.flatnonzero(resolutions == resolution)
            for part in np.array_split(rows, -(-rows.size * 64 * resolution // self._CHUNK)):
                values[part] = quadrature.pair_expectation(
                    f, q[part], gap[part], resolution, half_square
                )
        return values

    def _nested_half_square(self, f: Callable, i: int, gap: float) -> float:
        """E[(f(u) - f(v))^2] / 2 = E[f(u)^2] - E[f(u) f(v)], without cancellation."""
        if gap == 0:
            return 0.0
        return quadrature.nested_expectation(
            lambda u, v: 0.5 * (f(u) - f(v)) ** 2, self._q[i], gap, *self._moments.panels
        )


def _on_float64(function: Callable, name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The function on float64 numpy arrays, also when called while a graph is being built."""

    def call(x: np.ndarray) -> np.ndarray:
        # Not where it is not needed: the scope stops tapes, those inside a derivative too.
        with contextlib.nullcontext() if tf.executing_eagerly() else tf.init_scope():
            values = np.asarray(function(x))
        if values.dtype != np.float64 or values.shape != np.shape(x):
            raise TypeError(
                f"{name} must return an array of the shape and dtype of its argument. Received: "
                f"shape {values.shape}, {values.dtype} for shape {np.shape(x)}, float64."
            )
        return values

    return call


class WithDual(Numerical):
    """Moments of one variable by quadrature between given kinks, of two by the dual maps."""

    def __init__(self, phi: Callable, phi_prime: Callable, kinks: list[float], dual: Any) -> None:
        """Takes phi, phi', the kinks between which they are smooth, and the `Dual`."""
        super().__init__(phi, phi_prime)
        self._found = np.asarray(kinks), np.asarray(kinks)
        self._dual = dual

    def pair(self, q: np.ndarray) -> Pair:
        """The two-point moments at variances q."""

        def maps(gap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            with tf.init_scope():
                side = self._dual.side(tf.constant(q))
                output_gap, slope = self._dual.pair(side, side, tf.constant(gap))
                return output_gap.numpy(), slope.numpy()

        def secant(gap: np.ndarray) -> np.ndarray:
            gap = np.maximum(gap, 1e-30)  # the limit at zero
            return maps(gap)[0] * self.second(q) / (q * gap)

        return Pair(lambda gap: maps(gap)[1], secant)
