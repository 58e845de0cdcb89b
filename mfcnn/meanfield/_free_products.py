"""Products of free random matrices: what the singular values of a deep Jacobian share out to.

J is the product of factors D W, one a layer, with W Gaussian or orthogonal of variance
weight_variance and D diagonal with entries phi'(h), h ~ N(0, q). The S-transforms of free factors
multiply (J. Pennington, S. Schoenholz, S. Ganguli, 2017 and 2018). With d = phi'(h)^2 and
M(y) = E[d / (y - d)], the squared singular values T of J are told by a parameter w and the y of
each layer:

    w = M_l(y_l),    z = (1 + w) / w * prod_l [weight_variance w y_l / (1 + s w)]

with s = 1 for orthogonal and 0 for Gaussian weights; w = z G(z) - 1 gives the resolvent G.

On the negative axis, z = -x and w = -u with u = E[T / (x + T)]. That is the probability that T V is
above x for an independent V with P(V > v) = 1 / (1 + v): so the curve x(u) holds the quantiles of
log T plus logistic noise, which has the variance pi^2 / 3, and one integral over u gives the mean
and the variance of log T exactly. For n x n Gaussian matrices, n to infinity, it is the closed form
L^2 + L pi^2 / 3 of the Fuss-Catalan law.
"""

import numpy as np
from scipy import optimize

from mfcnn import activations
from mfcnn.meanfield._roots import bracketed_root
from mfcnn.meanfield._slopes import Layers, grouped, of_finite_width, slope_distribution, thinned

__all__ = ["FreeProduct"]

# Logits of u for integrals over u, to the rounding of the density; the rule is exponentially exact.
_LOGITS = np.linspace(-36.0, 36.0, 361)


def _turns(count: int) -> np.ndarray:
    """Steps of the angle of z from the negative axis to the positive one, finer towards it."""
    angles = np.concatenate([np.linspace(np.pi, 0.2, count), np.geomspace(0.2, 1e-7, count)])
    return np.pi - np.append(angles, 0.0)


_FINE, _COARSE = _turns(80), _turns(26)  # masses to 4e-4 and to 1e-2
_CHUNK = 2**17  # complex numbers at once


