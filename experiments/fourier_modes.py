"""The depth scales of single Fourier modes, measured: figure S4 of the CNN paper.

    python -m experiments.fourier_modes

The set-up is the paper's: erf, sigma_w = 3/2, sigma_b = 1/2, n = 10, v = [0.025, 0.95, 0.025]. The
input covariance deviates from the fixed point in the first cyclic diagonal only, by the given
Fourier coefficients (of numpy's unnormalized transform). An ensemble of random networks of c
channels is averaged. Given layer l, the channels of layer l + 1 of a network with Gaussian weights
are independent normal vectors with covariance A_v * (sigma_w^2 phi phi^T / c) + sigma_b^2: drawing
them from that law is drawing a random network, without its c^2 weights. Each network has a twin
that starts at Sigma^* and gets the same normal numbers; epsilon is the twin's empirical covariance
less the network's. It has the expectation of Sigma^* - Sigma up to terms of order 1 / c, and its
noise shrinks with epsilon, so that small modes can be seen.

At the paper's amplitude the map itself is not yet linear (mode 3 decays 27 % too slowly at layer 0,
5 % at layer 20): slopes are fitted there from layer 20 on, and a second ensemble at a hundredth of
the amplitude gives the slopes of the linear regime.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags, logging
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import binary, common
from experiments.curves import Rows, column, curves_of
from mfcnn import activations, meanfield

FLAGS = flags.FLAGS

ACTIVATION, WEIGHT_VARIANCE, BIAS_VARIANCE, SIZE = "erf", 2.25, 0.25, 10
PROFILE = np.array([0.025, 0.95, 0.025])
# epsilon^0 = Sigma^* - Sigma^0 in the first cyclic diagonal, by Fourier coefficients.
START = -(np.array([2 / 3] * SIZE) ** [0, 1, 3, 5, 4, 2, 4, 5, 3, 1]) / 6
_NETWORK = (ACTIVATION, WEIGHT_VARIANCE, BIAS_VARIANCE, PROFILE)
# The first layer of the fit for each amplitude of the start.
_FIRST_LAYERS = {1.0: 20, 0.01: 2}

# The settings of the presets.
_QUICK = {"channels": 1000, "networks": 600, "depth": 40}
_PAPER = {"channels": 2000, "networks": 4000, "depth": 50}


def _fixed_covariance(point: meanfield.FixedPoint) -> np.ndarray:
    """Sigma^* [n, n]."""
    return meanfield.fixed_point_covariance(point, (SIZE,)).reshape(SIZE, SIZE)


def start_covariance(point: meanfield.FixedPoint, amplitude: float = 1.0) -> np.ndarray:
    """Sigma^0 [n, n]: the fixed point, less amplitude * epsilon^0 on the cyclic diagonals 1, -1."""
    covariance = _fixed_covariance(point)
    diagonal = amplitude * np.real(np.fft.ifft(START))
    for i in range(SIZE):
        j = (i + 1) % SIZE
        covariance[i, j] -= diagonal[i]
        covariance[j, i] -= diagonal[i]
    return covariance


def modes_of(difference: np.ndarray) -> np.ndarray:
    """Fourier coefficients of the first cyclic diagonal of [..., n, n]."""
    index = np.arange(SIZE)
    return np.fft.fft(difference[..., index, (index + 1) % SIZE])


@tf.function(autograph=False)
def _differences(
    phi: Callable,
    factors: tf.Tensor,
    channels: int,
    networks: int,
    depth: tf.Tensor,
    seed: tf.Tensor,
) -> tf.Tensor:
    """Twin's empirical covariance less the network's, [depth + 1, networks, n, n].

    `factors` [2, 1, n, n] are square roots of Sigma^0 and Sigma^*.
    """
    shape = [networks, SIZE, channels]

    def normal(index: tf.Tensor | int) -> tf.Tensor:
        return tf.random.stateless_normal(shape, [seed, index], dtype=tf.float64)

    def gram(h: tf.Tensor) -> tf.Tensor:
        return tf.matmul(h, h, transpose_b=True) / channels

    def layer(index: tf.Tensor, h: tf.Tensor, history: tf.TensorArray) -> tuple[Any, ...]:
        second = WEIGHT_VARIANCE * gram(phi(h)) + BIAS_VARIANCE
        mixed = tf.add_n(
            [v * tf.roll(second, [1 - i, 1 - i], [2, 3]) for i, v in enumerate(PROFILE)]
        )
        h = tf.linalg.cholesky(mixed) @ normal(index + 1)
        return index + 1, h, history.write(index + 1, difference(h))

    def difference(h: tf.Tensor) -> tf.Tensor:
        covariances = gram(h)
        return covariances[1] - covariances[0]

    h = factors @ normal(0)
    history = tf.TensorArray(tf.float64, depth + 1).write(0, difference(h))
    return tf.while_loop(lambda i, *_: i < depth, layer, (0, h, history))[2].stack()


def ensemble(
    point: meanfield.FixedPoint,
    channels: int,
    networks: int,
    depth: int,
    seed: int,
    amplitude: float = 1.0,
    batch: int = 20,
) -> np.ndarray:
    """Fourier coefficients [networks, depth + 1, n] of epsilon in single networks, complex128."""
    starts = np.stack([start_covariance(point, amplitude), _fixed_covariance(point)])
    factors = tf.constant(np.linalg.cholesky(starts[:, None]))
    phi = activations.get(ACTIVATION).phi
    parts = []
    for i in range(0, networks, batch):
        # Always whole batches: one traced function, and networks that don't depend on the count.
        values = _differences(
            phi, factors, channels, batch, tf.constant(depth), tf.constant(seed * 100_003 + i)
        )
        parts.append(np.swapaxes(modes_of(values.numpy()), 0, 1))
    return np.concatenate(parts)[:networks]


def iterated_modes(point: meanfield.FixedPoint, depth: int, amplitude: float) -> np.ndarray:
    """Fourier coefficients [depth + 1, n] of epsilon by the covariance map itself."""
    start = start_covariance(point, amplitude).reshape(1, SIZE, 1, SIZE)
    exact = np.asarray(meanfield.covariance_trajectory(start, *_NETWORK, depth))
    return modes_of(_fixed_covariance(point) - exact.reshape(-1, SIZE, SIZE)).real


def mean_and_error(coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Real parts over the networks: (mean, standard error), [depth + 1, n] each."""
    error = coefficients.real.std(axis=0, ddof=1) / np.sqrt(len(coefficients))
    return coefficients.mean(axis=0).real, error


