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

import numpy as np
import tensorflow as tf

from mfcnn.activations import quadrature

__all__ = ["Numerical", "polynomial"]


class Numerical:
    """Moments by quadrature; locates the features and kinks of phi and phi' once, when needed."""

    def __init__(self, phi, phi_prime):
        """Takes the activation and its derivative, callables on TF tensors or numpy arrays."""
        self.phi = _on_float64(phi, "phi")
        self.phi_prime = _on_float64(phi_prime, "phi_prime")
        self._found = None

    @property
    def panels(self):
        """(edges, kinks) of `quadrature.find_panels`."""
        if self._found is None:
            self._found = quadrature.find_panels([self.phi, self.phi_prime])
        return self._found

    def _expectation(self, function, q):
        return quadrature.expectation(function, q, self.panels[0])

    def second(self, q):
        """E[phi^2]."""
        return self._expectation(lambda x: self.phi(x) ** 2, q)

    def derivative(self, q):
        """E[phi'^2]."""
        return self._expectation(lambda x: self.phi_prime(x) ** 2, q)

    def slope(self, q):
        """d/dq E[phi^2]; by Stein's lemma without a second derivative."""
        return self._expectation(lambda x: x * self.phi(x) * self.phi_prime(x), q) / q

    def mean(self, q):
        """E[phi]."""
        return self._expectation(self.phi, q)

    def deficit(self, q):
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

    def pair(self, q):
        """The two-point moments at variances q."""
        return _NumericalPair(self, q)


class _NumericalPair:
    """Two-point moments: Hermite series where they converge, nested quadrature elsewhere."""

    _ORDERS = (64, 256, 1024)
    _CONVERGED = 1e-13

    def __init__(self, moments, q):
        self._moments, self._q = moments, q
        self._total = moments.derivative(q)
        self._variance = moments.second(q) - moments.mean(q) ** 2
        self._blocks = []  # (rows, squared coefficients [rows, order], part of the total missing)
        edges, kinks = moments.panels
        left = np.arange(q.size) if kinks.size == 0 else np.arange(0)
        for order in self._ORDERS:
            for rows in _split_by_size(left, q):
                weights = quadrature.derivative_hermite_weights(
                    moments.phi_prime, q[rows], edges, order
                )
                # Parseval: sum_k b_k^2 = E[phi'^2], so what is missing bounds the error at any c.
                missing = np.abs(1.0 - np.sum(weights, axis=1) / self._total[rows])
                keep = (missing < self._CONVERGED) | (order == self._ORDERS[-1])
                self._blocks.append((rows[keep], weights[keep], missing[keep]))
            taken = np.concatenate([rows for rows, _, _ in self._blocks] or [left])
            left = np.setdiff1d(left, taken)

    def _evaluate(self, gap, transform, nested):
        values = np.full_like(self._q, np.nan)
        for rows, weights, missing in self._blocks:
            c = 1.0 - gap[rows]
            enough = missing * np.abs(c) ** weights.shape[1] < self._CONVERGED
            coefficients = transform(rows[enough], weights[enough], missing[enough])
            values[rows[enough]] = polynomial(coefficients, c[enough])
        for i in np.flatnonzero(np.isnan(values)):
            values[i] = nested(i, gap[i])
        return values

    def derivative(self, gap):
        """E[phi'(u) phi'(v)]."""

        def nested(i, gap):
            return self._total[i] - self._half_square(self._moments.phi_prime, i, gap)

        return self._evaluate(gap, lambda rows, weights, missing: weights, nested)

    def secant(self, gap):
        """(E[phi(u)^2] - E[phi(u) phi(v)]) / (q gap)."""

        # sum_k b_k^2 (1 - c^(k+1)) / ((k+1) (1 - c)) = sum_j c^j sum_(k >= j) b_k^2 / (k+1): terms
        # of one sign, with no difference at c -> 1. The sum over all k is Var(phi) / q, which gives
        # what lies beyond a truncated series.
        def transform(rows, weights, missing):
            weights = weights / np.arange(1, weights.shape[1] + 1)
            beyond = self._variance[rows] / self._q[rows] - np.sum(weights, axis=1)
            beyond = np.where(missing < self._CONVERGED, 0.0, np.maximum(beyond, 0.0))
            return np.cumsum(weights[:, ::-1], axis=1)[:, ::-1] + beyond[:, None]

        def nested(i, gap):
            if gap == 0.0:
                return self._total[i]
            return self._half_square(self._moments.phi, i, gap) / (self._q[i] * gap)

        return self._evaluate(gap, transform, nested)

    def _half_square(self, f, i, gap):
        """E[(f(u) - f(v))^2] / 2 = E[f(u)^2] - E[f(u) f(v)], without cancellation."""
        if gap == 0.0:
            return 0.0
        return quadrature.nested_expectation(
            lambda u, v: 0.5 * (f(u) - f(v)) ** 2, self._q[i], gap, *self._moments.panels
        )


def _split_by_size(rows, q, ratio=4.0):
    """Groups rows whose q agree within a factor: they share one set of nodes."""
    if rows.size == 0:
        return []
    keys = np.floor(np.log(q[rows]) / np.log(ratio))
    return [rows[keys == key] for key in np.unique(keys)]


def polynomial(coefficients, x):
    """sum_k coefficients[:, k] x^k by Horner's rule, [n]."""
    value = np.zeros_like(x)
    for column in coefficients.T[::-1]:
        value = value * x + column
    return value


def _on_float64(function, name):
    """The function on float64 numpy arrays, also when called while a graph is being built."""

    def call(x):
        with tf.init_scope():
            values = np.asarray(function(x))
        if values.dtype != np.float64 or values.shape != np.shape(x):
            raise TypeError(
                f"{name} must return an array of the shape and dtype of its argument. Received: "
                f"shape {values.shape}, {values.dtype} for shape {np.shape(x)}, float64."
            )
        return values

    return call
