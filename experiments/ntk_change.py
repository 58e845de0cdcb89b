"""Change of the tangent kernel in training: Figures 3, 4 and 8 to 11 of the finite-width paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.ntk_change --dataset=mnist

Networks of several depths and weight variances are trained by full-batch gradient descent on the
mean over examples of half the squared error, from Gaussian weights in the standard
parameterization. Shown are |Theta_t - Theta_0|_F / |Theta_0|_F after given numbers of steps and in
the end, and the least loss.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from experiments import binary, common, maps, ranges, sweep
from experiments.curves import Rows
from mfcnn import activations, data, empirical

FLAGS = flags.FLAGS

_PATIENCE, _LEAST_DECREASE = 100, 1e-7

# The settings of the presets.
_QUICK = {
    "widths": ["32", "128"],
    "depths": ["2", "5", "10"],
    "grid": 5,
    "examples": 32,
    "max_steps": 10_000,
}
_PAPER = {
    "widths": ["128", "256", "512"],
    "depths": [str(d) for d in range(2, 31, 4)],
    "grid": 10,
    "examples": 128,
    "max_steps": 100_000,
}


def network(
    input_size: int,
    classes: int,
    width: int,
    depth: int,
    activation: str,
    weight_variance: float,
    bias_variance: float,
    seed: int,
) -> keras.Model:
    """A fully connected network in the standard parameterization."""
    seeds = iter(np.random.SeedSequence(seed).generate_state(2 * depth + 2).tolist())

    def dense(units: int, fan_in: int, phi: Callable | None = None) -> keras.layers.Dense:
        def normal(variance: float) -> keras.initializers.Initializer:
            return keras.initializers.RandomNormal(stddev=variance**0.5, seed=next(seeds))

        return keras.layers.Dense(
            units,
            phi,
            kernel_initializer=normal(weight_variance / fan_in),
            bias_initializer=normal(bias_variance),
        )

    phi = activations.get(activation).phi
    hidden = [dense(width, input_size if i == 0 else width, phi) for i in range(depth)]
    return keras.Sequential([keras.Input((input_size,)), *hidden, dense(classes, width)])


def track(
    model: keras.Model, x: np.ndarray, targets: np.ndarray, learning_rate: float, max_steps: int
) -> Rows:
    """Trains until the loss stands still, with the kernel at 10, 100, ... steps and at the end.

    Early stopping: 100 steps in a row without a decrease of the least loss by 1e-7.

    Args:
        model: a network; its weights are changed.
        x: inputs [n, d], float32.
        targets: [n, k], float32.
        learning_rate: of gradient descent.
        max_steps: the largest number of steps.

    Returns:
        A list of dicts: steps, change (relative, Frobenius), loss, least_loss, stopped (1 if
        training ended there, else 0).
    """
    x, targets = tf.constant(x, tf.float32), tf.constant(targets, tf.float32)
    variables = [v.value for v in model.trainable_variables]

    def body(
        step: tf.Tensor, best: tf.Tensor, since: tf.Tensor, loss: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(x) - targets)) / (2 * len(x))
        for v, g in zip(variables, tape.gradient(loss, variables)):
            v.assign_sub(learning_rate * g)
        better = loss < best - _LEAST_DECREASE
        return step + 1, tf.minimum(best, loss), tf.where(better, 0, since + 1), loss

    @tf.function(autograph=False)
    def advance(
        step: tf.Tensor, best: tf.Tensor, since: tf.Tensor, loss: tf.Tensor, stop: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        def going(step: tf.Tensor, best: tf.Tensor, since: tf.Tensor, loss: tf.Tensor) -> tf.Tensor:
            del best
            enough = since >= _PATIENCE
            return (step < stop) & ~enough & tf.math.is_finite(loss)

        return tf.while_loop(going, body, (step, best, since, loss))

    start = empirical.ntk(model, x)
    state = (tf.constant(0), tf.constant(3e38), tf.constant(0), tf.constant(0.0))
    rows, stop = [], 10
    while True:
        target = min(stop, max_steps)
        state = advance(*state, tf.constant(target))
        steps, best, since, loss = (float(s) for s in state)
        stopped = steps < target or since >= _PATIENCE or steps == max_steps
        change = float(tf.norm(empirical.ntk(model, x) - start) / tf.norm(start))
        rows.append(
            {
                "steps": int(steps),
                "change": change,
                "loss": loss,
                "least_loss": best,
                "stopped": int(stopped),
            }
        )
        if stopped:
            return rows
        stop *= 10


def load(settings: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [n, d] of unit second moment, and one-hot targets [n, 10].

    So q of the first layer is weight_variance + bias_variance.
    """
    name, seed = settings["dataset"], settings["seed"]
    images, labels = data.load_arrays(name, "train", settings["examples"], seed)
    x = images.reshape(len(images), -1)
    x = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True))
    return x, np.eye(10, dtype="float32")[labels]


