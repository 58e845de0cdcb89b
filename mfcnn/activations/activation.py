"""Activation: a function phi, its derivative, and the Gaussian moments that theory asks of it."""

import functools

import numpy as np

from mfcnn.activations import moments as moments_lib

__all__ = ["Activation"]


class Activation:
    """An activation function with its derivative.

    The two callables take and return TF tensors or numpy arrays, element by element, in any float
    dtype. Kinks are found by the moments themselves; phi must be piecewise smooth.

    Example:
      >>> cubic = mfcnn.activations.Activation(lambda x: x - x**3, lambda x: 1 - 3 * x**2)
      >>> float(cubic.second_moment(0.01))  # q - 6 q^2 + 15 q^3
      0.009415

    Attributes:
      phi: the function.
      phi_prime: its derivative (either value at a kink).
      name: a name for messages and configurations.
      homogeneity: (phi'(-1)^2 + phi'(1)^2) / 2 if phi(t x) = t phi(x) for t > 0 (linear, relu), so
        that E[phi^2] = homogeneity * q; None for all others.
    """

    def __init__(self, phi, phi_prime, name=None, *, moments=None):
        """Takes phi, phi' and a name; `moments` replaces quadrature by closed forms.

        Raises:
          TypeError: if phi or phi_prime is not callable.
        """
        for argument, value in (("phi", phi), ("phi_prime", phi_prime)):
            if not callable(value):
                raise TypeError(f"{argument} must be callable. Received: {argument}={value!r}")
        self.phi = phi
        self.phi_prime = phi_prime
        self.name = name or getattr(phi, "__name__", "custom")
        self._numerical = moments_lib.Numerical(phi, phi_prime)
        self._moments = moments or self._numerical

    def __call__(self, x):
        """phi(x)."""
        return self.phi(x)

    def __repr__(self):
        """The name."""
        return f"Activation({self.name!r})"

    @functools.cached_property
    def homogeneity(self):
        """The factor in E[phi^2] = homogeneity * q, or None."""
        x = np.array([-3.0, -0.7, 0.0, 1.3, 8.0])
        values = self._numerical.phi(x)
        for t in (2.0**-20, 0.5, 2.0**20):  # powers of two: exact, so equality is exact
            if np.any(self._numerical.phi(t * x) != t * values):
                return None
        return float(np.mean(self._numerical.phi(np.array([-1.0, 1.0])) ** 2))

    def slopes_at_zero(self):
        """Slopes phi' to the left and to the right of 0, float64 [2]."""
        return self._numerical.phi_prime(np.array([-1e-150, 1e-150]))

    def at_zero(self):
        """(phi(0), (phi'(-0)^2 + phi'(+0)^2) / 2): what decides whether q* = 0 is stable."""
        slopes = self.slopes_at_zero()
        return float(self._numerical.phi(np.zeros(1))[0]), float(np.mean(slopes**2))

    def hermite_basis(self, largest):
        """Nodes z and a matrix that expand phi(sqrt(q) z) in Hermite polynomials, for q <= largest.

        Returns:
          (z [m], matrix [m, order]) with phi(sqrt(q) z) @ matrix = E[phi He_k] / sqrt(k!), the sum
          of whose squares is E[phi^2] to 1e-13; None where phi has a kink or needs over 400 terms.
        """
        return self._numerical.hermite_basis(float(largest))

    def derivative_distribution(self, q):
        """(values, weights) such that E[f(phi'(u))] = weights @ f(values) for u ~ N(0, q)."""
        return self._numerical.derivative_distribution(float(q))

    def second_moment(self, q):
        """E[phi(u)^2] for u ~ N(0, q).

        Args:
          q: variances, positive float64 scalar or array.

        Returns:
          float64 of the same shape.
        """
        return _apply(self._moments.second, q)

    def derivative_second_moment(self, q):
        """E[phi'(u)^2] for u ~ N(0, q); weight_variance times it is chi_1. As `second_moment`."""
        return _apply(self._moments.derivative, q)

    def second_moment_slope(self, q):
        """d/dq E[phi(u)^2] = E[phi'^2 + phi phi'']; weight_variance times it is chi_q."""
        return _apply(self._moments.slope, q)

    def mean(self, q):
        """E[phi(u)] for u ~ N(0, q). As `second_moment`."""
        return _apply(self._moments.mean, q)

    def deficit(self, q):
        """The difference q E[phi'^2] - E[phi^2], without cancellation.

        Divided by E[phi'^2] it is the bias_variance at which chi_1 = 1 and q* = q.
        """
        return _apply(self._moments.deficit, q)

    def covariance(self, q, c):
        """E[phi(u) phi(v)] for u, v ~ N(0, q) with correlation c.

        Args:
          q: variances, positive float64 scalar or array.
          c: correlations in [-1, 1], broadcast against q.

        Returns:
          float64 of the broadcast shape.
        """
        q, c = np.broadcast_arrays(np.asarray(q, np.float64), np.asarray(c, np.float64))
        return self.second_moment(q) - q * (1 - c) * self.covariance_secant(q, c)

    def derivative_covariance(self, q, c):
        """E[phi'(u) phi'(v)]; weight_variance times it at c* is chi_c. As `covariance`."""
        return _apply(lambda q, gap: self._moments.pair(q).derivative(gap), q, _gap(c))

    def covariance_secant(self, q, c):
        """(E[phi(u)^2] - E[phi(u) phi(v)]) / (q (1 - c)), exact as c -> 1. As `covariance`."""
        return _apply(lambda q, gap: self._moments.pair(q).secant(gap), q, _gap(c))

    def pair_moments(self, q):
        """Two-point moments at q [n], prepared for many correlations: derivative, secant (gap)."""
        return self._moments.pair(q)


def _gap(c):
    c = np.asarray(c, np.float64)
    if np.any(~(np.abs(c) <= 1)):
        raise ValueError(f"c must lie in [-1, 1]. Received: c={c!r}")
    return 1.0 - c


def _apply(function, q, *rest):
    q = np.asarray(q, np.float64)
    if np.any(~((q > 0) & np.isfinite(q))):
        raise ValueError(f"q must be a positive, finite variance. Received: q={q!r}")
    q, *rest = np.broadcast_arrays(q, *rest)
    return function(*(np.ravel(a) for a in (q, *rest))).reshape(q.shape)[()]
