"""Layers beyond those that are passed through one by one, in leaps of half a percent of the depth.

There variances hardly change from layer to layer, in the critical phase like 1 / l. A leap over m
layers adds m times the change of its middle layer to log q, which is exact to second order:
a relative error of some (1 / 200)^2 / 12 of the change. Logarithms of slopes are added likewise.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mfcnn import activations
from mfcnn.meanfield._gradients import variance_and_slope
from mfcnn.meanfield._tables import moment_table

__all__ = ["Beyond", "leap"]

_PARTS = 200  # a leap is this part of the layers before it
_SETTLED = 1e-9  # what a change may add up to until it is rounding alone


class Beyond(NamedTuple):
    """What the layers behind the last one passed through do, at each position [n].

    Attributes:
        layers: numbers of the layers between leaps, [k]: from the first layer behind to the last.
        log_variances: of their pre-activations, [k, n].
        log_slopes: sum of log chi_1 over all layers behind, [n].
        log_last_slope: log chi_1 of the last of them, [n].
        log_signals: log E[phi^2] of what enters the last layer passed through and the last of
            all, [2, n].
    """

    layers: np.ndarray
    log_variances: np.ndarray
    log_slopes: np.ndarray
    log_last_slope: np.ndarray
    log_signals: np.ndarray


def leap(
    activation: activations.Activation,
    weight_variance: float,
    bias_variance: float,
    log_variances: np.ndarray,
    layer: int,
    depth: int,
    sphere: float = np.inf,
) -> Beyond:
    """From layer `layer` to layer `depth`, at positions that no longer mix.

    log_variances are [2, n], of the layer before and of this one; `sphere` is as in `propagate`.
    """
    layers = [layer]
    while layers[-1] < depth:
        layers.append(min(depth, layers[-1] + max(1, layers[-1] // _PARTS)))
    table = moment_table(activation)
    with np.errstate(divide="ignore"):
        law = np.log([weight_variance, bias_variance])

    @tf.function(autograph=False)
    def run(start: tf.Tensor, law: tf.Tensor, sizes: tf.Tensor, left: tf.Tensor) -> tuple:
        def change(x: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return variance_and_slope(table, x, law[0], law[1], sphere)

        def one(state: tuple[tf.Tensor, ...], step: tuple[tf.Tensor, tf.Tensor]) -> tuple:
            x, (size, layers_left) = state[0], step
            following, slope, _ = change(x)
            rate = following - x
            settled = tf.abs(rate) * layers_left < _SETTLED
            middle = x + 0.5 * (size - 1) * rate
            rate = tf.where(settled, tf.zeros_like(x), change(middle)[0] - middle)
            after = x + size * rate
            last_slope, signal = change(after)[1], change(after - rate)[2]
            # The layers behind x up to the next: the rule of trapezoids, without its first end.
            slopes = 0.5 * size * (slope + last_slope) + 0.5 * (last_slope - slope)
            return after, slopes, last_slope, signal

        zeros = tf.zeros_like(start[1])
        scanned = tf.scan(one, (sizes, left), (start[1], zeros, zeros, zeros))
        return *scanned, change(start[0])[2]

    steps = np.diff(layers).astype(np.float64)
    left = depth - np.array(layers[:-1], np.float64)
    arrays = [tf.constant(a, tf.float64) for a in (log_variances, law, steps, left)]
    path, slopes, last_slopes, signals, signal = (a.numpy() for a in run(*arrays))
    signals = np.stack([signal, signals[-1]])
    return Beyond(np.array(layers[1:]), path, slopes.sum(0), last_slopes[-1], signals)
