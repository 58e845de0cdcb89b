"""Statistics of the tangent kernel over random initializations, all in one batched computation.

With a_l the activations, D_l = diag(phi'(h_l)) and G_l = (d h_l / d w) (d h_l / d w)^T, the Gram
matrix of the Jacobian of a layer's pre-activations for one input,

    G_{l+1} = W D_l G_l D_l W^T + (c_w |a_l|^2 + c_b) 1,

where c_w = 1, c_b = 1 in the standard parameterization, and c_w = weight_variance / width,
c_b = bias_variance in the NTK parameterization. A readout of one output after each layer gives the
kernel Theta(x, x) of all depths in one pass, for a batch of networks at once.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import tensorflow as tf

from mfcnn import activations, arguments
from mfcnn.meanfield import relu_critical_ratio

__all__ = ["NTKMoments", "fitted_exponent", "ntk_moments", "ntk_samples"]

_PARAMETERIZATIONS = ("standard", "ntk")
_KERNEL, _BIAS, _READOUT = range(3)


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


def ntk_moments(
    activation: str | activations.Activation,
    width: int,
    depth: int,
    weight_variance: float,
    bias_variance: float,
    initializations: int = 200,
    input_size: int | None = None,
    parameterization: str = "standard",
    seed: int = 0,
) -> NTKMoments:
    """E[Theta(x, x)^2] / E[Theta(x, x)]^2 by depth.

    Args:
        activation: a name or a `mfcnn.activations.Activation`.
        width: units of each hidden layer.
        depth: the largest number of hidden layers.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        initializations: number of independent networks, at least 2.
        input_size: number of inputs; by default the width.
        parameterization: "standard" or "ntk", see `ntk_samples`.
        seed: of all draws.

    Returns:
        `NTKMoments`.

    Raises:
        ValueError: as `ntk_samples`.

    Example:
        >>> moments = mfcnn.empirical.ntk_moments("relu", 16, 3, 2.0, 0.0, initializations=50)
        >>> moments.ratio.shape
        (3,)

    Source: finite-width paper, Figures 1, 2 and 7.
    """
    count = arguments.integer("initializations", initializations, 2)
    samples = ntk_samples(
        activation,
        width,
        depth,
        weight_variance,
        bias_variance,
        count,
        input_size,
        parameterization,
        seed,
    )
    # Of any scale: the ratio does not depend on it, the squares could overflow.
    scaled = samples / samples.mean(1, keepdims=True)
    total, squares = scaled.sum(1, keepdims=True), (scaled**2).sum(1, keepdims=True)
    ratio = count * squares[:, 0] / total[:, 0] ** 2
    left_out = (count - 1) * (squares - scaled**2) / (total - scaled) ** 2
    error = np.sqrt((count - 1) * np.var(left_out, axis=1))
    return NTKMoments(np.arange(1, len(samples) + 1), samples.mean(1), ratio, error)


def ntk_samples(
    activation: str | activations.Activation,
    width: int,
    depth: int,
    weight_variance: float,
    bias_variance: float,
    initializations: int = 200,
    input_size: int | None = None,
    parameterization: str = "standard",
    seed: int = 0,
    chunk_size: int | None = None,
) -> np.ndarray:
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
        seed: of all draws; another chunk_size draws others.
        chunk_size: networks that are held at once; None is as many as have 10^7 weights a layer.

    Returns:
        float64 [depth, initializations]: row l is for networks with l + 1 hidden layers.

    Raises:
        ValueError: for sizes below 1, negative variances or an unknown parameterization.
        OverflowError: if a kernel is not finite in float64.

    Example:
        >>> mfcnn.empirical.ntk_samples("tanh", 16, 3, 1.5, 0.1, initializations=5).shape
        (3, 5)

    Source: finite-width paper, section 3.
    """
    phi = activations.get(activation)
    width, depth = arguments.integer("width", width, 1), arguments.depth(depth)
    count = arguments.integer("initializations", initializations, 1)
    inputs = width if input_size is None else arguments.integer("input_size", input_size, 1)
    weight_variance = arguments.variance("weight_variance", weight_variance)
    bias_variance = arguments.variance("bias_variance", bias_variance)
    ntk = arguments.choice("parameterization", parameterization, _PARAMETERIZATIONS) == "ntk"
    seed = arguments.integer("seed", seed, 0)
    fitting = max(1, 10**7 // max(width * width, width * inputs))
    chunk = fitting if chunk_size is None else arguments.integer("chunk_size", chunk_size, 1)
    chunk = min(count, chunk)
    variances = tf.constant([weight_variance, bias_variance], tf.float64)
    parts = [
        _program(phi, width, depth, chunk, inputs, ntk, variances, tf.constant([seed, i])).numpy()
        for i in range(-(-count // chunk))
    ]
    samples = np.concatenate(parts, axis=1)[:, :count]
    if not np.all(np.isfinite(samples)):
        raise OverflowError(
            f"Theta is not finite in float64 at weight_variance={weight_variance}, depth={depth}"
        )
    return samples


def _chunk_samples(
    phi: activations.Activation,
    width: int,
    depth: int,
    count: int,
    input_size: int,
    ntk: bool,
    variances: tf.Tensor,
    seed: tf.Tensor,
) -> tf.Tensor:
    weight_variance, bias_variance = variances[0], variances[1]

    def deviation(fan_in: int) -> tf.Tensor:
        return tf.sqrt(weight_variance / fan_in)

    def norm(a: tf.Tensor, fan_in: int) -> tf.Tensor:
        squares = tf.reduce_sum(a * a, -1)
        if ntk:
            return weight_variance / fan_in * squares + bias_variance
        return squares + 1.0

    def bias(layer: Any) -> tf.Tensor:
        return tf.sqrt(bias_variance) * _normal(seed, layer, _BIAS, [count, width])

    def kernel(layer: Any, fan_in: int) -> tf.Tensor:
        return deviation(fan_in) * _normal(seed, layer, _KERNEL, [count, width, fan_in])

    identity = tf.eye(width, dtype=tf.float64)
    x = tf.ones([count, input_size], tf.float64)
    h = tf.linalg.matvec(kernel(0, input_size), x) + bias(0)
    gram = norm(x, input_size)[:, None, None] * identity
    samples = tf.TensorArray(tf.float64, depth, element_shape=[count])

    def body(layer: Any, h: Any, gram: Any, samples: Any) -> tuple:
        a, slope = phi.phi(h), phi.phi_prime(h)
        readout = deviation(width) * _normal(seed, layer, _READOUT, [count, width]) * slope
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


def _normal(seed: tf.Tensor, layer: Any, kind: int, shape: list[int]) -> tf.Tensor:
    """Standard normal numbers of one layer: kernel, bias or readout, the networks first."""
    salt = tf.random.experimental.stateless_fold_in(seed, 3 * layer + kind)
    return tf.random.stateless_normal(shape, salt, dtype=tf.float64)


def fitted_exponent(
    moments: NTKMoments, width: int, max_depth_over_width: float = 0.3
) -> tuple[float, float]:
    """The exponent in `relu_critical_ratio` that fits measured ratios, and its standard error.

    Args:
        moments: `NTKMoments` of relu networks at (2, 0).
        width: their width.
        max_depth_over_width: leaves out deeper networks, whose heavy tails need more samples.

    Returns:
        (exponent, error): a weighted least-squares fit of the logarithm. The error is that of the
        best single depth, since all depths come from the same networks.

    Raises:
        ValueError: if no depth is below the bound.

    Example:
        >>> moments = mfcnn.empirical.ntk_moments("relu", 50, 5, 2.0, 0.0, initializations=100)
        >>> exponent, error = mfcnn.empirical.fitted_exponent(moments, 50)
        >>> abs(exponent - 5) < 5 * error
        True

    Source: finite-width paper, section 3.
    """
    width = arguments.integer("width", width, 1)
    max_depth_over_width = arguments.number("max_depth_over_width", max_depth_over_width, above=0)
    if not isinstance(moments, NTKMoments):
        raise arguments.ArgumentTypeError(
            f"moments must be an NTKMoments, see ntk_moments. Received: {type(moments).__name__}"
        )
    keep = moments.depth <= max_depth_over_width * width
    if not np.any(keep):
        raise ValueError(
            f"max_depth_over_width must leave a depth: the first is {moments.depth[0]}, "
            f"width={width}. Received: max_depth_over_width={max_depth_over_width}"
        )
    depth, ratio = moments.depth[keep], moments.ratio[keep]
    error = moments.ratio_error[keep] / ratio

    def residual(exponent: float) -> np.ndarray:
        return (np.log(relu_critical_ratio(depth, width, exponent)) - np.log(ratio)) / error

    fit = scipy.optimize.least_squares(lambda p: residual(p[0]), [5.0])
    return float(fit.x[0]), float(np.min(1 / np.abs(fit.jac[:, 0])))
