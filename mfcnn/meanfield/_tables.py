"""Moments by interpolation: what makes a grid of fixed points cheap."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn import activations, numerics

__all__ = ["MomentTable", "moment_table"]

_DEGREE = 15
_LOW, _WIDTH, _PIECES = np.log(1e-25), np.log(10.0) / 2, 75  # up to q = 3e12
_CONVERGED = 1e-13
_FEW = 150  # points in a piece that cost less one by one than as a table
_POINTS = numerics.chebyshev_nodes(_DEGREE + 1)


class MomentTable:
    """The moments of an activation, by Chebyshev interpolation on pieces of log(q).

    A moment is analytic in log(q) with the nearest singularity about pi away (q < 0), so that
    degree 15 on half a decade leaves an error of about (2 pi / 0.58)^-16 < 1e-16.
    """

    def __init__(self, activation: activations.Activation) -> None:
        """Evaluates the one-point moments at 16 points in each half decade of q."""
        self._activation = activation
        with np.errstate(over="ignore", invalid="ignore"):
            q = _variances(np.arange(_PIECES))
            self._second, self._derivative, self._slope, self._mean = (
                numerics.chebyshev_coefficients(np.asarray(moment(q)))
                for moment in (
                    activation.second_moment,
                    activation.derivative_second_moment,
                    activation.second_moment_slope,
                    activation.mean,
                )
            )

    def second_moment(self, q: np.ndarray) -> np.ndarray:
        """E[phi^2] at q [n]."""
        return _interpolate(self._second, q)

    def derivative_second_moment(self, q: np.ndarray) -> np.ndarray:
        """E[phi'^2] at q [n]."""
        return _interpolate(self._derivative, q)

    def second_moment_slope(self, q: np.ndarray) -> np.ndarray:
        """d/dq E[phi^2] at q [n]."""
        return _interpolate(self._slope, q)

    def mean(self, q: np.ndarray) -> np.ndarray:
        """E[phi] at q [n]."""
        return _interpolate(self._mean, q)

    def variance_step(self, log_q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """(m, s, d) with E[phi^2] = m exp(s) and E[phi'^2] = d, of any shape, in a tf loop.

        The variance is given and goes on as a logarithm, since in deep networks it leaves the
        range of float64: s is zero inside the table. Below and above it, q < 1e-25 or q > 3e12,
        both moments go on as the powers of q that they are at its ends.
        """
        inside = tf.clip_by_value(log_q, _LOW, _LOW + _PIECES * _WIDTH)
        t = (inside - _LOW) / _WIDTH
        piece = tf.clip_by_value(tf.cast(tf.floor(t), tf.int32), 0, _PIECES - 1)
        x = 2 * (t - tf.cast(piece, log_q.dtype)) - 1
        second, derivative = (
            _clenshaw(tf.unstack(tf.gather(tf.constant(table), piece), axis=-1), x)
            for table in (self._second, self._derivative)
        )
        above, below = tf.maximum(log_q - inside, 0), tf.minimum(log_q - inside, 0)
        scales = [
            high * above + (low * below if low else 0)  # 0 times -inf would be NaN
            for low, high in map(_end_powers, (self._second, self._derivative))
        ]
        return second, scales[0], derivative * tf.exp(scales[1])

    def pair_moments(self, q: np.ndarray) -> Any:
        """Two-point moments at q [n], with the methods derivative and secant of (gap)."""
        if q.size < _FEW * np.unique(_place(q)[1]).size:
            return self._activation.pair_moments(q)
        return _PairTable(self._activation, q, self.derivative_second_moment(q))


def _end_powers(table: np.ndarray) -> tuple[float, float]:
    """The powers of q that a moment goes like at the two ends of its table.

    Rounded: at these ends phi is a power or a constant to 1e-6, and the powers are known as well.
    """
    powers = []
    for piece in (table[0], table[-1]):
        ends = np.polynomial.chebyshev.chebval([-1.0, 1.0], piece)
        with np.errstate(divide="ignore", invalid="ignore"):
            power = np.log(ends[1] / ends[0]) / _WIDTH
        powers.append(round(float(power), 5) if np.isfinite(power) else 0.0)
    return powers[0], powers[1]


@functools.lru_cache(maxsize=16)
def moment_table(activation: activations.Activation) -> MomentTable:
    """The table of an `Activation`, built once for each object."""
    return MomentTable(activation)


class _PairTable:
    """Two-point moments at many q, by interpolation in log(q) and in the angle arccos(c).

    In the angle they are smooth down to c = 1, also where phi has a kink.
    """

    def __init__(
        self, activation: activations.Activation, q: np.ndarray, total: np.ndarray
    ) -> None:
        self._total = total
        t, piece = _place(q)
        basis = np.polynomial.chebyshev.chebvander(t, _DEGREE)
        tables = [_angular(activation, p) for p in np.unique(piece)]
        most = max(table.shape[-1] for table in tables)
        self._series = np.zeros((2, most, q.size))
        for p, table in zip(np.unique(piece), tables):
            rows = piece == p
            self._series[:, : table.shape[-1], rows] = np.einsum("fkj,nk->fjn", table, basis[rows])

    def _evaluate(self, series: np.ndarray, gap: np.ndarray) -> np.ndarray:
        x = 2 * np.arcsin(np.sqrt(0.5 * gap)) * 4 / np.pi - 1
        # At gap = 0 all moments are E[phi'^2]: only the change from there is interpolated.
        return self._total + _clenshaw(series, x) - _clenshaw(series, np.full_like(x, -1.0))

    def derivative(self, gap: np.ndarray) -> np.ndarray:
        """E[phi'(u) phi'(v)]."""
        return self._evaluate(self._series[0], gap)

    def secant(self, gap: np.ndarray) -> np.ndarray:
        """(E[phi(u)^2] - E[phi(u) phi(v)]) / (q gap)."""
        return self._evaluate(self._series[1], gap)


def _angular(activation: activations.Activation, piece: int) -> np.ndarray:
    """Coefficients [2, 16, order] of the pair's moments in log(q) and the angle, for one piece.

    The order resolves tanh to 1e-11 up to q = 5,000, and to 1e-8 at 50,000.
    """
    q = _variances(np.array([piece])).ravel()
    for order in (32, 64, 128, 256):
        points = numerics.chebyshev_nodes(order)
        gap = 2 * np.sin(np.pi / 8 * (points + 1)) ** 2
        pair = activation.pair_moments(np.repeat(q, order))
        gaps = np.tile(gap, q.size)
        values = np.stack([pair.derivative(gaps), pair.secant(gaps)]).reshape(2, q.size, order)
        along_q = numerics.chebyshev_coefficients(values.swapaxes(1, 2)).swapaxes(1, 2)
        table = numerics.chebyshev_coefficients(along_q)  # and along the angle
        if np.max(np.abs(table[..., -3:])) < _CONVERGED * np.max(np.abs(table)):
            break
    return table


def _variances(pieces: np.ndarray) -> np.ndarray:
    return np.exp(_LOW + _WIDTH * (pieces[:, None] + 0.5 + 0.5 * _POINTS))


def _place(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(position in [-1, 1], piece) of each q."""
    t = (np.log(q) - _LOW) / _WIDTH
    piece = np.clip(np.floor(t).astype(int), 0, _PIECES - 1)
    return 2 * (t - piece) - 1, piece


def _interpolate(table: np.ndarray, q: np.ndarray) -> np.ndarray:
    x, piece = _place(q)
    return _clenshaw(table[piece].T, x)


def _clenshaw(coefficients: Any, x: Any) -> Any:
    """sum_k coefficients[k] T_k(x), [n], for coefficients [order, n]."""
    b1 = b2 = 0 * x
    for coefficient in coefficients[:0:-1]:
        b1, b2 = coefficient + 2 * x * b1 - b2, b1
    return coefficients[0] + x * b1 - b2
