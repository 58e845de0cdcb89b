"""Variance of back-propagated gradients, layer by layer, at finite depth (CNN paper, section 2.2).

The network is h^1 = W^1 x + b, h^(l+1) = W^(l+1) phi(h^l) + b for l = 1 to depth - 1, convolutions
with periodic padding. The prediction is for the squared norm of the gradient of g . h^depth with
respect to the weights W^l, averaged over weights and over g ~ N(0, 1): the squared Frobenius norm
of d h^depth / d W^l.
"""

import numpy as np
import tensorflow as tf

from mfcnn import activations
from mfcnn.meanfield._arguments import check_depth, check_variance
from mfcnn.meanfield._tables import moment_table
from mfcnn.meanfield.modes import check_profile, check_size

__all__ = ["log_gradient_norms"]


def log_gradient_norms(
    activation, weight_variance, bias_variance, depth, input_variance, variance_profile, size
):
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
      variance_profile: [k] or [k1, k2], of sum 1.
      size: spatial size, an integer or one for each dimension.

    Returns:
      float64 [depth]: entry l - 1 for the weights of layer l. Differences are meaningful:
      exp(result - result[-1]) is the squared norm relative to the last layer. All layers are taken
      to have equally many channels.

    Raises:
      ValueError: for depth < 1, negative variances, a profile that is not one, a size smaller than
        the kernel, or signals whose variance overflows or underflows on the way.
    """
    activation = activations.get(activation)
    profile = check_profile(variance_profile)
    sizes = check_size(size, profile)
    depth = check_depth(depth)
    weight_variance = check_variance("weight_variance", weight_variance, positive=True)
    bias_variance = check_variance("bias_variance", bias_variance)
    inputs = check_variance("input_variance", input_variance, positive=True)
    if inputs.shape not in ((), sizes):
        raise ValueError(
            f"input_variance must be a number or of shape {sizes}. Received: shape {inputs.shape}"
        )
    inputs = np.broadcast_to(inputs, sizes)
    window = np.where(profile >= 0, 1.0, 0.0)  # all positions of the filter have a weight

    table = moment_table(activation)

    @tf.function(autograph=False)
    def run(start):
        def forward(state, _):
            second, _, _ = state
            q = _correlate(weight_variance * second + bias_variance, profile, 1)
            second, slope = table.variance_step(q)
            return second, weight_variance * slope, q

        zeros = tf.zeros_like(start)
        seconds, slopes, _ = tf.scan(forward, tf.range(depth), (start, zeros, zeros))
        before = tf.concat([start[None], seconds[:-1]], 0)

        def backward(state, layer):
            signal, scale = state
            # Layer l multiplies by chi_1 at its own variance; the last layer's signal is 1.
            passed = slopes[layer] * _correlate(signal, profile, -1)
            signal = tf.where(layer == depth - 1, signal, passed)
            largest = tf.reduce_max(signal)
            return signal / largest, scale + tf.math.log(largest)

        signals, scales = tf.scan(
            backward,
            tf.range(depth),
            (tf.ones_like(start), tf.constant(0.0, start.dtype)),
            reverse=True,
        )
        seen = tf.map_fn(lambda x: _correlate(x, window, 1), before)
        axes = list(range(1, len(sizes) + 1))
        return scales + tf.math.log(tf.reduce_sum(signals * seen, axes))

    norms = run(tf.constant(inputs)).numpy()
    if not np.all(np.isfinite(norms)):
        layer = int(np.argmin(np.isfinite(norms))) + 1
        raise ValueError(
            f"The variance of the signals leaves the range of float64 by layer {layer} of {depth}."
        )
    return norms


def _correlate(values, filter_, sign):
    """sum_b filter[b] values[a + sign b], periodic."""
    total = tf.zeros_like(values)
    axes = list(range(filter_.ndim))
    for index in np.ndindex(*filter_.shape):
        if filter_[index]:
            shift = [-sign * (i - (k - 1) // 2) for i, k in zip(index, filter_.shape)]
            total += filter_[index] * tf.roll(values, shift, axes)
    return total
