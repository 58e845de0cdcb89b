"""Variance of a trained network's output: theorem 5.3 of the finite-width paper, and Figures 5, 6.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.output_variance --dataset=mnist

An ensemble of networks, all in one batched computation, is trained by full-batch gradient descent
to a small loss; the variance of its outputs on test inputs is compared with theorem 5.3 and with
the exact variance of a wide ensemble. Beside it kappa_1 / kappa_2 by depth. The theorem takes all
covariances of inputs to be equal; the kernels of narrow networks are random, which adds a variance
of the order 1 / width, the more the smaller kappa_1 / kappa_2 is.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import flags
from matplotlib.figure import Figure

from experiments import binary, common, ranges, sweep
from experiments.curves import Rows, column, curves_of
from mfcnn import activations, data, kernels, meanfield

FLAGS = flags.FLAGS

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


class Network(NamedTuple):
    """A fully connected network of one output in the NTK parameterization.

    Attributes:
        activation: a name.
        depth: number of hidden layers.
        width: units of each.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
    """

    activation: str
    depth: int
    width: int
    weight_variance: float
    bias_variance: float

    def kernel(self) -> kernels.Kernel:
        """That of infinite width."""
        return kernels.fully_connected(
            self.depth, self.activation, self.weight_variance, self.bias_variance
        )

    def outputs(self, h: tf.Tensor, weights: list[tf.Variable]) -> tf.Tensor:
        """Those of many networks, [networks, n], for inputs [n, d]."""
        phi = activations.get(self.activation).phi
        for i, (w, beta) in enumerate(zip(weights[::2], weights[1::2])):
            scale = (self.weight_variance / w.shape[1]) ** 0.5
            h = scale * tf.matmul(h, w) + self.bias_variance**0.5 * beta
            h = phi(h) if i < self.depth else h
        return h[..., 0]

    def draw(self, input_size: int, networks: int, seed: int) -> list[tf.Variable]:
        """The weights of many networks: kernel, bias, kernel, bias, ..."""
        sizes = [input_size, *[self.width] * self.depth, 1]
        return [
            tf.Variable(tf.random.stateless_normal([networks, *shape], [seed, 2 * i + j]))
            for i, (fan_in, units) in enumerate(zip(sizes, sizes[1:]))
            for j, shape in enumerate(((fan_in, units), (1, units)))
        ]


class Examples(NamedTuple):
    """Training inputs [s, d] with targets [s], and test inputs [t, d]."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray


def trained_ensemble(
    network: Network, examples: Examples, networks: int, steps: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of independently drawn networks after training.

    Args:
        network: what is drawn.
        examples: the data.
        networks: how many.
        steps: of gradient descent, at half of the largest stable rate of the analytic kernel.
        seed: of the draws.

    Returns:
        (outputs [networks, t], mean squared error on the training inputs [networks]).
    """
    theta = network.kernel()(examples.x, get="ntk")
    rate = tf.constant(1 / np.linalg.eigvalsh(theta.numpy())[-1], tf.float32)
    inputs, targets, test = (tf.constant(part, tf.float32) for part in examples)
    weights = network.draw(inputs.shape[1], networks, seed)

    @tf.function(autograph=False)
    def train() -> tuple[tf.Tensor, tf.Tensor]:
        def body(step: tf.Tensor) -> tuple[tf.Tensor]:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(network.outputs(inputs, weights) - targets)) / 2
            for v, g in zip(weights, tape.gradient(loss, weights)):
                v.assign_sub(rate * g)
            return (step + 1,)

        tf.while_loop(lambda step: step < steps, body, (tf.constant(0),))
        error = tf.reduce_mean(tf.square(network.outputs(inputs, weights) - targets), -1)
        return network.outputs(test, weights), error

    outputs, error = train()
    return outputs.numpy(), error.numpy()


def predicted_variances(network: Network, examples: Examples) -> tuple[float, float]:
    """(theorem 5.3 with means over the data, the exact mean for the analytic kernel)."""
    nngp, theta = (
        np.array(k) for k in network.kernel()(np.concatenate([examples.x, examples.x_test]))
    )
    n, s = len(theta), len(examples.x)
    off = ~np.eye(n, dtype=bool)
    kappa_1, kappa_2, q, q_sr = (
        float(k.mean()) for k in (np.diag(theta), theta[off], np.diag(nngp), nngp[off])
    )
    theorem = meanfield.trained_output_variance(kappa_1, kappa_2, q, q_sr, s)
    smoother = np.linalg.solve(theta[:s, :s], theta[:s, s:]).T
    rows = np.concatenate([-smoother, np.eye(n - s)], axis=1)
    return theorem, float(np.mean(np.sum(rows @ nngp * rows, axis=1)))


def load(settings: Mapping[str, Any]) -> Examples:
    """Images as vectors with |x|^2 = d, odd and even classes as targets of 1 and -1."""
    name, seed = settings["dataset"], settings["seed"]
    x, labels = data.load_arrays(name, "train", settings["examples"], seed)
    x_test, _ = data.load_arrays(name, "test", 50, seed)
    x, x_test = (a.reshape(len(a), -1).astype("float64") for a in (x, x_test))
    x, x_test = (a / np.sqrt(np.mean(a**2, axis=1, keepdims=True)) for a in (x, x_test))
    return Examples(x, np.where(labels % 2, 1.0, -1.0), x_test)


def measure(
    settings: Mapping[str, Any], examples: Examples, point: Mapping[str, Any], folder: pathlib.Path
) -> Rows:
    """The row of one ensemble."""
    del folder  # an ensemble is trained in one go
    network = Network(
        activation=settings["activation"],
        depth=settings["depth"],
        bias_variance=settings["bias_variance"],
        **point,
    )
    sizes = settings["networks"], settings["steps"]
    outputs, loss = trained_ensemble(network, examples, *sizes, settings["seed"])
    theorem, exact = predicted_variances(network, examples)
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


def draw(rows: Rows, settings: Mapping[str, Any]) -> Figure:
    """Measured and predicted variances; kappa_1 / kappa_2 by depth."""
    figure, (left, right) = common.subplots(1, 2, figsize=(9.5, 3.7))
    for (width,), mine in sorted(curves_of(rows, "width").items()):
        x, measured, error = (column(mine, k) for k in ("weight_variance", "measured", "error"))
        label = f"trained, width {width:.0f}"
        left.errorbar(x, measured, 2 * error, fmt="o", capsize=2, label=label)
    left.plot(x, column(mine, "exact_wide"), "k-", label="wide networks, exact")
    left.plot(x, column(mine, "theorem"), "k--", label="theorem 5.3")
    left.set(xlabel="weight variance", ylabel="variance of the output", yscale="log")
    left.set_title(f"depth {settings['depth']}")
    depths = range(1, 21)
    for w in x:
        forms = [
            meanfield.mean_field_ntk(settings["activation"], d, w, settings["bias_variance"], 0.3)
            for d in depths
        ]
        ratios = [form.kappa_1 / form.kappa_2 for form in forms]
        right.plot(depths, ratios, label=f"$\\sigma_w^2$ = {w:g}")
    right.set(xlabel="hidden layers", ylabel="$\\kappa_1 / \\kappa_2$", yscale="log")
    for axis in (left, right):
        axis.legend()
    return figure


def define_flags() -> None:
    """Defines the flags of this binary."""
    sweep.define_flags("output_variance")
    flags.DEFINE_enum("dataset", "digits", data.NAMES, "Data set.")
    flags.DEFINE_enum("activation", "erf", ["erf", "relu", "tanh"], "Activation.")
    flags.DEFINE_float("bias_variance", 0.1, "sigma_b^2.", **ranges.VARIANCE)
    common.define_override(
        "weight_variances",
        "Values of sigma_w^2.",
        common.define_numbers,
        **ranges.POSITIVE_VARIANCE,
    )
    common.define_override("depth", "Number of hidden layers.", lower_bound=1)
    common.define_override(
        "widths", "Units of each hidden layer.", common.define_numbers, integers=True, lower_bound=1
    )
    common.define_override("networks", "Size of the ensemble.", lower_bound=2)
    common.define_override("examples", "Training examples.", lower_bound=2)
    common.define_override("steps", "Gradient descent steps.", lower_bound=1)


def main(_: list[str]) -> None:
    """Trains the ensembles, writes the table and draws the figure."""
    settings = common.settings(_QUICK, _PAPER, ("dataset", "activation", "bias_variance"))
    directory = sweep.open_sweep(settings)
    points = [
        {"width": int(width), "weight_variance": float(w)}
        for width in settings["widths"]
        for w in settings["weight_variances"]
    ]
    rows = sweep.run(
        points,
        functools.partial(measure, settings, load(settings)),
        directory,
        cost=lambda point: point["width"] ** 2,
    )
    if rows is not None:
        common.save_figure(draw(rows, settings), directory / "output_variance.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