class FreeProduct:
    """The law of the squared singular values of a product of layers.

    Attributes:
        depth: the number of layers.
        nonzero: the share of singular values that are not zero.
        flat: whether all singular values are equal.
    """

    def __init__(
        self,
        activation: activations.Activation,
        weight_variance: float,
        q: np.ndarray,
        orthogonal: bool,
        width: int | None = None,
        most_variances: int = 40,
        most_slopes: int | None = None,
    ) -> None:
        """Takes the variance q of each layer, [depth], and how many different ones to keep apart.

        With a `width` each layer has the share of zero slopes of so many rows. With `most_slopes`
        the values of phi'^2 are put into so many bins, and the density is computed to a percent:
        for speed.
        """
        self.depth = q.size
        self._path = _FINE if most_slopes is None else _COARSE
        self._log_scale = self.depth * np.log(weight_variance)
        self._gaussian = 0 if orthogonal else self.depth
        self._layers = [
            Layers(*thinned(*slope_distribution(activation, value), most_slopes), count)
            for value, count in grouped(q, np.ones_like(q), most_variances)
        ]
        if width is not None and any(layer.nonzero < 1 for layer in self._layers):
            self._layers = of_finite_width(self._layers, width)
        self.nonzero = min(layer.nonzero for layer in self._layers)
        constant = all(layer.d.size == 1 for layer in self._layers)
        self.flat = orthogonal and constant
        far = np.abs(activation.phi_prime(np.array([-1e3, 1e3])))
        self._bounded_below = orthogonal and min(far) > 0 and self._layers[0].d[0] > 0
        self._logs = self._on_the_negative_axis()

    def log_moments(self) -> tuple[float, float]:
        """Mean and variance of log T over the values that are not zero."""
        density = np.exp(-np.abs(_LOGITS)) / (1 + np.exp(-np.abs(_LOGITS))) ** 2
        density *= _LOGITS[1] - _LOGITS[0]
        curve = self._logs[0]
        mean = density @ curve
        return float(mean), float(max(density @ (curve - mean) ** 2 - np.pi**2 / 3, 0.0))

    def edges(self) -> tuple[float, float]:
        """Logarithms of the least and the largest T that are not zero; -inf where it is zero."""
        found = optimize.minimize_scalar(self._above, bounds=(-45.0, 45.0), method="bounded")
        high = float(found.fun)
        if not self._bounded_below:
            return -np.inf, high
        found = optimize.minimize_scalar(
            lambda s: -self._below(s), bounds=(-45.0, 45.0), method="bounded"
        )
        return float(-found.fun), high

    def atom(self) -> float:
        """The probability of the largest T, where phi' has its largest value on an interval."""
        if self._gaussian:
            return 0.0
        missing = sum(layer.count * (1 - layer.weights[-1]) for layer in self._layers)
        return max(0.0, 1 - missing)

    def log_density(self, log_points: np.ndarray) -> np.ndarray:
        """Density of log T at the points [m]; atoms are left out."""
        nodes = sum(layer.d.size for layer in self._layers)
        parts = np.array_split(log_points, max(1, -(-log_points.size * nodes // _CHUNK)))
        return np.concatenate([self._density(part) for part in parts])

    def _on_the_negative_axis(self) -> np.ndarray:
        """Rows: log x, then log(-y) of each group of layers, at u = nonzero * sigmoid(logits)."""
        log_u = np.log(self.nonzero) - np.logaddexp(0, -_LOGITS)
        rest = self.nonzero * np.exp(-np.logaddexp(0, _LOGITS))  # nonzero - u
        log_rest = np.log(1 - self.nonzero + rest)  # log(1 - u)
        rows = [
            _log_minus_y(layer, log_u - np.log(layer.nonzero - self.nonzero + rest))
            for layer in self._layers
        ]
        log_x = log_rest - log_u + self._log_scale + self._gaussian * log_rest
        for layer, row in zip(self._layers, rows):
            log_x = log_x + layer.count * (log_u + row - log_rest)
        return np.array([log_x, *rows])

    def _log_z(self, w: float, y: list[float]) -> float:
        """The log of z for w > 0 or w < -1, where all factors are positive."""
        logs = sum(layer.count * np.log(w * v / (1 + w)) for layer, v in zip(self._layers, y))
        return np.log((1 + w) / w) + self._log_scale + logs + self._gaussian * np.log(abs(1 + w))

    def _above(self, log_w: float) -> float:
        """The log of z above the support, by log w."""
        w = np.exp(log_w)
        return self._log_z(w, [_solve_y(layer, w, above=True) for layer in self._layers])

    def _below(self, log_excess: float) -> float:
        """The log of z between zero and the support, by log(-1 - w)."""
        w = -1 - np.exp(log_excess)
        return self._log_z(w, [_solve_y(layer, w, above=False) for layer in self._layers])

    def _density(self, log_points: np.ndarray) -> np.ndarray:
        """Follows w from the negative axis, where z = -x, to z = x + i0 by Newton steps."""
        curve, *rows = self._logs[:, ::-1]  # ascending in log x, from logit 36 to -36
        # Further out 1 + w is lost in the rounding of w, and the density below 1e-12.
        low, high = np.interp([-28.0, 28.0], _LOGITS, curve)
        inside = (log_points > low) & (log_points < high)
        target = log_points[inside]
        if not target.size:
            return np.zeros(log_points.shape)
        logit = np.interp(target, curve, _LOGITS[::-1])
        w = -self.nonzero / (1 + np.exp(-logit)) + 0j
        y = np.array([-np.exp(np.interp(target, curve, row)) for row in rows]) + 0j
        for turn in self._path:
            for _ in range(2 if turn else 12):  # the start is interpolated
                w, y = self._newton(w, y, target - 1j * turn)
        result = np.zeros(log_points.shape)
        result[inside] = np.maximum(-w.imag / np.pi, 0.0)
        return result

    def _newton(
        self, w: np.ndarray, y: np.ndarray, target: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """One step for w [m] and the y of each group [groups, m] towards log(-z) = target."""
        value = np.log(1 + w) - np.log(-w) + self._log_scale - target
        slope = 1 / (1 + w) - 1 / w
        value += self._gaussian * np.log(1 + w)
        slope += self._gaussian / (1 + w)
        errors, inverses = [], []
        for layer, v in zip(self._layers, y):
            inverse = 1 / (v[:, None] - layer.d)
            products = layer.weights * layer.d
            errors.append(inverse @ products - w)
            inverses.append(-1 / (inverse**2 @ products))
            value += layer.count * (np.log(w * v / (1 + w)) - errors[-1] * inverses[-1] / v)
            slope += layer.count * (1 / w - 1 / (1 + w) + inverses[-1] / v)
        step = np.where(slope == 0, 0.0, -value / np.where(slope == 0, 1.0, slope))  # at an edge
        room = np.minimum(np.abs(w), np.abs(1 + w))  # both logarithms must stay on their branch
        step *= np.minimum(1.0, 0.3 * room / np.maximum(np.abs(step), 1e-300))
        w = w + step
        moved = []
        for v, error, inverse in zip(y, errors, inverses):
            change = (step - error) * inverse
            change *= np.minimum(1.0, 0.3 * np.abs(v) / np.maximum(np.abs(change), 1e-300))
            v = v + change
            moved.append(v.real + 1j * np.abs(v.imag))  # the branch with Im y > 0, Im w < 0
        return w.real - 1j * np.abs(w.imag), np.array(moved)


def _log_minus_y(layer: Layers, logits: np.ndarray) -> np.ndarray:
    """The log t with E[d / (t + d)] / E[t / (t + d); d > 0] = exp(logits)."""
    positive = layer.d > 0
    d, weights = layer.d[positive], layer.weights[positive]
    logs = np.log(d)

    def excess(log_t: np.ndarray) -> np.ndarray:
        share = 1 / (1 + np.exp(np.clip(log_t[:, None] - logs, -700, 700)))
        other = 1 / (1 + np.exp(np.clip(logs - log_t[:, None], -700, 700)))
        return np.log(share @ weights) - np.log(other @ weights) - logits

    low, high = logs[0] - logits - 5, logs[-1] - logits + 5
    return bracketed_root(excess, low, high, tolerance=1e-14)


def _solve_y(layer: Layers, w: float, above: bool) -> float:
    """The y with E[d / (y - d)] = w: above all d for w > 0, below all d for w < -1."""
    d, products = layer.d, layer.weights * layer.d
    if above:
        edge = d[-1]

        def excess(s: np.ndarray) -> np.ndarray:  # y = edge (1 + exp(s))
            distance = edge - d + edge * np.exp(s)[:, None]
            return np.log(np.maximum((products / distance).sum(axis=1), 1e-300)) - np.log(w)

        s = bracketed_root(excess, np.array([-100.0]), np.array([100.0]), tolerance=1e-14)[0]
        return float(edge * (1 + np.exp(s)))
    edge = d[0]

    def excess_below(s: np.ndarray) -> np.ndarray:  # y = edge / (1 + exp(s))
        y = edge / (1 + np.exp(s))[:, None]
        return (products / (d - y)).sum(axis=1) + w

    s = bracketed_root(excess_below, np.array([-100.0]), np.array([100.0]), tolerance=1e-14)[0]
    return float(edge / (1 + np.exp(s)))