def slopes(
    coefficients: np.ndarray, first: int, signal: float = 10.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decay rate of each mode by a weighted fit of log |coefficient| over depth.

    The fit takes the layers from `first` on, when transients are over, up to the last in which the
    mean is `signal` standard errors from zero. Its error comes from leaving out a tenth of the
    networks at a time (jackknife).

    Args:
        coefficients: complex [networks, depth + 1, n].
        first: the first layer of the fit.
        signal: least ratio of mean and standard error.

    Returns:
        (slope, standard_error, layers used), each [n]; NaN for a mode that the noise hides in all
        but two of these layers.
    """
    mean, error = mean_and_error(coefficients)
    used = np.cumprod(np.abs(mean) > signal * error, axis=0).astype(bool)
    used[:first] = False
    weight = used.astype(np.float64)
    weight[:, used.sum(axis=0) < 3] = np.nan
    depth = np.arange(len(mean))[:, None]

    def fit(values: np.ndarray) -> np.ndarray:
        log = np.log(np.maximum(np.abs(values), 1e-300))
        centre = np.sum(weight * depth, axis=0) / np.sum(weight, axis=0)
        return np.sum(weight * (depth - centre) * log, axis=0) / np.sum(
            weight * (depth - centre) ** 2, axis=0
        )

    groups = np.array_split(np.arange(len(coefficients)), 10)
    replicas = np.stack(
        [fit(np.delete(coefficients, group, axis=0).mean(axis=0).real) for group in groups]
    )
    spread = np.sqrt(0.9 * np.sum((replicas - replicas.mean(axis=0)) ** 2, axis=0))
    return fit(mean), spread, used.sum(axis=0)


def measure(settings: Mapping[str, Any]) -> Rows:
    """Rows of amplitude, mode and layer: measured, linear and iterated coefficients."""
    point = meanfield.fixed_point(ACTIVATION, WEIGHT_VARIANCE, BIAS_VARIANCE)
    scales = meanfield.mode_depth_scales(*_NETWORK, SIZE)
    channels, networks, depth, seed = (
        settings[name] for name in ("channels", "networks", "depth", "seed")
    )
    layers = np.arange(depth + 1)
    rows = []
    for amplitude in _FIRST_LAYERS:
        coefficients = ensemble(point, channels, networks, depth, seed, amplitude)
        iterated = iterated_modes(point, depth, amplitude)
        mean, error = mean_and_error(coefficients)
        report(amplitude, coefficients, scales, (mean - iterated) / error)
        for k in range(SIZE // 2 + 1):
            linear = START[k] * amplitude * np.exp(-layers / scales[k])
            rows += [
                {"amplitude": amplitude, "mode": k, "layer": int(i), "measured": mean[i, k]}
                | {"standard_error": error[i, k], "linear": linear[i], "iterated": iterated[i, k]}
                for i in layers
            ]
    return rows


def report(
    amplitude: float, coefficients: np.ndarray, scales: np.ndarray, deviations: np.ndarray
) -> float:
    """Logs each mode's slope beside theory, and returns the worst relative deviation."""
    slope, slope_error, used = slopes(coefficients, _FIRST_LAYERS[amplitude])
    expected = -1 / scales
    for k in range(SIZE // 2 + 1):
        logging.info(
            "amplitude %g, mode %d: slope %.5f +- %.5f over %d layers, theory %.5f (%+.2f%%)",
            amplitude,
            k,
            slope[k],
            slope_error[k],
            used[k],
            expected[k],
            100 * (slope[k] / expected[k] - 1),
        )
    hidden = np.flatnonzero(np.isnan(slope[: SIZE // 2 + 1])).tolist()
    if hidden:
        logging.warning("The noise hides the modes %s: more networks are needed.", hidden)
    worst = np.max(np.abs(slope / expected - 1), where=~np.isnan(slope), initial=0.0)
    logging.info(
        "amplitude %g: worst relative deviation of a slope %.3g; of a coefficient from the "
        "iterated map %.2f standard errors; %d networks",
        amplitude,
        worst,
        np.max(np.abs(deviations)),
        len(coefficients),
    )
    return worst


def draw(rows: Rows, settings: Mapping[str, Any]) -> Figure:
    """Figure S4, a panel for each amplitude."""
    figure, axes = common.subplots(1, 2, figsize=(11, 4.6))
    for axis, ((amplitude,), mine) in zip(axes, curves_of(rows, "amplitude").items()):
        for (mode,), curve in curves_of(mine, "mode").items():
            _draw_mode(axis, curve, _FIRST_LAYERS[amplitude], f"C{mode:.0f}")
        axis.plot([], [], color="black", lw=0.8, label="covariance map, iterated")
        axis.plot([], [], "--", color="green", lw=1.2, label="linear theory, slope")
        axis.set(yscale="log", xlabel="layer", ylabel="|Fourier coefficient|")
        axis.set(ylim=(2e-5 * amplitude, 0.4 * amplitude))
        axis.set(title=f"the paper's amplitude times {amplitude:g}")
    axes[0].legend(fontsize=8, loc="lower left")
    figure.suptitle(f"erf, n = {SIZE}, c = {settings['channels']}, {settings['networks']} networks")
    return figure


def _draw_mode(axis: Axes, curve: Rows, first: int, color: str) -> None:
    layers, measured, error, linear, iterated = (
        np.abs(column(curve, name))
        for name in ("layer", "measured", "standard_error", "linear", "iterated")
    )
    seen = np.cumprod(measured > 2 * error).astype(bool)  # above the noise
    label = f"mode {curve[0]['mode']:.0f}"
    look: dict[str, Any] = {"color": color, "lw": 3, "alpha": 0.5, "label": label}
    axis.errorbar(layers[seen], measured[seen], error[seen], **look)
    axis.plot(layers, iterated, color="black", lw=0.8)
    # From where the fit starts, as linear theory gives the slope only.
    line = linear * iterated[first] / linear[first]
    axis.plot(layers[first:], line[first:], "--", color="green", lw=1.2)


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("fourier_modes")
    common.define_override("channels", "Channels c.", lower_bound=2)
    common.define_override("networks", "Random networks in the ensemble.", lower_bound=2)
    common.define_override("depth", "Layers to follow.", lower_bound=2)


def main(_: list[str]) -> None:
    """Measures, writes and draws figure S4."""
    settings = common.settings(_QUICK, _PAPER)
    directory = common.prepare_output_dir(settings)
    rows = measure(settings)
    common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(draw(rows, settings), directory / "fourier_modes.png")
    logging.info("Written to %s", directory)


if __name__ == "__main__":
    binary.start(define_flags, main)
