"""Variance of a trained network's output: theorem 5.3 of the finite-width paper, and Figures 5, 6.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.output_variance --dataset=mnist

An ensemble of networks, all in one batched computation, is trained by full-batch gradient descent
to a small loss; the variance of its outputs on test inputs is compared with theorem 5.3 and with
the exact variance of a wide ensemble. Beside it kappa_1 / kappa_2 by depth. The theorem takes all
covariances of inputs to be equal; the kernels of narrow networks are random, which adds a variance
of the order 1 / width, the more the smaller kappa_1 / kappa_2 is.
"""

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags
from matplotlib.figure import Figure

from experiments import binary, common, sweep
from mfcnn import activations, data, empirical, kernels

FLAGS = flags.FLAGS


def trained_ensemble(
    x: np.ndarray,
    y: np.ndarray,
    x_test: np.ndarray,
    activation: str,
    depth: int,
    width: int,
    weight_variance: float,
    bias_variance: float,
    networks: int,
    steps: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of independently drawn networks after training, NTK-parameterized.

    Args:
      x: training inputs [s, d].
      y: targets [s].
      x_test: [t, d].
      activation: a name.
      depth: number of hidden layers.
      width: units of each.
      weight_variance: sigma_w^2.
      bias_variance: sigma_b^2.
      networks: how many.
      steps: of gradient descent, at half of the largest stable rate of the analytic kernel.
      seed: of the draws.

    Returns:
      (outputs [networks, t], mean squared error on the training inputs [networks]).
    """
    phi = activations.get(activation).phi
    theta = kernels.fully_connected(depth, activation, weight_variance, bias_variance)(x, get="ntk")
    rate = tf.constant(1 / np.linalg.eigvalsh(theta.numpy())[-1], tf.float32)
    sizes = [x.shape[1], *[width] * depth, 1]
    weights = [
        tf.Variable(tf.random.stateless_normal([networks, *shape], [seed, 2 * i + j]))
        for i, (fan_in, units) in enumerate(zip(sizes, sizes[1:]))
        for j, shape in enumerate(((fan_in, units), (1, units)))
    ]
    inputs, targets = tf.constant(x, tf.float32), tf.constant(y, tf.float32)

    def outputs(h: tf.Tensor) -> tf.Tensor:
        for i, (w, beta) in enumerate(zip(weights[::2], weights[1::2])):
            scale = (weight_variance / sizes[i]) ** 0.5
            h = scale * tf.matmul(h, w) + bias_variance**0.5 * beta
            h = phi(h) if i < depth else h
        return h[..., 0]

    @tf.function(autograph=False)
    def train() -> tf.Tensor:
        def body(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(outputs(inputs) - targets)) / 2
            for v, g in zip(weights, tape.gradient(loss, weights)):
                v.assign_sub(rate * g)
            return (step + 1,)

        tf.while_loop(lambda step: step < steps, body, (tf.constant(0),))
        error = tf.reduce_mean(tf.square(outputs(inputs) - targets), -1)
        return outputs(tf.constant(x_test, tf.float32)), error

    return tuple(t.numpy() for t in train())


def predicted_variances(
    x: np.ndarray,
    x_test: np.ndarray,
    activation: str,
    depth: int,
    weight_variance: float,
    bias_variance: float,
) -> tuple[float, float]:
    """(theorem 5.3 with means over the data, the exact mean for the analytic kernel)."""
    kernel = kernels.fully_connected(depth, activation, weight_variance, bias_variance)
    nngp, theta = (np.array(k) for k in kernel(np.concatenate([x, x_test])))
    n = len(theta)
    off = ~np.eye(n, dtype=bool)
    theorem = empirical.trained_output_variance(
        np.mean(np.diag(theta)), theta[off].mean(), np.mean(np.diag(nngp)), nngp[off].mean(), len(x)
    )
    s = len(x)
    smoother = np.linalg.solve(theta[:s, :s], theta[:s, s:]).T
    rows = np.concatenate([-smoother, np.eye(n - s)], axis=1)
    return theorem, float(np.mean(np.sum(rows @ nngp * rows, axis=1)))


def draw(rows: list[dict[str, Any]], ratios: dict[float, Any], depth: int) -> Figure:
    """Measured and predicted variances; kappa_1 / kappa_2 by depth."""
    figure, axes = common.subplots(1, 2, figsize=(9.5, 3.7))
    for width in sorted({r["width"] for r in rows}):
        mine = [r for r in rows if r["width"] == width]
        x, y, error = ([r[k] for r in mine] for k in ("weight_variance", "measured", "error"))
        axes[0].errorbar(
            x, y, 2 * np.array(error), fmt="o", capsize=2, label=f"trained, width {width:.0f}"
        )
    axes[0].plot(x, [r["exact_wide"] for r in mine], "k-", label="wide networks, exact")
    axes[0].plot(x, [r["theorem"] for r in mine], "k--", label="theorem 5.3")
    axes[0].set(xlabel="weight variance", ylabel="variance of the output", yscale="log")
    axes[0].set_title(f"depth {depth}")
    for weight_variance, values in ratios.items():
        axes[1].plot(
            range(1, len(values) + 1), values, label=f"$\\sigma_w^2$ = {weight_variance:g}"
        )
    axes[1].set(xlabel="hidden layers", ylabel="$\\kappa_1 / \\kappa_2$", yscale="log")
    for axis in axes:
        axis.legend()
    return figure


def define_flags() -> None:
    """Defines the flags of this binary."""
    sweep.define_flags("output_variance")
    flags.DEFINE_enum("dataset", "digits", data.NAMES, "Data set.")
    flags.DEFINE_enum("activation", "erf", ["erf", "relu", "tanh"], "Activation.")
    flags.DEFINE_float("bias_variance", 0.1, "sigma_b^2.", lower_bound=0)
    common.define_override(
        "weight_variances", "Values of sigma_w^2.", common.define_numbers, above=0
    )
    common.define_override("depth", "Number of hidden layers.", lower_bound=1)
    common.define_override(
        "widths", "Units of each hidden layer.", common.define_numbers, integers=True, lower_bound=1
    )
    common.define_override("networks", "Size of the ensemble.", lower_bound=2)
    common.define_override("examples", "Training examples.", lower_bound=2)
    common.define_override("steps", "Gradient descent steps.", lower_bound=1)


# The settings of the presets.
_QUICK = {
    "weight_variances": ["1", "2", "4"],
    "depth": 3,
    "widths": ["64", "256"],
    "networks": 60,
    "examples": 12,
    "steps": 300,
}
_PAPER = {
    "weight_variances": ["0.5", "1", "1.5", "2", "3", "4", "6"],
    "widths": ["128", "512"],
    "networks": 200,
    "examples": 64,
    "steps": 5000,
}


def main(_: list[str]) -> None:
    """Trains the ensembles, writes the table and draws the figure."""
    settings = common.settings(quick=_QUICK, paper=_PAPER)
    settings |= {n: FLAGS[n].value for n in ("dataset", "activation", "bias_variance")}
    directory = sweep.open_sweep(settings)
    x, labels = data.load_arrays(FLAGS.dataset, "train", settings["examples"], FLAGS.seed)
    x_test, _ = data.load_arrays(FLAGS.dataset, "test", 50, FLAGS.seed)
    x, x_test = (a.reshape(len(a), -1).astype("float64") for a in (x, x_test))
    x, x_test = (a / np.sqrt(np.mean(a**2, axis=1, keepdims=True)) for a in (x, x_test))
    y = np.where(labels % 2, 1.0, -1.0)
    network = FLAGS.activation, settings["depth"]
    weight_variances = [float(w) for w in settings["weight_variances"]]

    def measure(point: Any, folder: pathlib.Path) -> list[dict[str, Any]]:
        del folder  # an ensemble is trained in one go
        w = point["weight_variance"]
        outputs, loss = trained_ensemble(
            x,
            y,
            x_test,
            *network,
            point["width"],
            w,
            FLAGS.bias_variance,
            settings["networks"],
            settings["steps"],
            FLAGS.seed,
        )
        theorem, exact = predicted_variances(x, x_test, *network, w, FLAGS.bias_variance)
        # By groups of networks, since the test points of one network are not independent.
        squares = np.mean((outputs - outputs.mean(0)) ** 2, axis=1)
        count = len(squares)
        return [
            {
                "measured": float(squares.sum() / (count - 1)),
                "error": float(squares.std() / np.sqrt(count)),
                "exact_wide": exact,
                "theorem": theorem,
                "training_error": float(loss.mean()),
            }
        ]

    points = [
        {"width": int(width), "weight_variance": w}
        for width in settings["widths"]
        for w in weight_variances
    ]
    rows = sweep.run(points, measure, directory, cost=lambda point: point["width"] ** 2)
    if rows is None:
        return
    ratios = {}
    for w in weight_variances:
        forms = [
            empirical.mean_field_ntk(FLAGS.activation, d, w, FLAGS.bias_variance, 0.3)
            for d in range(1, 21)
        ]
        ratios[w] = [f.kappa_1 / f.kappa_2 for f in forms]
    common.save_figure(draw(rows, ratios, settings["depth"]), directory / "output_variance.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
