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

__all__ = ["Propagation", "log_gradient_norms", "propagate"]


class Propagation(NamedTuple):
    """One pass forward and one back through a deep block.

    Attributes:
        variances: of the pre-activations h^l at each position, [depth, *size].
        slopes: weight_variance E[phi'(h^l)^2], chi_1 at each position, [depth, *size].
        log_gradients: logarithm of the squared gradient norms up to a common constant, [depth].
        log_jacobian: logarithm of the mean squared singular value of d phi(h^depth) / d x.
    """

    variances: np.ndarray
    slopes: np.ndarray
    log_gradients: np.ndarray
    log_jacobian: float


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
        ValueError: for depth < 1, negative variances, a profile that is not one, or signals whose
            variance overflows or underflows on the way.

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
    variances, slopes, norms, jacobian = (x.numpy() for x in passes)
    if not np.all(np.isfinite(norms)):
        layer = int(np.argmin(np.isfinite(norms))) + 1
        raise ValueError(
            f"The signals die out or overflow: their variance leaves the range of float64 by layer "
            f"{layer} of {depth}."
        )
    return Propagation(variances, slopes, norms, float(jacobian))


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
    """(variances, slopes, log_gradients, log_jacobian) of `Propagation`."""
    weight_variance, bias_variance = tf.unstack(layer_variances)
    axes = list(range(1, profile.ndim + 1))

    def forward(state: tuple[tf.Tensor, ...], _: tf.Tensor) -> tuple[tf.Tensor, ...]:
        q = weight_variance * average(state[0], profile, padding) + bias_variance
        second, slope = _step(table, q, sphere)
        return second, weight_variance * slope, q

    zeros = tf.zeros_like(inputs)[None]
    seconds, slopes, variances = tf.scan(forward, tf.range(depth), (inputs[None], zeros, zeros))

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
    before = tf.concat([inputs[None], seconds[:-1, 0]], 0)
    window = np.ones(profile.shape)  # all positions of the filter have a weight
    seen = average(before, window, padding)
    norms = scales[:, 0] + tf.math.log(tf.reduce_sum(signals[:, 0] * seen, axes))
    first = average(signals[0], profile, padding, adjoint=True)[1]
    ratio = weight_variance * tf.reduce_sum(first) / tf.reduce_sum(end)
    return variances[:, 0], slopes[:, 0], norms, scales[0, 1] + tf.math.log(ratio)


def _step(table: Any, q: tf.Tensor, sphere: float) -> tuple[tf.Tensor, tf.Tensor]:
    """E[phi(h)^2] and E[phi'(h)^2] at variance q, of Gaussian h or of c values on a sphere.

    Gaussian vectors are spheres of squared radius q chi^2_c, of relative variance 2 / c. So a
    moment G(q) of Gaussian values is that of a sphere and q^2 G''(q) / c more, up to 1 / c^2.
    """
    moments = table.variance_step(q)
    if np.isinf(sphere):
        return moments
    step = 0.1
    above, below = (table.variance_step(q * factor) for factor in (1 + step, 1 - step))
    second, slope = (
        m - (a - 2 * m + b) / (sphere * step**2) for m, a, b in zip(moments, above, below)
    )
    return second, slope
