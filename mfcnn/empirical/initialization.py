"""Statistics of the tangent kernel over random initializations, all in one batched computation.

With a_l the activations, D_l = diag(phi'(h_l)) and G_l = (d h_l / d w) (d h_l / d w)^T, the Gram
matrix of the Jacobian of a layer's pre-activations for one input,

    G_{l+1} = W D_l G_l D_l W^T + (c_w |a_l|^2 + c_b) 1,

where c_w = 1, c_b = 1 in the standard parameterization, and c_w = weight_variance / width,
c_b = bias_variance in the NTK parameterization. A readout of one output after each layer gives the
kernel Theta(x, x) of all depths in one pass, for a batch of networks at once.
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import tensorflow as tf

from mfcnn import activations
from mfcnn.meanfield import relu_critical_ratio

__all__ = ["NTKMoments", "fitted_exponent", "ntk_moments", "ntk_samples"]

PARAMETERIZATIONS = ("standard", "ntk")
_KERNEL, _BIAS, _READOUT = range(3)
_CHUNK_NUMBERS = 10**7


class NTKMoments(NamedTuple):
    """Moments of Theta(x, x) over initializations, an array over depths each.

    Attributes:
        depth: number of hidden layers, 1, 2, ...
        mean: E[Theta].
        ratio: E[Theta^2] / E[Theta]^2.
        ratio_error: jackknife standard error of the ratio; with heavy tails (ratios well above 2)
            both the ratio and its error come out too small.
    """

    depth: np.ndarray
    mean: np.ndarray
    ratio: np.ndarray
    ratio_error: np.ndarray


def ntk_moments(*args, **kwargs):
    """E[Theta(x, x)^2] / E[Theta(x, x)]^2 by depth; the arguments are those of `ntk_samples`.

    Returns:
        `NTKMoments`.

    Source: finite-width paper, Figures 1, 2 and 7.
    """
    samples = ntk_samples(*args, **kwargs)
    count = samples.shape[1]
    if count < 2:
        raise ValueError(f"initializations must be at least 2. Received: {count}")
    # Of any scale: the ratio does not depend on it, the squares could overflow.
    scaled = samples / samples.mean(1, keepdims=True)
    total, squares = scaled.sum(1, keepdims=True), (scaled**2).sum(1, keepdims=True)
    ratio = count * squares[:, 0] / total[:, 0] ** 2
    left_out = (count - 1) * (squares - scaled**2) / (total - scaled) ** 2
    error = np.sqrt((count - 1) * np.var(left_out, axis=1))
    return NTKMoments(np.arange(1, len(samples) + 1), samples.mean(1), ratio, error)


def ntk_samples(
    activation,
    width,
    depth,
    weight_variance,
    bias_variance,
    initializations=200,
    input_size=None,
    parameterization="standard",
    seed=0,
):
    """Theta(x, x) of fully connected networks with one output, for an x with |x|^2 = input_size.

    Weights are Gaussian with variance weight_variance / fan_in, biases with bias_variance. The
    distribution depends on x only by its norm.

    Args:
        activation: a name or a `mfcnn.activations.Activation`.
        width: units of each hidden layer.
        depth: the largest number of hidden layers.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        initializations: number of independent networks.
        input_size: number of inputs; by default the width.
        parameterization: "standard" (gradients by weights and biases, the paper's equation 1) or
            "ntk".
        seed: of all draws.

    Returns:
        float64 [depth, initializations]: row l is for networks with l + 1 hidden layers.

    Raises:
        ValueError: for sizes below 1, negative variances or an unknown parameterization.
        OverflowError: if a kernel is not finite in float64.
    """
    phi = activations.get(activation)
    input_size = width if input_size is None else input_size
    for name, value in (
        ("width", width),
        ("depth", depth),
        ("initializations", initializations),
        ("input_size", input_size),
    ):
        if int(value) != value or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1. Received: {value!r}")
    for name, value in (("weight_variance", weight_variance), ("bias_variance", bias_variance)):
        if not (value >= 0 and np.isfinite(value)):
            raise ValueError(f"{name} must be finite and not negative. Received: {value!r}")
    if parameterization not in PARAMETERIZATIONS:
        raise ValueError(
            f"parameterization must be one of {PARAMETERIZATIONS}. Received: {parameterization!r}"
        )
    ntk = parameterization == "ntk"
    chunk = min(initializations, max(1, _CHUNK_NUMBERS // max(width * width, width * input_size)))
    chunks = -(-initializations // chunk)
    parts = [
        _program(
            phi,
            width,
            depth,
            chunk,
            input_size,
            ntk,
            tf.constant([weight_variance, bias_variance], tf.float64),
            tf.constant([seed, index], tf.int32),
        ).numpy()
        for index in range(chunks)
    ]
    samples = np.concatenate(parts, axis=1)[:, :initializations]
    if not np.all(np.isfinite(samples)):
        raise OverflowError(
            f"Theta is not finite in float64 at weight_variance={weight_variance}, depth {depth}"
        )
    return samples


def _chunk_samples(phi, width, depth, count, input_size, ntk, variances, seed):
    weight_variance, bias_variance = variances[0], variances[1]

    def deviation(fan_in):
        return tf.sqrt(weight_variance / fan_in)

    def norm(a, fan_in):
        squares = tf.reduce_sum(a * a, -1)
        if ntk:
            return weight_variance / fan_in * squares + bias_variance
        return squares + 1.0

    def bias(layer):
        return tf.sqrt(bias_variance) * normal(seed, layer, _BIAS, [count, width])

    def kernel(layer, fan_in):
        return deviation(fan_in) * normal(seed, layer, _KERNEL, [count, width, fan_in])

    identity = tf.eye(width, dtype=tf.float64)
    x = tf.ones([count, input_size], tf.float64)
    h = tf.linalg.matvec(kernel(0, input_size), x) + bias(0)
    gram = norm(x, input_size)[:, None, None] * identity
    samples = tf.TensorArray(tf.float64, depth, element_shape=[count])

    def body(layer, h, gram, samples):
        a, slope = phi.phi(h), phi.phi_prime(h)
        readout = deviation(width) * normal(seed, layer, _READOUT, [count, width]) * slope
        theta = tf.reduce_sum(readout * tf.linalg.matvec(gram, readout), -1) + norm(a, width)
        samples = samples.write(layer, theta)
        # The layer after the last readout is not needed, and drawing it does no harm.
        w = kernel(layer + 1, width)
        h = tf.linalg.matvec(w, a) + bias(layer + 1)
        backward = w * slope[:, None, :]
        gram = tf.matmul(tf.matmul(backward, gram), backward, transpose_b=True)
        return layer + 1, h, gram + norm(a, width)[:, None, None] * identity, samples

    return tf.while_loop(
        lambda layer, *_: layer < depth,
        body,
        (tf.constant(0), h, gram, samples),
        parallel_iterations=1,
        maximum_iterations=depth,
    )[3].stack()


# One for all calls: other variances and seeds need no new trace.
_program = tf.function(_chunk_samples, autograph=False)


def normal(seed, layer, kind, shape):
    """Standard normal numbers of one layer: kernel, bias or readout, the networks first."""
    salt = tf.random.experimental.stateless_fold_in(seed, 3 * layer + kind)
    return tf.random.stateless_normal(shape, salt, dtype=tf.float64)


def fitted_exponent(moments, width, max_depth_over_width=0.3):
    """The exponent in `relu_critical_ratio` that fits measured ratios, and its standard error.

    Args:
        moments: `NTKMoments` of relu networks at (2, 0).
        width: their width.
        max_depth_over_width: leaves out deeper networks, whose heavy tails need more samples.

    Returns:
        (exponent, error): a weighted least-squares fit of the logarithm. The error is that of the
        best single depth, since all depths come from the same networks.
    """
    keep = moments.depth <= max_depth_over_width * width
    if not np.any(keep):
        raise ValueError(f"no depth is below {max_depth_over_width} width. Received: {width=}")
    depth, ratio = moments.depth[keep], moments.ratio[keep]
    error = moments.ratio_error[keep] / ratio

    def residual(exponent):
        return (np.log(relu_critical_ratio(depth, width, exponent)) - np.log(ratio)) / error

    fit = scipy.optimize.least_squares(lambda p: residual(p[0]), [5.0])
    return float(fit.x[0]), float(np.min(1 / np.abs(fit.jac[:, 0])))
