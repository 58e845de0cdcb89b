"""One-point moments by interpolation in log(q): what makes a grid of fixed points cheap."""

import numpy as np

__all__ = ["MomentTable"]

_DEGREE = 15
_LOW, _HIGH, _WIDTH = np.log(1e-25), np.log(2e6), np.log(10.0) / 2


class MomentTable:
    """The one-point moments of an activation, by Chebyshev interpolation on pieces of log(q).

    A moment is analytic in log(q) with the nearest singularity about pi away (q < 0), so that
    degree 15 on half a decade leaves an error of about (pi / 0.29)^-16 < 1e-16.
    """

    def __init__(self, activation):
        """Evaluates the moments of the activation at 16 points in each half decade of q."""
        self._pieces = int(np.ceil((_HIGH - _LOW) / _WIDTH))
        points = np.polynomial.chebyshev.chebpts1(_DEGREE + 1)
        t = _LOW + _WIDTH * (np.arange(self._pieces)[:, None] + 0.5 + 0.5 * points)
        with np.errstate(over="ignore", invalid="ignore"):
            # Coefficients from values at Chebyshev points: a discrete cosine transform.
            to_coefficients = np.linalg.inv(np.polynomial.chebyshev.chebvander(points, _DEGREE))
            self._tables = [
                np.asarray(f(np.exp(t))) @ to_coefficients.T
                for f in (
                    activation.second_moment,
                    activation.derivative_second_moment,
                    activation.second_moment_slope,
                )
            ]

    def _evaluate(self, table, q):
        t = (np.log(q) - _LOW) / _WIDTH
        piece = np.clip(np.floor(t).astype(int), 0, self._pieces - 1)
        x = 2 * (t - piece) - 1
        b1 = b2 = np.zeros_like(x)
        for k in range(_DEGREE, 0, -1):
            b1, b2 = table[piece, k] + 2 * x * b1 - b2, b1
        return table[piece, 0] + x * b1 - b2

    def second_moment(self, q):
        """E[phi^2] at q [n]."""
        return self._evaluate(self._tables[0], q)

    def derivative_second_moment(self, q):
        """E[phi'^2] at q [n]."""
        return self._evaluate(self._tables[1], q)

    def second_moment_slope(self, q):
        """d/dq E[phi^2] at q [n]."""
        return self._evaluate(self._tables[2], q)
