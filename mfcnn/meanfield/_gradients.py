"""Variance of back-propagated gradients, layer by layer, at finite depth (CNN paper, section 2.2).

The network is h^1 = W^1 x + b, h^(l+1) = W^(l+1) phi(h^l) + b for l = 1 to depth - 1. The
prediction is for the squared norm of the gradient of g . h^depth with respect to the weights W^l,
averaged over weights and over g ~ N(0, 1): the squared Frobenius norm of d h^depth / d W^l.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from mfcnn import activations, arguments
from mfcnn.meanfield._averaging import (
    average,
    check_padding,
    check_valid_depth,
    interior,
    profile_and_size,
)
from mfcnn.meanfield._tables import moment_table

__all__ = ["Propagation", "log_gradient_norms", "propagate", "variance_and_slope"]


class Propagation(NamedTuple):
    """One pass forward and one back through a deep block.

    Attributes:
        log_variances: logarithm of the variance of the pre-activations h^l at each position,
            [depth, *size]; the variance itself may be far outside the range of float64.
        slopes: weight_variance E[phi'(h^l)^2], chi_1 at each position, [depth, *size].
        log_gradients: logarithm of the squared gradient norms up to a common constant, [depth].
        log_jacobian: logarithm of the mean squared singular value of d phi(h^depth) / d x.
    """

    log_variances: np.ndarray
    slopes: np.ndarray
    log_gradients: np.ndarray
    log_jacobian: float

    @property
    def log_mean_variances(self) -> np.ndarray:
        """Logarithm of the mean over positions of each layer's variance, [depth]."""
        rows = self.log_variances.reshape(len(self.log_variances), -1)
        return np.logaddexp.reduce(rows, axis=1) - np.log(rows.shape[1])


def log_gradient_norms(
    activation: Any,
    weight_variance: float,
    bias_variance: float,
    depth: int,
    input_variance: ArrayLike,
    variance_profile: Any,
    size: Any,
    padding: str = "circular",
) -> np.ndarray:
    """Logarithm of the expected squared gradient norm of each layer, up to one common constant.

    With the actual variances q^l(a) of layer l at position a, K^l = E[phi(h^l)^2] and K^0 the
    input's second moment (eqs. 2.14 to 2.16):

        D^depth = 1,   D^l(a) = weight_variance E[phi'(h^l(a))^2] sum_b v_b D^(l+1)(a - b)
        |dW^l|^2 ~ sum_a sum_b D^l(a) K^(l-1)(a + b)

    Args:
        activation: a name or an `Activation`.
        weight_variance: sigma_w^2, positive.
        bias_variance: sigma_b^2.
        depth: the number of layers, >= 1.
        input_variance: mean square of the input's channels, a number or one for each position.
        variance_profile: what `mfcnn.profiles.parse` takes.
        size: spatial size, an integer or one for each dimension.
        padding: "circular", "same" (zeros) or "valid" (the size is that of the input).

    Returns:
        float64 [depth]: entry l - 1 for the weights of layer l. Differences are meaningful:
        exp(result - result[-1]) is the squared norm relative to the last layer. All layers are
        taken to have equally many channels.

    Raises:
        ValueError: for depth < 1, negative variances, a profile that is not one, signals or
            gradients that are exactly zero at all positions, or a moment that overflows (exp).

    Example:
        >>> import mfcnn
        >>> norms = mfcnn.meanfield.log_gradient_norms("relu", 2.0, 0.0, 3, 1.0, "uniform", 4)
        >>> np.abs(norms - norms[-1]).round(6)
        array([0., 0., 0.])

    Source: CNN paper, eqs. 2.14 to 2.16.
    """
    profile, sizes = profile_and_size(variance_profile, size)
    return propagate(
        activation, weight_variance, bias_variance, depth, input_variance, profile, sizes, padding
    ).log_gradients


def propagate(
    activation: Any,
    weight_variance: float,
    bias_variance: float,
    depth: int,
    input_variance: ArrayLike,
    profile: np.ndarray,
    sizes: tuple[int, ...],
    padding: str,
    sphere: float = np.inf,
) -> Propagation:
    """The passes of `log_gradient_norms`; the same arguments and errors.

    `sphere` is the number of channels c if kernels keep the norm of a position's c values, which
    are then on a sphere and not Gaussian: their moments are `_step`'s.
    """
    activation = activations.get(activation)
    padding = check_padding(padding)
    depth = arguments.depth(depth)
    if padding == "valid":
        check_valid_depth(sizes, profile, depth)
    weight_variance = arguments.variance("weight_variance", weight_variance, positive=True)
    bias_variance = arguments.variance("bias_variance", bias_variance)
    inputs = arguments.variances("input_variance", input_variance, positive=True)
    if inputs.shape not in ((), sizes):
        raise ValueError(
            f"input_variance must be a number or of shape {sizes}. Received: shape {inputs.shape}"
        )
    end = np.ones(sizes)
    if padding == "valid":  # on the torus, from the outputs that no wrapping has reached
        end, padding = np.zeros(sizes), "circular"
        end[interior(sizes, profile, depth)] = 1
    inputs = np.broadcast_to(inputs, sizes)
    table = moment_table(activation)

    @tf.function(autograph=False)
    def run(variances: tf.Tensor, inputs: tf.Tensor, end: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return _passes(table, variances, depth, inputs, end, profile, padding, sphere)

    layer_variances = tf.constant([weight_variance, bias_variance], tf.float64)
    passes = run(layer_variances, tf.constant(inputs), tf.constant(end))
    log_variances, slopes, norms, jacobian = (x.numpy() for x in passes)
    # A slope of zero everywhere stops gradients alone: of the layers in front of it.
    signals = np.isfinite(log_variances.reshape(depth, -1).max(axis=1))
    if not np.all(signals):
        raise ValueError(
            f"The signals die out or overflow: their variance leaves the range of float64 by layer "
            f"{int(np.argmin(signals)) + 1} of {depth}."
        )
    if not (np.all(np.isfinite(norms)) and np.isfinite(jacobian)):
        layer = depth - int(np.argmin(np.isfinite(norms[::-1])))
        raise ValueError(
            f"The gradients die out or overflow: they leave the range of float64 at layer {layer} "
            f"of {depth}, counted from the input."
        )
    return Propagation(log_variances, slopes, norms, float(jacobian))


def _passes(
    table: Any,
    layer_variances: tf.Tensor,
    depth: int,
    inputs: tf.Tensor,
    end: tf.Tensor,
    profile: np.ndarray,
    padding: str,
    sphere: float,
) -> tuple[tf.Tensor, ...]:
    """(log_variances, slopes, log_gradients, log_jacobian) of `Propagation`."""
    weight_variance, bias_variance = tf.unstack(layer_variances)
    axes = list(range(1, profile.ndim + 1))
    log_w, log_b = tf.math.log(weight_variance), tf.math.log(bias_variance)

    def forward(state: tuple[tf.Tensor, ...], _: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # E[phi^2] is seconds exp(scale): a network of any depth stays in the range of float64.
        seconds, scale = state[:2]
        log_seconds = tf.math.log(average(seconds, profile, padding))
        log_q = _log_sum(log_w + log_seconds + scale, log_b)
        second, scale, slope = _step(table, log_q, sphere)
        return second, scale, weight_variance * slope, log_q

    zeros = tf.zeros_like(inputs)[None]
    largest = tf.reduce_max(inputs)
    first = ((inputs / largest)[None], tf.math.log(largest))
    seconds, log_scales, slopes, log_q = tf.scan(forward, tf.range(depth), (*first, zeros, zeros))

    def normalized(signal: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        largest = tf.reduce_max(signal, axes, keepdims=True)
        return signal / largest, scale + tf.math.log(tf.reshape(largest, [2]))

    def backward(state: tuple[tf.Tensor, tf.Tensor], layer: tf.Tensor) -> tuple[tf.Tensor, ...]:
        signal, scale = state
        # Layer l multiplies by chi_1 at its own variance; the last layer's signal is the start.
        passed = slopes[layer] * average(signal, profile, padding, adjoint=True)
        return normalized(tf.where(layer == depth - 1, signal, passed), scale)

    # Two signals: of h^depth for the gradients, of phi(h^depth) for the Jacobian.
    start = tf.stack([end, end * slopes[-1, 0] / weight_variance])
    start = normalized(start, tf.zeros([2], start.dtype))
    signals, scales = tf.scan(backward, tf.range(depth), start, reverse=True)
    before = tf.concat([first[0], seconds[:-1, 0]], 0)
    before_scales = tf.concat([first[1][None], log_scales[:-1]], 0)
    window = np.ones(profile.shape)  # all positions of the filter have a weight
    seen = average(before, window, padding)
    norms = scales[:, 0] + tf.math.log(tf.reduce_sum(signals[:, 0] * seen, axes)) + before_scales
    entering = average(signals[0], profile, padding, adjoint=True)[1]
    ratio = tf.math.log(tf.reduce_sum(entering) / tf.reduce_sum(end)) + log_w
    return log_q[:, 0], slopes[:, 0], norms, scales[0, 1] + ratio


def variance_and_slope(
    table: Any, log_q: tf.Tensor, log_w: tf.Tensor, log_b: tf.Tensor, sphere: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(log q of the next layer, log chi_1, log E[phi^2]) at log q [n] of positions by themselves.

    log_w and log_b are the logarithms of the two variances, `sphere` is as in `propagate`.
    """
    second, scale, slope = _step(table, log_q, sphere)
    log_second = tf.math.log(second) + scale
    return _log_sum(log_w + log_second, log_b), log_w + tf.math.log(slope), log_second


def _log_sum(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """log(exp(a) + exp(b)), also of two zeros."""
    largest = tf.maximum(a, b)
    total = largest + tf.math.log(tf.exp(a - largest) + tf.exp(b - largest))
    return tf.where(tf.math.is_inf(largest), largest, total)


def _step(table: Any, log_q: tf.Tensor, sphere: float) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(m, s, d): E[phi(h)^2] = m exp(s), s a number, and E[phi'(h)^2] = d.

    Of Gaussian h of variance exp(log_q), or of c values on a sphere: Gaussian vectors are spheres
    of squared radius q chi^2_c, of relative variance 2 / c. So a moment G(q) of Gaussian values is
    that of a sphere and q^2 G''(q) / c more, up to 1 / c^2.
    """
    second, scale, slope = table.variance_step(log_q)
    if not np.isinf(sphere):
        step = 0.1
        (above, up, slope_above), (below, down, slope_below) = (
            table.variance_step(log_q + np.log(factor)) for factor in (1 + step, 1 - step)
        )
        curvature = above * tf.exp(up - scale) - 2 * second + below * tf.exp(down - scale)
        second -= curvature / (sphere * step**2)
        slope -= (slope_above - 2 * slope + slope_below) / (sphere * step**2)
    common = tf.reduce_max(scale)
    return second * tf.exp(scale - common), common, slope
