"""Statistics of the tangent kernel over random initializations, without drawing a weight matrix.

With a_l the activations, h_{l+1} = W a_l + b, delta_l the gradient of the output by h_l,

    Theta(x, x) = sum_l |delta_l|^2 (c_w |a_{l-1}|^2 + c_b),

where c_w = c_b = 1 in the standard parameterization, c_w = weight_variance / fan_in and
c_b = bias_variance in the NTK parameterization. For one input a layer's W, of Gaussian entries of
variance s^2, is met twice only: as W a_l and as W^T delta_{l+1}. W a_l is Gaussian of variance
s^2 |a_l|^2. Given that, W is W a a^T / |a|^2 + W' (1 - a a^T / |a|^2) with an independent W', so

    W^T delta = a (W a . delta) / |a|^2 + (1 - a a^T / |a|^2) g,   g of variance s^2 |delta|^2.

This is the distribution of a network of that width, not an approximation, for 2 width random
numbers a layer in place of width^2. Each depth has networks of its own, all in one batch.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import tensorflow as tf
from numpy.typing import ArrayLike

from mfcnn import activations, arguments
from mfcnn.meanfield import relu_critical_ratio

__all__ = ["NTKMoments", "fitted_exponent", "ntk_moments", "ntk_samples"]

_PARAMETERIZATIONS = ("standard", "ntk")
_FORWARD, _BIAS, _BACKWARD, _READOUT = range(4)


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
    depth: ArrayLike,
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
        depth: the largest number of hidden layers, or an array of those that are wanted.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        initializations: number of independent networks of each depth, at least 2.
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
    return NTKMoments(_depths(depth), samples.mean(1), ratio, error)


def _depths(depth: ArrayLike) -> np.ndarray:
    """1 to depth, or the depths that are given."""
    if np.ndim(depth):
        return np.asarray(arguments.depths(np.ravel(depth), least=1))
    return np.arange(1, arguments.depth(depth) + 1)


def ntk_samples(
    activation: str | activations.Activation,
    width: int,
    depth: ArrayLike,
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
        depth: the largest number of hidden layers, or an array of those that are wanted.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        initializations: number of independent networks of each depth.
        input_size: number of inputs; by default the width.
        parameterization: "standard" (gradients by weights and biases, the paper's equation 1) or
            "ntk".
        seed: of all draws; another chunk_size draws others.
        chunk_size: networks that are held at once; None is as many as have 10^7 units.

    Returns:
        float64 [depths, initializations]; the rows are independent, row l is for networks with
        l + 1 hidden layers or the l-th number of them that was asked for.

    Raises:
        ValueError: for sizes below 1, negative variances or an unknown parameterization.
        OverflowError: if a kernel is not finite in float64.

    Example:
        >>> mfcnn.empirical.ntk_samples("tanh", 16, 3, 1.5, 0.1, initializations=5).shape
        (3, 5)

    Source: finite-width paper, section 3.
    """
    phi = activations.get(activation)
    width, depths = arguments.integer("width", width, 1), _depths(depth)
    count = arguments.integer("initializations", initializations, 1)
    inputs = width if input_size is None else arguments.integer("input_size", input_size, 1)
    weight_variance = arguments.variance("weight_variance", weight_variance)
    bias_variance = arguments.variance("bias_variance", bias_variance)
    ntk = arguments.choice("parameterization", parameterization, _PARAMETERIZATIONS) == "ntk"
    seed = arguments.integer("seed", seed, 0)
    variances = tf.constant([weight_variance, bias_variance], tf.float64)
    rows = []
    for layers in depths.tolist():
        fitting = max(1, 10**7 // (width * layers))
        chunk = fitting if chunk_size is None else arguments.integer("chunk_size", chunk_size, 1)
        chunk = min(count, chunk)
        one = tf.random.experimental.stateless_fold_in([seed, 0], layers)
        parts = [
            _program(phi, width, tf.constant(layers), chunk, inputs, ntk, variances, one, i)
            for i in map(tf.constant, range(-(-count // chunk)))
        ]
        rows.append(np.concatenate(parts)[:count])
    samples = np.array(rows)
    if not np.all(np.isfinite(samples)):
        raise OverflowError(
            f"Theta is not finite in float64 at weight_variance={weight_variance}, depth={depth!r}"
        )
    return samples


def _chunk_samples(
    phi: activations.Activation,
    width: int,
    depth: tf.Tensor,
    count: int,
    input_size: int,
    ntk: bool,
    variances: tf.Tensor,
    seed: tf.Tensor,
    chunk: tf.Tensor,
) -> tf.Tensor:
    """Theta of `count` networks of one depth: forward, and back."""
    salt = tf.random.experimental.stateless_fold_in(seed, chunk)

    def factor(squares: tf.Tensor, fan_in: int) -> tf.Tensor:
        return variances[0] / fan_in * squares + variances[1] if ntk else squares + 1.0

    def deviation(squares: tf.Tensor, fan_in: int) -> tf.Tensor:
        return tf.sqrt(variances[0] / fan_in * squares)[:, None]

    def normal(layer: Any, kind: int) -> tf.Tensor:
        return _normal(salt, layer, kind, [count, width])

    def forward(layer: Any, squares: tf.Tensor, signals: Any) -> tuple:
        """W a and W a + b of a layer; the first has the inputs' size behind it."""
        before = tf.where(layer == 0, deviation(squares, input_size), deviation(squares, width))
        product = before * normal(layer, _FORWARD)
        h = product + tf.sqrt(variances[1]) * normal(layer, _BIAS)
        squares = tf.reduce_sum(tf.square(phi.phi(h)), -1)
        return layer + 1, squares, signals.write(layer, tf.stack([product, h]))

    signals = tf.TensorArray(tf.float64, depth, element_shape=[2, count, width])
    inputs = tf.fill([count], tf.constant(input_size, tf.float64))
    _, squares, signals = tf.while_loop(
        lambda layer, *_: layer < depth, forward, (0, inputs, signals), parallel_iterations=1
    )

    def backward(layer: Any, product: Any, delta: Any, theta: Any) -> tuple:
        """From delta of the layer above `layer`, and its W a, to that of `layer`."""
        mine, h = tf.unstack(signals.read(layer))
        a = phi.phi(h)
        squares, norms = tf.reduce_sum(a * a, -1), tf.reduce_sum(delta * delta, -1)
        free = deviation(norms, width) * normal(layer, _BACKWARD)
        along = tf.reduce_sum(product * delta, -1) - tf.reduce_sum(a * free, -1)
        gradient = free + tf.math.divide_no_nan(along, squares)[:, None] * a
        theta += norms * factor(squares, width)
        return layer - 1, mine, gradient * phi.phi_prime(h), theta

    # The readout has one output, of which delta is 1: its W^T delta is free.
    product, h = tf.unstack(signals.read(depth - 1))
    delta = deviation(tf.ones_like(squares), width) * normal(depth, _READOUT) * phi.phi_prime(h)
    *_, delta, theta = tf.while_loop(
        lambda layer, *_: layer >= 0,
        backward,
        (depth - 2, product, delta, factor(squares, width)),
        parallel_iterations=1,
    )
    return theta + tf.reduce_sum(delta * delta, -1) * factor(inputs, input_size)


# One for all calls: other depths, variances and seeds need no new trace.
_program = tf.function(_chunk_samples, autograph=False)


def _normal(seed: tf.Tensor, layer: Any, kind: int, shape: list[int]) -> tf.Tensor:
    """Standard normal numbers of one layer, the networks first."""
    salt = tf.random.experimental.stateless_fold_in(seed, 4 * layer + kind)
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
        (exponent, error): a weighted least-squares fit of the logarithm. The depths are
        independent, and so are their errors.

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
    return float(fit.x[0]), float(1 / np.linalg.norm(fit.jac[:, 0]))
