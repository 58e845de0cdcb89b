"""Singular values of a deep network's Jacobian, Gaussian against delta-orthogonal weights.

    python -m experiments.jacobian_spectrum --depth=50

A periodic convolutional tanh network on the critical line at q* = 1/depth; the input has the
variance that gives the first layer q*. Measured: all singular values of d output / d input of the
stack, by the exact Jacobian. Theory: free products of D W (section 2.2.1 of the CNN paper).
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from absl import flags, logging
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import binary, common, ranges
from experiments.curves import Rows
from mfcnn import activations, empirical, initializers, layers, meanfield

FLAGS = flags.FLAGS
KINDS = ("gaussian", "delta_orthogonal")

# The settings of the presets.
_QUICK = {"depth": 50, "channels": 64, "size": 3, "draws": 6}
_PAPER = {"channels": 256, "size": 4, "draws": 10}


def random_stack(
    kind: str,
    activation: str,
    variances: tuple[float, float],
    depth: int,
    channels: int,
    size: int,
    seed: int,
) -> keras.Model:
    """A Keras model of `depth` random periodic 3 x 3 convolutions, [size, size, channels]."""
    weight_variance, bias_variance = variances
    gain = float(np.sqrt(weight_variance))
    kernel = {
        "gaussian": lambda: initializers.ConvolutionGaussian(
            weight_variance=weight_variance, seed=seed
        ),
        "delta_orthogonal": lambda: initializers.ConvolutionDeltaOrthogonal(gain, seed=seed),
    }[kind]()
    bias = keras.initializers.RandomNormal(stddev=float(np.sqrt(bias_variance)), seed=seed + 1)
    inputs = keras.Input((size, size, channels))
    outputs = layers.DeepConvolution(
        depth,
        channels,
        3,
        activation=activation,
        kernel_initializer=kernel,
        bias_initializer=bias,
    )(inputs)
    return keras.Model(inputs, outputs)


def measure(kind: str, settings: Mapping[str, Any]) -> np.ndarray:
    """Singular values [draws, size * size * channels] of random stacks at random inputs.

    Args:
        kind: one of `KINDS`.
        settings: dict with activation, q_star, depth, channels, size, draws and seed.
    """
    activation, q_star = settings["activation"], settings["q_star"]
    depth, channels, size = (settings[name] for name in ("depth", "channels", "size"))
    weight_variance, bias_variance = map(float, meanfield.critical_point(activation, q_star))
    scale = float(np.sqrt((q_star - bias_variance) / weight_variance))
    network = kind, activation, (weight_variance, bias_variance), depth, channels, size
    values = []
    for i in range(settings["draws"]):
        seed = settings["seed"] * 100_003 + 2 * i
        model = random_stack(*network, seed)
        draws = np.random.default_rng(seed)
        x = scale * draws.standard_normal((size, size, channels)).astype(np.float32)
        values.append(empirical.jacobian_singular_values(model, x))
    return np.stack(values)


def summarize(values: np.ndarray) -> tuple[float, float, float, float]:
    """(mean, its error, variance, its error) of the squared singular values over draws."""
    squares = values**2
    means = squares.mean(axis=1)
    variances = (squares**2).mean(axis=1) - means**2
    root = np.sqrt(len(values))
    return means.mean(), means.std(ddof=1) / root, variances.mean(), variances.std(ddof=1) / root


def compare(kind: str, values: np.ndarray, settings: Mapping[str, Any]) -> Rows:
    """The row of a kind: moments of the squared singular values beside theory's; logs them."""
    activation, depth, q_star = (settings[name] for name in ("activation", "depth", "q_star"))
    weight_variance = float(meanfield.critical_point(activation, q_star)[0])
    theory = meanfield.jacobian_moments(
        activation, weight_variance, depth, q_star, kind != "gaussian"
    )
    mean, mean_error, variance, variance_error = summarize(values)
    logging.info(
        "%s: mean squared singular value %.4f +- %.4f, theory %.4f; variance %.4f +- %.4f, "
        "theory %.4f; largest %.3f, smallest %.3g",
        kind,
        mean,
        mean_error,
        theory.mean,
        variance,
        variance_error,
        theory.variance,
        values.max(),
        values.min(),
    )
    return [
        {
            "weights": kind,
            "depth": depth,
            "mean": mean,
            "mean_error": mean_error,
            "mean_theory": theory.mean,
            "variance": variance,
            "variance_error": variance_error,
            "variance_theory": theory.variance,
            "largest": values.max(),
        }
    ]


