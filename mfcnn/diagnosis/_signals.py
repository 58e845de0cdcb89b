"""Numbers of one signal: its moments, and how many of its units are dead or saturated."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__ = ["TO_PROBABILITIES", "dead", "look", "numbers", "saturated"]

TO_PROBABILITIES = (
    keras.activations.softmax,
    keras.activations.log_softmax,
    keras.activations.sigmoid,
)
_FLAT = 0.05  # a value is saturated where the slope is below this part of the steepest


def numbers(x: Any) -> np.ndarray:
    """A tensor, or slices of one, in float64."""
    return np.asarray(tf.cast(tf.convert_to_tensor(x), tf.float64))


def look(probe: Any, z: np.ndarray, length: int) -> None:
    """The moments of a signal [n, ...]."""
    probe.shape = z.shape[1:]
    with np.errstate(all="ignore"):
        probe.mean, probe.variance = float(np.mean(z)), float(np.mean(np.square(z)))
        if length > 1 and z.shape[:1] == (length,):
            rows = z.reshape(length, -1)
            rows = rows / np.max(np.abs(rows), initial=1e-300)
            gram = rows @ rows.T
            norms = np.sqrt(np.diag(gram))
            pairs = np.triu_indices(length, 1)
            probe.correlation = float(np.mean((gram / np.outer(norms, norms))[pairs]))


def dead(outputs: tf.Tensor) -> float:
    """The share of units that are zero for all inputs and positions."""
    values = numbers(outputs)
    return float(np.mean(np.all(values == 0, axis=tuple(range(values.ndim - 1)))))


def saturated(function: Callable, z: tf.Tensor) -> float:
    """The share of values where a function that is bounded on both sides is flat; else NaN."""
    if function in TO_PROBABILITIES[:2]:
        return np.nan
    grid = tf.constant(np.linspace(-40, 40, 1601)[:, None], tf.float32)
    values = numbers(function(grid))[:, 0]
    if np.ptp(values[:400]) > 1e-3 or np.ptp(values[-400:]) > 1e-3 or np.ptp(values) < 1e-3:
        return np.nan
    steepest = np.max(np.abs(np.diff(values))) / 0.05
    with tf.GradientTape() as tape:
        tape.watch(z)
        y = function(z)
    slope = tape.gradient(y, z)
    if slope is None:
        return np.nan
    return float(np.mean(np.abs(numbers(slope)) < _FLAT * steepest))
