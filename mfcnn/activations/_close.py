"""Dual maps of inputs that nearly coincide: all digits of what tells them apart.

In chaos the gap 1 - c of two inputs grows by chi_1 in each layer, from 1e-24 to its end, and with
it every relative error that it has at the start. Two things have no digits left where inputs are
close: 1 - T / sqrt(A1 A2), as T is near sqrt(A1 A2), and the difference of two variances. So a
close dual is given the difference q1 - q2 of each pair, which the kernels carry from layer to layer
(`kernels/_recursion`), and gives

    the output gap   as a sum of terms of one sign, from the gap and from the difference,
    A1 - A2          as a product with q1 - q2.

With the distance B = E[(phi(u) - phi(v))^2] and s = sqrt(A), A = E[phi^2], the output gap is

    1 - T / sqrt(A1 A2) = (B - (s1 - s2)^2) / (2 s1 s2),   s1 - s2 = (A1 - A2) / (s1 + s2),

which has an error of one rounding of B. That is one rounding of (q1 - q2)^2 where inputs are
collinear; where phi is nearly linear the output gap is smaller, and its error is that all the same.
"""

from typing import Any, Protocol

import tensorflow as tf

from mfcnn.numerics import inverse

__all__ = ["Close", "Maps", "gap_of_squares", "turn"]


class Maps(Protocol):
    """What a close dual asks of a `Dual`."""

    def moments(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Dual.moments`."""

    def side(self, q: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """See `Dual.side`."""

    def pair(self, side1: Any, side2: Any, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Dual.pair`."""


class Close:
    """A close dual of maps whose inside is not known: with the digits that they leave.

    An absolute error of 1e-16 of the output gap grows by chi_1 in each layer of chaos. Subclasses
    know better.
    """

    def __init__(self, dual: Maps) -> None:
        """Takes the `Dual`."""
        self.dual = dual

    def moments(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """E[phi(u)^2] and E[phi'(u)^2]."""
        return self.dual.moments(q)

    def side(self, q: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """What `pair` needs of one variance."""
        return self.dual.moments(q)[0], *self.dual.side(q)

    def pair(
        self, side1: Any, side2: Any, gap: tf.Tensor, difference: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The maps of pairs.

        Args:
            side1: of u.
            side2: of v.
            gap: 1 - c.
            difference: q1 - q2, with its own relative accuracy.

        Returns:
            The output gap, E[phi'(u) phi'(v)], and E[phi(u)^2] - E[phi(v)^2].
        """
        output_gap, slope = self.dual.pair(side1[1:], side2[1:], gap)
        return output_gap, slope, side1[0] - side2[0] + tf.zeros_like(difference)


def gap_of_squares(
    distance: tf.Tensor, root1: tf.Tensor, root2: tf.Tensor, difference: tf.Tensor
) -> tf.Tensor:
    """The output gap from E[(phi(u) - phi(v))^2], the roots of A1 and A2, and A1 - A2."""
    apart = difference * inverse(root1 + root2)
    return (distance - apart * apart) * (inverse(root1) * inverse(root2) / 2)


def turn(sine1: Any, cosine1: Any, sine2: Any, cosine2: Any, difference: Any) -> tuple[Any, Any]:
    """Sine and cosine of t1 - t2, angles in [0, pi/2], from the difference of their sines."""
    sine = difference * (sine1 + sine2) * inverse(sine1 * cosine2 + sine2 * cosine1)
    return sine, cosine1 * cosine2 + sine1 * sine2
