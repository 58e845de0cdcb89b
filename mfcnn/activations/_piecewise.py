"""Activations that are polynomials between kinks: everything about them from one description."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn.activations import _moments
from mfcnn.activations._activation import Activation
from mfcnn.activations._arc_cosine import ArcCosine, Linear
from mfcnn.activations._dual import Dual, constant
from mfcnn.activations._piecewise_dual import PiecewisePolynomial
from mfcnn.activations._piecewise_moments import PiecewiseLinear

__all__ = ["piecewise"]


def piecewise(
    kinks: Sequence[float],
    polynomials: Sequence[Sequence[float]],
    phi: Callable | None = None,
    dual: Dual | None = None,
) -> Activation:
    """The activation with these polynomials between these kinks.

    Args:
        kinks: where one polynomial takes over from another, ascending.
        polynomials: one more than kinks: coefficients of 1, x, x^2, ...
        phi: the function itself where a library has a quicker one.
        dual: its dual maps where quicker ones than the general are known.

    Raises:
        ValueError: if the kinks don't ascend, or there is not one more polynomial than kinks.
    """
    kinks = [float(k) for k in kinks]
    pieces = [[float(a) for a in p] or [0.0] for p in polynomials]
    if sorted(set(kinks)) != kinks or not np.all(np.isfinite(kinks)):
        raise ValueError(f"kinks must be finite and ascend. Received: kinks={kinks}")
    if len(pieces) != len(kinks) + 1:
        raise ValueError(
            f"polynomials must be one more than kinks. Received: {len(pieces)} of them for "
            f"kinks={kinks}"
        )
    derivatives = [[k * a for k, a in enumerate(p)][1:] or [0.0] for p in pieces]
    refusal = _jump(kinks, pieces)
    functions = phi or _function(kinks, pieces), _function(kinks, derivatives)
    if refusal:
        return Activation(*functions, "piecewise_polynomial", dual=dual, refusal=refusal)
    slopes = [d[0] for d in derivatives]
    linear = all(not any(d[1:]) for d in derivatives)
    homogeneous = linear and kinks in ([], [0.0]) and not any(p[0] for p in pieces)
    if dual is None and homogeneous and any(slopes):
        dual = ArcCosine(*slopes) if kinks else Linear(*slopes)
    dual = dual or PiecewisePolynomial(kinks, pieces)
    moments: Any = None
    if linear:
        moments = PiecewiseLinear(*functions, kinks, slopes)
    elif kinks:
        moments = _moments.WithDual(*functions, kinks, dual)
    return Activation(*functions, "piecewise_polynomial", moments=moments, dual=dual)


def _jump(kinks: list[float], polynomials: list[list[float]]) -> str | None:
    """Why there are no moments, if phi jumps at a kink."""
    evaluate = np.polynomial.polynomial.polyval
    for kink, left, right in zip(kinks, polynomials, polynomials[1:]):
        values = float(evaluate(kink, left)), float(evaluate(kink, right))
        if abs(values[0] - values[1]) > 1e-12 * max(1.0, abs(values[0]), abs(values[1])):
            return (
                f"phi jumps from {values[0]:g} to {values[1]:g} at x = {kink:g}: its derivative "
                "has no finite second moment, chi_1 is infinite at every variance. Use a "
                "continuous activation."
            )
    return None


def _function(kinks: list[float], polynomials: list[list[float]]) -> Callable:
    def call(x: Any) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        value = _horner(polynomials[0], x)
        for kink, polynomial in zip(kinks, polynomials[1:]):
            value = tf.where(x > constant(kink, x), _horner(polynomial, x), value)
        return value

    return call


def _horner(polynomial: list[float], x: tf.Tensor) -> tf.Tensor:
    *rest, last = polynomial
    value = constant(last, x) * tf.ones_like(x)
    for coefficient in rest[::-1]:
        value = value * x + constant(coefficient, x) if coefficient else value * x
    return value