def measure(
    settings: Mapping[str, Any],
    examples: tuple[np.ndarray, np.ndarray],
    point: sweep.Point,
    folder: pathlib.Path,
) -> Rows:
    """The rows of one network."""
    del folder  # a network is trained in one go
    keras.backend.clear_session()
    start = {name: settings[name] for name in ("activation", "bias_variance", "seed")}
    model = network(examples[0].shape[1], 10, **point, **start)
    tracked = track(model, *examples, settings["learning_rate"], settings["max_steps"])
    return [{"checkpoint": 10**i} | row for i, row in enumerate(tracked, 1)]


def draw(rows: Rows, critical: float) -> Figure:
    """A row of maps for each width: the change after 10, 100, ... steps and in the end, the loss.

    A network whose training has ended keeps its last kernel in the later maps.
    """
    widths, depths, variances = (
        sorted({r[name] for r in rows}) for name in ("width", "depth", "weight_variance")
    )
    steps = sorted({r["checkpoint"] for r in rows if not r["stopped"]})
    panels = {f"{n:.0f} steps": (n, "change") for n in steps}
    panels |= {"end of training": (np.inf, "change"), "least loss": (np.inf, "least_loss")}
    figure, axes = common.subplots(
        len(widths), len(panels), figsize=(2.7 * len(panels), 2.5 * len(widths)), squeeze=False
    )
    # One scale for all maps of a quantity, so that steps and widths can be compared.
    norms: dict[str, Any] = {}
    for quantity in ("change", "least_loss"):
        values = np.array([r[quantity] for r in rows])
        values = values[np.isfinite(values) & (values > 0)]
        norms[quantity] = LogNorm(max(values.min(initial=1), 1e-4), values.max(initial=1))
    for line, width in zip(axes, widths):
        for axis, (title, (checkpoint, quantity)) in zip(line, panels.items()):
            mine = [r for r in rows if r["width"] == width and r["checkpoint"] <= checkpoint]
            _, _, values = maps.table(mine, quantity, xs=variances, ys=depths)
            values = np.maximum(values, norms[quantity].vmin)
            shown = axis.pcolormesh(
                variances, range(len(depths)), values, norm=norms[quantity], cmap="viridis"
            )
            axis.axvline(critical, color="w", ls="--")
            axis.set_yticks(range(len(depths)), [f"{d:.0f}" for d in depths])
            axis.grid(False)
            axis.set_title(f"width {width:.0f}, {title}", fontsize=9)
            if width == widths[-1]:
                axis.set_xlabel("weight variance")
            if quantity == "least_loss" or checkpoint == np.inf:
                label = "loss" if quantity == "least_loss" else "relative change"
                figure.colorbar(shown, ax=axis, label=label)
        line[0].set_ylabel("hidden layers")
    return figure


def define_flags() -> None:
    """Defines the flags of this binary."""
    sweep.define_flags("ntk_change")
    flags.DEFINE_enum("dataset", "digits", data.NAMES, "Data set.")
    flags.DEFINE_enum("activation", "tanh", ["tanh", "relu", "erf"], "Activation.")
    flags.DEFINE_float("bias_variance", 1.0, "sigma_b^2.", **ranges.VARIANCE)
    flags.DEFINE_float("learning_rate", 1e-5, "The paper's is 1e-5.", **ranges.LEARNING_RATE)
    common.define_override(
        "widths", "Units of each hidden layer.", common.define_numbers, integers=True, lower_bound=1
    )
    common.define_override(
        "depths", "Numbers of hidden layers.", common.define_numbers, integers=True, lower_bound=1
    )
    common.define_override("grid", "Number of weight variances.", lower_bound=2)
    common.define_override("examples", "Training examples.", lower_bound=2)
    common.define_override("max_steps", "Steps at most.", lower_bound=10)


def main(_: list[str]) -> None:
    """Trains the grid for each width, writes the table and draws the maps."""
    names = ("dataset", "activation", "bias_variance", "learning_rate")
    settings = common.settings(_QUICK, _PAPER, names)
    directory = sweep.open_sweep(settings)
    critical = maps.critical_weight_variance(settings["activation"], settings["bias_variance"])
    points = [
        {"width": int(width), "depth": int(depth), "weight_variance": float(variance)}
        for width in settings["widths"]
        for depth in settings["depths"]
        for variance in np.linspace(0.4, 1.8, settings["grid"]) * critical
    ]
    rows = sweep.run(
        points,
        functools.partial(measure, settings, load(settings)),
        directory,
        cost=lambda p: p["depth"] * p["width"] * (p["width"] + 100),
    )
    if rows is not None:
        common.save_figure(draw(rows, critical), directory / "ntk_change.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
