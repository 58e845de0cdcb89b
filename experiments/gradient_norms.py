"""Vanishing and exploding gradients across the phase transition: figure S2 of the CNN paper.

    python -m experiments.gradient_norms --channels=256

A random 1D convolutional network h^1 = W^1 x + b, h^(l+1) = W^(l+1) phi(h^l) + b with periodic
padding. The gradient is that of g . h^L with respect to the weights W^l, with g ~ N(0, 1) for every
position and channel: its mean square over g is the squared Frobenius norm of d h^L / d W^l. The
input's channels are i.i.d. normal with a random spatial covariance. Each draw has fresh weights,
input and g; no weight is kept, so that 2,000 channels fit into memory.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags, logging
from matplotlib.figure import Figure
from scipy import stats

from experiments import binary, common, ranges
from experiments.curves import Rows, column, curves_of
from mfcnn import activations, meanfield

FLAGS = flags.FLAGS

KERNEL_SIZE = 3

# The settings of the presets.
_QUICK = {"depth": 100, "channels": 128, "draws": 60, "size": 10}
_PAPER = {"channels": 2000, "draws": 10}


def input_factor(size: int, seed: int) -> np.ndarray:
    """Square root [size, size] of a random spatial covariance whose mean variance is one."""
    matrix = np.random.default_rng(seed).standard_normal((size, size))
    return matrix / np.sqrt(np.mean(np.sum(matrix**2, axis=1)))


@tf.function(autograph=False)
def squared_gradient_norms(
    phi: Callable,
    phi_prime: Callable,
    scales: tf.Tensor,
    depth: tf.Tensor,
    factor: tf.Tensor,
    channels: int,
    seed: tf.Tensor,
) -> tf.Tensor:
    """Squared norms of d (g . h^L) / d W^l for one random network.

    Args:
        phi: the activation.
        phi_prime: its derivative.
        scales: float32 [2], sqrt of weight and bias variance.
        depth: int32 [], number of layers L.
        factor: float32 [n, n], square root of the input's spatial covariance.
        channels: their number.
        seed: int32 [], of all random numbers.

    Returns:
        float32 [depth]: log of the squared norm of layer l at entry l - 1.
    """
    size = factor.shape[0]
    offsets = range(-(KERNEL_SIZE // 2), KERNEL_SIZE // 2 + 1)
    fan_in = KERNEL_SIZE * channels

    def weights(layer: tf.Tensor) -> tf.Tensor:
        w = tf.random.stateless_normal([fan_in, channels], [seed, 2 * layer])
        return w * (scales[0] / tf.sqrt(float(fan_in)))

    def patches(x: tf.Tensor) -> tf.Tensor:
        return tf.concat([tf.roll(x, -offset, 0) for offset in offsets], axis=1)

    def forward(layer: tf.Tensor, x: tf.Tensor, history: tf.TensorArray) -> tuple[Any, ...]:
        bias = scales[1] * tf.random.stateless_normal([channels], [seed, 2 * layer + 1])
        h = patches(x) @ weights(layer) + bias
        return layer + 1, phi(h), history.write(layer, h)

    x = tf.linalg.matmul(factor, tf.random.stateless_normal([size, channels], [seed, -1]))
    history = tf.TensorArray(tf.float32, depth, element_shape=[size, channels])
    _, _, history = tf.while_loop(lambda i, *_: i < depth, forward, (0, x, history))
    h = history.stack()
    inputs = tf.concat([x[None], phi(h[:-1])], axis=0)

    def backward(
        layer: tf.Tensor, delta: tf.Tensor, scale: tf.Tensor, norms: tf.TensorArray
    ) -> tuple[Any, ...]:
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


def log_norms(
    activation: str,
    weight_variance: float,
    bias_variance: float,
    depth: int,
    factor: np.ndarray,
    channels: int,
    draws: int,
    seed: int,
) -> np.ndarray:
    """Log squared gradient norms [draws, depth] of random networks."""
    form = activations.get(activation)
    scales = tf.constant(np.sqrt([weight_variance, bias_variance]), tf.float32)
    return np.stack(
        [
            squared_gradient_norms(
                form.phi,
                form.phi_prime,
                scales,
                tf.constant(depth),
                tf.constant(factor, tf.float32),
                channels,
                tf.constant(seed * 100_003 + i, tf.int32),
            ).numpy()
            for i in range(draws)
        ]
    ).astype(np.float64)


def compare(measured: np.ndarray, theory: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of the measured relative norms, its standard error, and theory, for each layer.

    The last layer's squared norm averages over draws too: numerator and denominator are means, and
    the error is that of their quotient (delta method).

    Args:
        measured: log of the squared norms, float64 [draws, depth].
        theory: log of the predicted squared norms [depth], up to a constant.

    Returns:
        (mean, standard_error, predicted), each float64 [depth]; relative to the last layer.
    """
    # Each layer relative to its prediction, so that exp stays within range.
    relative = np.exp(measured - measured[:, -1:].mean() - (theory - theory[-1]))
    last = relative[:, -1:]
    ratio = relative.mean(axis=0) / last.mean()
    residual = (relative - ratio * last) / last.mean()
    error = residual.std(axis=0, ddof=1) / np.sqrt(len(measured))
    predicted = np.exp(theory - theory[-1])
    return ratio * predicted, error * predicted, predicted


