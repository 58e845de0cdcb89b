"""Change of the tangent kernel in training: Figures 3, 4 and 8 to 11 of the finite-width paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.ntk_change --dataset=mnist

Networks of several depths and weight variances are trained by full-batch gradient descent on the
mean over examples of half the squared error, from Gaussian weights in the standard
parameterization. Shown are |Theta_t - Theta_0|_F / |Theta_0|_F of the kernel of all outputs after
given numbers of steps and at the end, and the least loss over that of the best constant. A dot
marks what the largest number of steps has ended. The quick preset gives each network half of the
largest rate that its own kernel allows; the paper has one for all.
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
from experiments.curves import Rows, curves_of
from mfcnn import activations, data, empirical

FLAGS = flags.FLAGS

_PATIENCE, _LEAST_DECREASE = 100, 1e-7

# The settings of the presets.
_QUICK = {
    "dataset": "digits",
    "widths": ["32", "128"],
    "depths": ["2", "5", "10", "20"],
    "grid": 5,
    "examples": 16,
    "max_steps": 1_000,
    "learning_rate": 0.0,
}
_PAPER = {
    "dataset": "mnist",
    "widths": ["128", "256", "512"],
    "depths": [str(d) for d in range(2, 31, 4)],
    "grid": 10,
    "examples": 128,
    "max_steps": 100_000,
    "learning_rate": 1e-5,
}


@functools.lru_cache(maxsize=1)
def network(
    input_size: int, classes: int, width: int, depth: int, activation: str
) -> tuple[keras.Model, Callable]:
    """A fully connected network, and `training` of it; the same for all its initial weights."""
    phi = activations.get(activation).phi
    hidden = [keras.layers.Dense(width, phi) for _ in range(depth)]
    model = keras.Sequential([keras.Input((input_size,)), *hidden, keras.layers.Dense(classes)])
    return model, training(model)


def draw_weights(
    model: keras.Model, weight_variance: float, bias_variance: float, seed: int
) -> None:
    """Gaussian weights in the standard parameterization."""
    rng = np.random.default_rng(seed)
    model.set_weights(
        [
            rng.normal(size=w.shape, scale=(weight_variance / w.shape[0]) ** 0.5)
            if len(w.shape) == 2
            else rng.normal(size=w.shape, scale=bias_variance**0.5)
            for w in model.weights
        ]
    )


def training(model: keras.Model) -> Callable:
    """A function that trains a network up to a step, unless its loss stands still before.

    Early stopping as Keras's: 100 steps in a row without a loss 1e-7 below the last that was.

    Returns:
        advance(x, targets, rate, state, stop): the new state. A state is (steps done, the loss
        that counts as best, steps since it, least loss, last loss).
    """
    variables = [v.value for v in model.trainable_variables]

    @tf.function(autograph=False)
    def advance(
        x: tf.Tensor, targets: tf.Tensor, rate: tf.Tensor, state: tuple, stop: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        def body(
            step: tf.Tensor, best: tf.Tensor, since: tf.Tensor, least: tf.Tensor, loss: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(model(x) - targets)) / (2 * x.shape[0])
            for v, g in zip(variables, tape.gradient(loss, variables)):
                v.assign_sub(rate * g)
            better = loss < best - _LEAST_DECREASE
            best, since = tf.where(better, loss, best), tf.where(better, 0, since + 1)
            return step + 1, best, since, tf.minimum(least, loss), loss

        def going(step: tf.Tensor, best: tf.Tensor, since: tf.Tensor, *losses: tf.Tensor) -> Any:
            del best
            return (step < stop) & (since < _PATIENCE) & tf.math.is_finite(losses[-1])

        return tf.while_loop(going, body, state)

    return advance


def track(
    model: keras.Model,
    advance: Callable,
    x: np.ndarray,
    targets: np.ndarray,
    learning_rate: float,
    max_steps: int,
) -> Rows:
    """Trains until the loss stands still, with the kernel at 10, 100, ... steps and at the end.

    Args:
        model: a network; its weights are changed.
        advance: `training(model)`.
        x: inputs [n, d], float32.
        targets: [n, k], float32.
        learning_rate: of gradient descent; 0 is 1 / lambda_max of its kernel over n.
        max_steps: the largest number of steps.

    Returns:
        A list of dicts: steps, rate, change (relative, Frobenius), loss, least_loss, and
        least_loss_share of the best constant's, stopped (1 if training ended there, else 0), and
        converged (1 if it ended because the loss stood still).
    """
    x, targets = tf.constant(x, tf.float32), tf.constant(targets, tf.float32)
    start = empirical.ntk(model, x, outputs="full")
    n, _, k, _ = start.shape
    if not learning_rate:
        matrix = np.transpose(start, [0, 2, 1, 3]).reshape(n * k, n * k).astype(np.float64)
        learning_rate = n / np.linalg.eigvalsh(matrix)[-1]
    rate = tf.constant(learning_rate, tf.float32)
    constant = float(tf.reduce_sum(tf.math.reduce_variance(targets, 0)) / 2)
    state = tf.constant(0), tf.constant(3e38), tf.constant(0), tf.constant(3e38), tf.constant(0.0)
    rows, stop = [], 10
    while True:
        target = min(stop, max_steps)
        state = advance(x, targets, rate, state, tf.constant(target))
        steps, _, since, least, loss = (float(s) for s in state)
        stopped = steps < target or since >= _PATIENCE or steps == max_steps
        change = empirical.ntk(model, x, outputs="full") - start
        rows.append(
            {
                "steps": int(steps),
                "rate": learning_rate,
                "change": float(tf.norm(change) / tf.norm(start)),
                "loss": loss,
                "least_loss": least,
                "least_loss_share": least / constant if constant else float("nan"),
                "stopped": int(stopped),
                "converged": int(since >= _PATIENCE),
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
    sizes = examples[0].shape[1], 10, point["width"], point["depth"], point["activation"]
    model, advance = network(*sizes)
    seed = np.random.SeedSequence([settings["seed"], point["network"]]).generate_state(1)[0]
    draw_weights(model, point["weight_variance"], settings["bias_variance"], int(seed))
    tracked = track(model, advance, *examples, settings["learning_rate"], settings["max_steps"])
    return [{"checkpoint": 10**i} | row for i, row in enumerate(tracked, 1)]


def draw(rows: Rows, bias_variance: float) -> Figure:
    """A row of maps for each activation and width: the change by steps and at the end, the loss.

    A network whose training has ended keeps its last kernel in the later maps.
    """
    lines = curves_of(rows, "activation", "width")
    depths = sorted({row["depth"] for row in rows})
    steps = sorted({row["checkpoint"] for row in rows if not row["stopped"]})
    most = max(row["steps"] for row in rows)
    panels = {f"{n:,.0f} steps": (n, "change") for n in steps}
    panels |= {"end": (np.inf, "change"), "least loss": (np.inf, "least_loss_share")}
    figure, axes = common.subplots(
        len(lines), len(panels), figsize=(2.7 * len(panels), 2.4 * len(lines)), squeeze=False
    )
    figure.suptitle(f"end: the loss stands still, or (dot) {most:,.0f} steps are done", fontsize=10)
    # One scale for all maps of a quantity, so that steps and widths can be compared.
    changes = np.array([r["change"] for r in rows])
    changes = changes[np.isfinite(changes) & (changes > 0)]
    norms: dict[str, Any] = {
        "change": LogNorm(max(changes.min(initial=1), 1e-4), min(changes.max(initial=1), 1e2)),
        "least_loss_share": LogNorm(1e-3, 1),
    }
    for axes_of_line, ((activation, width), of_line) in zip(axes, lines.items()):
        variances = sorted({row["weight_variance"] for row in of_line})
        for axis, (title, (checkpoint, quantity)) in zip(axes_of_line, panels.items()):
            mine = [row for row in of_line if row["checkpoint"] <= checkpoint]
            _, _, values = maps.table(mine, quantity, xs=variances, ys=depths)
            values = np.maximum(values, norms[quantity].vmin)
            shown = axis.pcolormesh(
                variances, range(len(depths)), values, norm=norms[quantity], cmap="viridis"
            )
            axis.axvline(maps.critical_weight_variance(activation, bias_variance), color="w")
            axis.set_yticks(range(len(depths)), [f"{d:.0f}" for d in depths])
            axis.grid(False)
            axis.set_title(f"{activation}, width {width:.0f}, {title}", fontsize=8)
            if checkpoint == np.inf:
                cut = [row for row in mine if row["stopped"] and not row["converged"]]
                places = [depths.index(row["depth"]) for row in cut]
                axis.plot([row["weight_variance"] for row in cut], places, "w.", ms=3)
                label = "relative change" if quantity == "change" else "loss / constant's"
                figure.colorbar(shown, ax=axis, label=label)
        axes_of_line[0].set_ylabel("hidden layers")
    for axis in axes[-1]:
        axis.set_xlabel("weight variance")
    return figure


def trained_share(rows: Rows, bias_variance: float) -> dict[tuple[str, float, str], float]:
    """Figures 3(b) and 4(b): the part of the networks whose loss fell to a tenth of a constant's.

    Returns:
        By activation, depth and phase ("ordered" or "chaotic").
    """
    found: dict[tuple[str, float, str], list[bool]] = {}
    for row in rows:
        if row["stopped"]:
            critical = maps.critical_weight_variance(row["activation"], bias_variance)
            phase = "ordered" if row["weight_variance"] < critical else "chaotic"
            key = row["activation"], row["depth"], phase
            found.setdefault(key, []).append(row["least_loss_share"] < 0.1)
    return {key: float(np.mean(values)) for key, values in found.items()}


def define_flags() -> None:
    """Defines the flags of this binary."""
    sweep.define_flags("ntk_change")
    override, numbers = common.define_override, common.define_numbers
    override("dataset", "Data set.", flags.DEFINE_enum, enum_values=data.NAMES)
    common.define_names(
        "activations", ["tanh", "relu"], "Activations.", ["tanh", "relu", "erf", "gelu"]
    )
    flags.DEFINE_float("bias_variance", 1.0, "sigma_b^2.", **ranges.VARIANCE)
    override(
        "learning_rate",
        "One for all; 0 is half of the largest that each network's kernel allows.",
        flags.DEFINE_float,
        **ranges.LEARNING_RATE,
    )
    override("widths", "Units of each hidden layer.", numbers, integers=True, lower_bound=1)
    override("depths", "Numbers of hidden layers.", numbers, integers=True, lower_bound=1)
    override("grid", "Number of weight variances.", lower_bound=2)
    override("examples", "Training examples.", lower_bound=2)
    override("max_steps", "Steps at most.", lower_bound=10)


def main(_: list[str]) -> None:
    """Trains the grid for each activation and width, writes the table and draws the maps."""
    settings = common.settings(_QUICK, _PAPER, ("activations", "bias_variance"))
    directory = sweep.open_sweep(settings)
    bias_variance = settings["bias_variance"]
    grid = [
        (activation, int(width), int(depth), float(share))
        for activation in settings["activations"]
        for width in settings["widths"]
        for depth in settings["depths"]
        for share in np.linspace(0.4, 1.8, settings["grid"])
    ]
    points = [
        {
            "network": number,
            "activation": activation,
            "width": width,
            "depth": depth,
            "weight_variance": share * maps.critical_weight_variance(activation, bias_variance),
        }
        for number, (activation, width, depth, share) in enumerate(grid)
    ]
    rows = sweep.run(
        points,
        functools.partial(measure, settings, load(settings)),
        directory,
        cost=lambda p: p["depth"] * p["width"] * (p["width"] + 100),
    )
    if rows is not None:
        for (activation, depth, phase), share in trained_share(rows, bias_variance).items():
            print(f"{activation}, {depth:.0f} layers, {phase}: {share:.0%} trained")
        common.save_figure(draw(rows, bias_variance), directory / "ntk_change.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
