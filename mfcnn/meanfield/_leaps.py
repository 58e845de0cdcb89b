"""Layers beyond those that are passed through one by one, in leaps of half a percent of the depth.

There variances hardly change from layer to layer, in the critical phase like 1 / l. A leap over m
layers adds m times the change of its middle layer to log q, which is exact to second order:
a relative error of some (1 / 200)^2 / 12 of the change. Logarithms of slopes are added likewise.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mfcnn import activations
from mfcnn.meanfield._averaging import average
from mfcnn.meanfield._gradients import Propagation, variance_and_slope
from mfcnn.meanfield._tables import moment_table

__all__ = ["NOTHING", "Beyond", "beyond", "beyond_border", "windows"]

_PARTS = 200  # a leap is this part of the layers before it
_SETTLED = 1e-9  # what a change may add up to until it is rounding alone


class Beyond(NamedTuple):
    """Logarithms by which the layers that were not passed through change three numbers.

    log_variances are the means over positions of the layers behind, as many as there are.
    """

    gradient_ratio: float
    jacobian: float
    variance: float
    log_variances: np.ndarray


NOTHING = Beyond(0.0, 0.0, 0.0, np.zeros(0))


class _Path(NamedTuple):
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


def _leap(
    activation: activations.Activation,
    weight_variance: float,
    bias_variance: float,
    log_variances: np.ndarray,
    layer: int,
    depth: int,
    sphere: float = np.inf,
) -> _Path:
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
    return _Path(np.array(layers[1:]), path, slopes.sum(0), last_slopes[-1], signals)


def beyond(
    law: tuple[activations.Activation, float, float],
    passes: Propagation,
    outputs: Propagation,
    seen: tuple[np.ndarray, np.ndarray],
    depth: int,
    sphere: float,
) -> Beyond:
    """Where positions no longer mix: the layers that were not passed through, in leaps.

    `seen` is what the first layer's windows see of the input, and how many windows see a position.
    """
    layers = len(passes.slopes)
    own = _leap(*law, passes.log_variances[-2:].reshape(2, -1), layers, depth)
    on_sphere = own
    if outputs is not passes:
        start = outputs.log_variances[-2:].reshape(2, -1)
        on_sphere = _leap(*law, start, layers, depth, sphere)
    with np.errstate(divide="ignore"):
        slopes = np.log(passes.slopes.reshape(layers, -1))
    image, windows = (np.log(a) for a in seen)
    # What of the first layer's gradient comes from each position, and what that is multiplied by.
    first = slopes[:-1].sum(0) + image
    factor = slopes[-1] + own.log_slopes - own.log_last_slope
    before, last = _log_sum(own.log_signals + windows)
    back = slopes.sum(0)
    ends = on_sphere.log_variances[-1], outputs.log_variances[-1].ravel()
    behind = np.arange(layers + 1, depth + 1)
    means = _log_sum(own.log_variances) - np.log(image.size)
    return Beyond(
        gradient_ratio=float(_log_sum(first + factor) - _log_sum(first) - last + before),
        jacobian=float(_log_sum(back + own.log_slopes) - _log_sum(back)),
        variance=float(_log_sum(ends[0]) - _log_sum(ends[1])),
        log_variances=np.interp(
            behind, [layers, *own.layers], [*passes.log_mean_variances[-1:], *means]
        ),
    )


def windows(
    inputs: np.ndarray, sizes: tuple[int, ...], profile: np.ndarray, padding: str
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the inputs over the windows [n], and how many windows a position is in, [n]."""
    window, image = np.ones(profile.shape), tf.constant(np.broadcast_to(inputs, sizes)[None])
    border = "same" if padding == "same" else "circular"
    sums = average(image / np.max(inputs), window, border)
    counts = average(tf.ones_like(image), window, border, adjoint=True)
    return sums.numpy().ravel(), counts.numpy().ravel()


def beyond_border(passes: Propagation, border: np.ndarray, depth: int) -> Beyond:
    """With zeros at the border: the layers behind act as the last one passed through.

    A layer multiplies backward signals by the one rate and variances by the other. The last
    layer's gradient has its input's variance, the first one's the network's.
    """
    more = depth - len(passes.slopes)
    with np.errstate(divide="ignore"):
        backward = np.log(np.max(border))
    means = passes.log_mean_variances
    forward = means[-1] - means[-2]
    rates = backward - forward, backward, forward
    ratio, jacobian, variance = (float(more * rate) for rate in rates)
    return Beyond(ratio, jacobian, variance, np.full(more, means[-1]))


def _log_sum(logarithms: np.ndarray) -> Any:
    """The logarithm of a sum over positions, the last axis, of numbers of these logarithms."""
    return np.logaddexp.reduce(logarithms, axis=-1)