def measure(settings: Mapping[str, Any]) -> Rows:
    """Rows of weight variance and layer: measured and predicted, relative to the last layer."""
    activation, bias_variance, depth = (
        settings[name] for name in ("activation", "bias_variance", "depth")
    )
    factor = input_factor(settings["size"], settings["seed"])
    inputs, profile = np.sum(factor**2, axis=1), np.full(KERNEL_SIZE, 1 / KERNEL_SIZE)
    sizes = [settings[name] for name in ("channels", "draws", "seed")]
    rows = []
    for w in settings["weight_variances"]:
        network = activation, w, bias_variance, depth
        theory = meanfield.log_gradient_norms(*network, inputs, profile, settings["size"])
        compared = compare(log_norms(*network, factor, *sizes), theory)
        report(w, *compared, settings)
        rows += [
            {"weight_variance": w, "layer": layer, "measured": measured}
            | {"standard_error": error, "predicted": predicted}
            for layer, (measured, error, predicted) in enumerate(zip(*compared), 1)
        ]
    return rows


def report(
    weight_variance: float,
    mean: np.ndarray,
    error: np.ndarray,
    predicted: np.ndarray,
    settings: Mapping[str, Any],
) -> None:
    """Logs the worst deviation of a layer beside what chance allows."""
    # The largest of all deviations, taken as independent, with errors from so few draws.
    comparisons = (len(mean) - 1) * len(settings["weight_variances"])
    bound = stats.t.ppf(1 - 0.025 / comparisons, settings["draws"] - 1)
    logging.info(
        "weight variance %.4g: worst deviation %.2f standard errors (95 %% of all runs: below "
        "%.2f); first layer %.4g +- %.2g of the last, predicted %.4g; %d draws of %d channels",
        weight_variance,
        np.max(np.abs((mean - predicted)[:-1] / error[:-1])),
        bound,
        mean[0],
        error[0],
        predicted[0],
        settings["draws"],
        settings["channels"],
    )


def draw(rows: Rows, settings: Mapping[str, Any]) -> Figure:
    """Figure S2: from vanishing (blue) to exploding gradients (red)."""
    figure, axis = common.subplots(figsize=(7, 5))
    curves = curves_of(rows, "weight_variance")
    for shade, ((w,), curve) in zip(np.linspace(0, 1, len(curves)), curves.items()):
        layers, color = column(curve, "layer"), (shade, 0.2, 1 - shade)
        axis.semilogy(
            layers, column(curve, "measured"), color=color, label=f"$\\sigma_w^2$ = {w:g}"
        )
        axis.semilogy(layers, column(curve, "predicted"), "--", color="green", lw=1)
    axis.semilogy([], [], "--", color="green", lw=1, label="theory")
    axis.set(xlabel="layer", ylabel="squared gradient norm, relative to the last layer")
    axis.set(title="{activation}, L = {depth}, c = {channels}".format(**settings))
    axis.legend()
    return figure


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("gradient_norms")
    flags.DEFINE_enum("activation", "tanh", activations.NAMES, "Activation function.")
    flags.DEFINE_float("bias_variance", 0.05, "sigma_b^2.", **ranges.VARIANCE)
    common.define_numbers(
        "weight_variances",
        ["1.0", "1.5", "1.76095", "2.75", "4.25"],
        "Values of sigma_w^2.",
        **ranges.POSITIVE_VARIANCE,
    )
    common.define_override("depth", "Number of layers L.", lower_bound=2)
    common.define_override("channels", "Channels c.", lower_bound=2)
    common.define_override("draws", "Random networks for each weight variance.", lower_bound=2)
    common.define_override("size", "Spatial size n.", lower_bound=3)


def main(_: list[str]) -> None:
    """Measures, writes and draws figure S2."""
    settings = common.settings(_QUICK, _PAPER, ("activation", "bias_variance", "weight_variances"))
    settings["weight_variances"] = [float(w) for w in settings["weight_variances"]]
    directory = common.prepare_output_dir(settings)
    rows = measure(settings)
    common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(draw(rows, settings), directory / "gradient_norms.png")
    logging.info("Written to %s", directory)


if __name__ == "__main__":
    binary.start(define_flags, main)
