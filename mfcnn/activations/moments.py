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

    def hermite_basis(self, largest):
        """Nodes and matrix of `quadrature.hermite_basis` with enough orders for phi, or None."""
        edges, kinks = self.panels
        if kinks.size:
            return None
        second = self.second(np.array([largest]))[0]
        for order in (32, 64, 160, 400):
            z, matrix = quadrature.hermite_basis(largest, edges, order)
            found = np.sum((self.phi(np.sqrt(largest) * z) @ matrix) ** 2)
            if abs(found - second) < 1e-13 * second:
                return z, matrix
        return None

    def derivative_distribution(self, q):
        """Values of phi' at the nodes of the quadrature at one variance q, and their weights."""
        x, weights = quadrature.nodes(q, self.panels[0])
        values = self.phi_prime(x)
        # Few different values (piecewise linear phi) need few nodes.
        unique, inverse = np.unique(values, return_inverse=True)
        return unique, np.bincount(inverse, weights)

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
    """Two-point moments: Hermite series where they converge, nested quadrature elsewhere.

    With phi'(sqrt(q) z) = sum_k b_k he_k(z) the two moments are power series in c with coefficients
    of one sign, so that nothing cancels at c -> 1:

        E[phi'(u) phi'(v)] = sum_k b_k^2 c^k
        secant = sum_k b_k^2 / (k+1) (1 - c^(k+1)) / (1 - c) = sum_j c^j sum_(k >= j) b_k^2 / (k+1)
    """

    _ORDERS = (64, 160, 400, 1024, 3072)
    _CONVERGED = 1e-13

    def __init__(self, moments, q):
        self._moments = moments
        # A variance that comes with many correlations is expanded once.
        self._q, self._rows = np.unique(q, return_inverse=True)
        q = self._q
        self._total = moments.derivative(q)
        self._series = []  # (variances, coefficients of derivative, of secant, the part missing)
        left = np.arange(q.size) if moments.panels[1].size == 0 else np.arange(0)
        for order in self._ORDERS:
            unresolved = []
            for rows in _split_by_size(left, q):
                squares = quadrature.derivative_hermite_weights(
                    moments.phi_prime, q[rows], moments.panels[0], order
                ).T
                # Parseval: sum_k b_k^2 = E[phi'^2], so what is missing bounds the error at any c.
                missing = np.abs(1.0 - np.sum(squares, axis=0) / self._total[rows])
                keep = (missing < self._CONVERGED) | (order == self._ORDERS[-1])
                self._append(rows[keep], squares[:, keep], missing[keep])
                unresolved.append(rows[~keep])
            left = np.concatenate(unresolved) if unresolved else left

    def _append(self, rows, squares, missing):
        secants = squares / np.arange(1, len(squares) + 1)[:, None]
        # The sum over all k is Var(phi) / q, which tells what lies beyond a truncated series.
        q = self._q[rows]
        beyond = (self._moments.second(q) - self._moments.mean(q) ** 2) / q - secants.sum(axis=0)
        secants = np.cumsum(secants[::-1], axis=0)[::-1]
        secants += np.where(missing < self._CONVERGED, 0.0, np.maximum(beyond, 0.0))
        self._series.append((rows, squares, secants, missing))

    def derivative(self, gap):
        """E[phi'(u) phi'(v)]."""

        def nested(i, gap):
            return self._total[i] - self._half_square(self._moments.phi_prime, i, gap)

        return self._evaluate(1, gap, nested)

    def secant(self, gap):
        """(E[phi(u)^2] - E[phi(u) phi(v)]) / (q gap)."""

        def nested(i, gap):
            return self._half_square(self._moments.phi, i, gap) / (self._q[i] * gap)

        return self._evaluate(2, gap, nested)

    def _evaluate(self, which, gap, nested):
        values = np.where(gap == 0, self._total[self._rows], np.nan)
        for series in self._series:
            place = np.full(self._q.size, -1)
            place[series[0]] = np.arange(series[0].size)
            column = place[self._rows]
            rows = np.flatnonzero((column >= 0) & (gap != 0))
            column, c = column[rows], 1.0 - gap[rows]
            enough = series[3][column] * np.abs(c) ** len(series[which]) < self._CONVERGED
            coefficients = series[which]
            if coefficients.shape[1] != column.size or np.any(np.diff(column) != 1):
                coefficients = coefficients[:, column]
            values[rows] = np.where(enough, polynomial(coefficients, c), np.nan)
        for i in np.flatnonzero(np.isnan(values)):
            values[i] = nested(self._rows[i], gap[i])
        return values

    def _half_square(self, f, i, gap):
        """E[(f(u) - f(v))^2] / 2 = E[f(u)^2] - E[f(u) f(v)], without cancellation."""
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
    """sum_k coefficients[k] x^k by Horner's rule, [n], for coefficients [order, n]."""
    value = np.zeros_like(x)
    for coefficient in coefficients[::-1]:
        value *= x
        value += coefficient
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
