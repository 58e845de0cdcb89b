"""Vanishing and exploding gradients across the phase transition: figure S2 of the CNN paper.

    python -m experiments.gradient_norms --channels=256

A random 1D convolutional network h^1 = W^1 x + b, h^(l+1) = W^(l+1) phi(h^l) + b with periodic
padding. The gradient is that of g . h^L with respect to the weights W^l, with g ~ N(0, 1) for every
position and channel: its mean square over g is the squared Frobenius norm of d h^L / d W^l. The
input's channels are i.i.d. normal with a random spatial covariance. Each draw has fresh weights,
input and g; no weight is kept, so that 2,000 channels fit into memory.
"""

import numpy as np
import tensorflow as tf
from absl import flags, logging
from scipy import stats

from experiments import binary, common
from mfcnn import activations, meanfield

FLAGS = flags.FLAGS

KERNEL_SIZE = 3


def input_factor(size, seed):
    """Square root [size, size] of a random spatial covariance whose mean variance is one."""
    matrix = np.random.default_rng(seed).standard_normal((size, size))
    return matrix / np.sqrt(np.mean(np.sum(matrix**2, axis=1)))


@tf.function(autograph=False)
def squared_gradient_norms(phi, phi_prime, scales, depth, factor, channels, seed):
    """Squared norms of d (g . h^L) / d W^l for one random network.

    Args:
      phi: the activation, a Python callable.
      phi_prime: its derivative.
      scales: float32 [2], sqrt of weight and bias variance.
      depth: number of layers L, a tensor or an int.
      factor: float32 [n, n], square root of the input's spatial covariance.
      channels: number of channels, an int.
      seed: int32 [], of all random numbers.

    Returns:
      float32 [depth]: log of the squared norm of layer l at entry l - 1.
    """
    size = factor.shape[0]
    offsets = range(-(KERNEL_SIZE // 2), KERNEL_SIZE // 2 + 1)
    fan_in = KERNEL_SIZE * channels

    def weights(layer):
        w = tf.random.stateless_normal([fan_in, channels], [seed, 2 * layer])
        return w * (scales[0] / tf.sqrt(float(fan_in)))

    def patches(x):
        return tf.concat([tf.roll(x, -offset, 0) for offset in offsets], axis=1)

    def forward(layer, x, history):
        bias = scales[1] * tf.random.stateless_normal([channels], [seed, 2 * layer + 1])
        h = patches(x) @ weights(layer) + bias
        return layer + 1, phi(h), history.write(layer, h)

    x = tf.linalg.matmul(factor, tf.random.stateless_normal([size, channels], [seed, -1]))
    history = tf.TensorArray(tf.float32, depth, element_shape=[size, channels])
    _, _, history = tf.while_loop(lambda i, *_: i < depth, forward, (0, x, history))
    h = history.stack()
    inputs = tf.concat([x[None], phi(h[:-1])], axis=0)

    def backward(layer, delta, scale, norms):
        seen = patches(inputs[layer])
        # |seen^T delta|^2 without the gradient itself, which has as many entries as W.
        square = tf.reduce_sum((seen @ tf.transpose(seen)) * (delta @ tf.transpose(delta)))
        norms = norms.write(layer, tf.math.log(square) + scale)
        pulled = tf.split(delta @ tf.transpose(weights(layer)), KERNEL_SIZE, axis=1)
        delta = tf.add_n([tf.roll(p, offset, 0) for p, offset in zip(pulled, offsets)])
        delta *= phi_prime(h[tf.maximum(layer - 1, 0)])
        # In float32 a gradient that vanishes or explodes must be carried as mantissa and exponent.
        size_squared = tf.reduce_mean(delta**2)
        delta /= tf.sqrt(size_squared)
        return layer - 1, delta, scale + tf.math.log(size_squared), norms

    delta = tf.random.stateless_normal([size, channels], [seed, -2])
    norms = tf.TensorArray(tf.float32, depth, element_shape=[])
    state = (depth - 1, delta, tf.constant(0.0), norms)
    return tf.while_loop(lambda i, *_: i >= 0, backward, state)[3].stack()


def measure(activation, weight_variance, bias_variance, depth, factor, channels, draws, seed):
    """Log squared gradient norms [draws, depth] of random networks."""
    activation = activations.get(activation)
    scales = tf.constant(np.sqrt([weight_variance, bias_variance]), tf.float32)
    return np.stack(
        [
            squared_gradient_norms(
                activation.phi,
                activation.phi_prime,
                scales,
                tf.constant(depth),
                tf.constant(factor, tf.float32),
                channels,
                tf.constant(seed * 100_003 + i, tf.int32),
            ).numpy()
            for i in range(draws)
        ]
    ).astype(np.float64)


def compare(log_norms, theory):
    """Mean of the measured relative norms, its standard error, and theory, for each layer.

    The last layer's squared norm averages over draws too: numerator and denominator are means, and
    the error is that of their quotient (delta method).

    Args:
      log_norms: float64 [draws, depth].
      theory: log of the predicted squared norms [depth], up to a constant.

    Returns:
      (mean, standard_error, predicted), each float64 [depth]; relative to the last layer.
    """
    # Each layer relative to its prediction, so that exp stays within range.
    relative = np.exp(log_norms - log_norms[:, -1:].mean() - (theory - theory[-1]))
    last = relative[:, -1:]
    ratio = relative.mean(axis=0) / last.mean()
    residual = (relative - ratio * last) / last.mean()
    error = residual.std(axis=0, ddof=1) / np.sqrt(len(log_norms))
    predicted = np.exp(theory - theory[-1])
    return ratio * predicted, error * predicted, predicted


# The settings of the presets.
_QUICK = {"depth": 100, "channels": 128, "draws": 60, "size": 10}
_PAPER = {"channels": 2000, "draws": 10}


def main(_: list[str]) -> None:
    """Measures, writes and draws figure S2."""
    settings = common.settings(quick=_QUICK, paper=_PAPER)
    settings["activation"] = FLAGS.activation
    settings["bias_variance"] = FLAGS.bias_variance
    settings["weight_variances"] = [float(w) for w in FLAGS.weight_variances]
    directory = common.prepare_output_dir(settings)
    depth, size = settings["depth"], settings["size"]
    factor = input_factor(size, settings["seed"])
    inputs = np.sum(factor**2, axis=1)
    figure, axis = common.subplots(figsize=(7, 5))
    rows, layers = [], np.arange(1, depth + 1)
    # The largest of all deviations, taken as independent, with errors from so few draws.
    comparisons = (depth - 1) * len(settings["weight_variances"])
    bound = stats.t.ppf(1 - 0.025 / comparisons, settings["draws"] - 1)
    shades = np.linspace(0, 1, len(settings["weight_variances"]))
    for shade, w in zip(shades, settings["weight_variances"]):
        arguments = (settings["activation"], w, settings["bias_variance"], depth)
        theory = meanfield.log_gradient_norms(
            *arguments, inputs, np.full(KERNEL_SIZE, 1 / KERNEL_SIZE), size
        )
        log_norms = measure(
            *arguments, factor, settings["channels"], settings["draws"], settings["seed"]
        )
        mean, error, predicted = compare(log_norms, theory)
        deviation = (mean - predicted)[:-1] / error[:-1]
        logging.info(
            "weight variance %.4g: worst deviation %.2f standard errors (95 %% of all runs: below "
            "%.2f); first layer %.4g +- %.2g of the last, predicted %.4g; %d draws of %d channels",
            w,
            np.max(np.abs(deviation)),
            bound,
            mean[0],
            error[0],
            predicted[0],
            settings["draws"],
            settings["channels"],
        )
        axis.semilogy(layers, mean, color=(shade, 0.2, 1 - shade), label=f"$\\sigma_w^2$ = {w:g}")
        axis.semilogy(layers, predicted, "--", color="green", lw=1)
        for i, layer in enumerate(layers):
            rows.append(
                {"weight_variance": w, "layer": int(layer), "measured": mean[i]}
                | {"standard_error": error[i], "predicted": predicted[i]}
            )
    axis.semilogy([], [], "--", color="green", lw=1, label="theory")
    axis.set(xlabel="layer", ylabel="squared gradient norm, relative to the last layer")
    axis.set(title=f"{settings['activation']}, L = {depth}, c = {settings['channels']}")
    axis.legend()
    common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(figure, directory / "gradient_norms.png")
    logging.info("Written to %s", directory)


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("gradient_norms")
    flags.DEFINE_enum("activation", "tanh", activations.NAMES, "Activation function.")
    flags.DEFINE_float("bias_variance", 0.05, "sigma_b^2.", lower_bound=0)
    common.define_numbers(
        "weight_variances",
        ["1.0", "1.5", "1.76095", "2.75", "4.25"],
        "Values of sigma_w^2.",
        above=0,
    )
    common.define_override("depth", "Number of layers L.", lower_bound=2)
    common.define_override("channels", "Channels c.", lower_bound=2)
    common.define_override("draws", "Random networks for each weight variance.", lower_bound=2)
    common.define_override("size", "Spatial size n.", lower_bound=3)


if __name__ == "__main__":
    binary.start(define_flags, main)
