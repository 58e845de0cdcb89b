"""Tables of dual maps where there is no closed form: which kind, and whether it is right."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn.activations import _hermite_table
from mfcnn.activations._angle_table import build_angle_table

__all__ = ["build_table"]

_ACCURACY = 2e-9  # of E[phi'^2] and of the secant


@functools.lru_cache(maxsize=64)
def build_table(activation: Any, q_low: float, q_high: float, dtype: tf.DType = tf.float64) -> Any:
    """A table for variances in [q_low, q_high].

    Args:
        activation: an `Activation`.
        q_low: the smallest variance, not negative.
        q_high: the largest.
        dtype: tf.float64, or tf.float32 for fewer terms.

    Raises:
        ValueError: if no table resolves phi at these variances.
    """
    kinks = activation.kinks()
    try:
        if not kinks.size:
            return _hermite_table.build_table(activation, q_low, q_high, tf.as_dtype(dtype))
        reason = "it has kinks"
    except ValueError as error:
        reason = str(error)
    if np.all(np.abs(kinks) < 1e-12):
        try:
            table = build_angle_table(activation, q_low, q_high)
            _check(activation, table, {max(q_low, 1e-12 * q_high), q_high})
            return table
        except ValueError as error:
            reason += f"; {error}"
    elif kinks.size:
        reason = (
            f"it has kinks at {', '.join(f'{k:.6g}' for k in kinks)} with curves between them that "
            "are no polynomials"
        )
    raise ValueError(
        f"activation {activation.name!r} has no dual maps at variances from {q_low:.3g} to "
        f"{q_high:.3g}: {reason}. Scale your inputs (pixels to mean 0 and variance 1) or lower the "
        "variances of the weights, so that the pre-activations have a variance of about 1; or give "
        "Activation(phi, phi_prime, dual=...) maps of its own."
    )


def _check(activation: Any, table: Any, variances: set[float]) -> None:
    """Compares a table with quadrature in the plane."""
    dual = table.dual()
    for q in variances:
        total = activation.derivative_second_moment(q)
        for gap in (1e-2, 0.4, 1.7):
            one, c = tf.constant([q], tf.float64), 1 - gap
            output_gap, slope = dual.pair(dual.side(one), dual.side(one), (1 - c) * one / one)
            secant = output_gap / (q * (1 - c)) * activation.second_moment(q)
            errors = (
                slope - activation.derivative_covariance(q, c),
                (secant - activation.covariance_secant(q, c)),
            )
            worst = float(np.max(np.abs(errors)) / total)
            if not worst < _ACCURACY:
                raise ValueError(f"a series in the angle is off by {worst:.1e} of E[phi'^2]")