def draw(spectra: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Figure:
    """A panel for each kind, from the tables of its singular values."""
    figure, axes = common.subplots(1, 2, figsize=(10, 4))
    for axis, (kind, values) in zip(axes, spectra.items()):
        _draw_spectrum(axis, kind, values, settings)
    figure.suptitle("{activation}, {depth} layers, q* = {q_star:g}".format(**settings))
    return figure


def _draw_spectrum(axis: Axes, kind: str, values: np.ndarray, settings: Mapping[str, Any]) -> None:
    """Histogram of log10 of the singular values over the theory's density."""
    activation, depth, q_star = (settings[name] for name in ("activation", "depth", "q_star"))
    weight_variance = float(meanfield.critical_point(activation, q_star)[0])
    logs = np.log10(np.maximum(values.ravel(), 1e-12))
    # Below about 1e-6 of the largest there is only the rounding of float32.
    low, high = max(np.quantile(logs, 0.005), logs.max() - 6.0), logs.max()
    pad = 0.15 * (high - low)
    axis.hist(logs, bins=60, range=(low, high + pad), density=True, color="#9db8d9")
    # The share of the histogram's range, so that both curves have the same units.
    share = np.mean(logs >= low)
    grid = np.linspace(low, high + pad, 400)
    squares = 10.0 ** (2 * grid)
    try:
        density = meanfield.jacobian_density(
            activation, weight_variance, depth, q_star, squares, kind != "gaussian"
        )
        axis.plot(grid, density * squares * 2 * np.log(10) / share, "g--", label="theory")
        if kind != "gaussian":
            # Along the signal itself, one direction for each position and so a share 1 / c.
            slope = activations.get(activation).second_moment_slope(q_star)
            radial = depth * np.log10(weight_variance * slope)
            if low < radial < high:
                axis.axvline(radial, color="green", ls=":", label=r"$\chi_q^L$, signal's direction")
        axis.legend()
    except ValueError:  # all values equal: a line
        axis.axvline(0.5 * depth * np.log10(weight_variance), color="green", ls="--")
    axis.set(
        xlabel="log10 singular value", ylabel="density", title=kind.replace("_", "-").capitalize()
    )


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("jacobian_spectrum")
    flags.DEFINE_enum("activation", "tanh", activations.NAMES, "Activation function.")
    flags.DEFINE_float("q_star", None, "Fixed-point variance. Default: 1 / depth.", **ranges.Q_STAR)
    common.define_override("depth", "Number of layers.", lower_bound=1)
    common.define_override("channels", "Channels.", lower_bound=1)
    common.define_override("size", "Height and width of the image.", lower_bound=3)
    common.define_override("draws", "Random networks of each kind.", lower_bound=2)


def main(_: list[str]) -> None:
    """Measures, writes and draws the spectra."""
    settings = common.settings(_QUICK, _PAPER, ("activation", "q_star"))
    settings["q_star"] = settings["q_star"] or 1 / settings["depth"]
    directory = common.prepare_output_dir(settings)
    rows, spectra = [], {}
    for kind in KINDS:
        spectra[kind] = measure(kind, settings)
        rows += compare(kind, spectra[kind], settings)
        path = directory / f"singular_values_{kind}.csv"
        np.savetxt(path, spectra[kind].T, delimiter=",")
    common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(draw(spectra, settings), directory / "jacobian_spectrum.png")
    logging.info("Written to %s", directory)


if __name__ == "__main__":
    binary.start(define_flags, main)
