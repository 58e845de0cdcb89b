"""Variance and bias of a trained network's output: theorem 5.3 of the finite-width paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.output_variance --dataset=mnist

An ensemble of networks, all in one batched computation, is trained by full-batch gradient descent
to a small loss; the variance of its outputs on test inputs is compared with theorem 5.3 and with
the exact variance of a wide ensemble. Beside it is the bias, the squared distance of the mean
output to the true one, which the paper's expected error R(x) adds to the variance and the theorem
leaves open; and kappa_1 / kappa_2 by depth. The theorem takes all
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
    """Training inputs [s, d] with targets [s], and test inputs [t, d] with theirs [t]."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class Predicted(NamedTuple):
    """What theory says of a wide ensemble, means over the test inputs.

    Attributes:
        theorem: the variance by theorem 5.3, with means over the data.
        exact: the variance of the analytic kernels.
        bias: the squared distance of their mean output to the true one.
    """

    theorem: float
    exact: float
    bias: float


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
    inputs, targets, test = (tf.constant(part, tf.float32) for part in examples[:3])
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


def predicted(network: Network, examples: Examples) -> Predicted:
    """Variance and bias of wide networks that are trained to the end."""
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
    exact = float(np.mean(np.sum(rows @ nngp * rows, axis=1)))
    return Predicted(theorem, exact, float(np.mean((smoother @ examples.y - examples.y_test) ** 2)))


def decomposed(outputs: np.ndarray, y_test: np.ndarray) -> dict[str, float]:
    """Unbiased estimates of variance and bias from outputs [networks, t].

    The squared distance of the mean of n networks to the truth is above that of the mean over all
    by a n-th of the variance. Variance and bias add up to the mean squared error.

    Returns:
        dict with measured (the variance) and measured_bias, and their standard errors over the
        networks, of the bias by leaving out each (the test inputs of one are not independent).
    """
    count = len(outputs)
    squares = np.mean((outputs - outputs.mean(0)) ** 2, axis=1)
    variance = float(squares.sum() / (count - 1))
    bias = float(np.mean((outputs.mean(0) - y_test) ** 2)) - variance / count
    left_out = (outputs.sum(0) - outputs) / (count - 1)
    biases = np.mean((left_out - y_test) ** 2, axis=1)
    return {
        "measured": variance,
        "error": float(squares.std() / np.sqrt(count)),
        "measured_bias": bias,
        "bias_error": float(np.sqrt(count - 1) * biases.std()),
    }


def load(settings: Mapping[str, Any]) -> Examples:
    """Images as vectors with |x|^2 = d, odd and even classes as targets of 1 and -1."""
    parts: list[np.ndarray] = []
    for split, count in (("train", settings["examples"]), ("test", 50)):
        images, labels = data.load_arrays(settings["dataset"], split, count, settings["seed"])
        x = images.reshape(count, -1).astype("float64")
        x /= np.sqrt(np.mean(x**2, axis=1, keepdims=True))
        parts += [x, np.where(labels % 2, 1.0, -1.0)]
    return Examples(*parts)


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
    theory = predicted(network, examples)
    return [
        decomposed(outputs, examples.y_test)
        | {
            "exact_wide": theory.exact,
            "theorem": theory.theorem,
            "bias_wide": theory.bias,
            "training_error": float(loss.mean()),
        }
    ]


def draw(rows: Rows, settings: Mapping[str, Any]) -> Figure:
    """Measured and predicted variances and biases; kappa_1 / kappa_2 by depth."""
    figure, (left, middle, right) = common.subplots(1, 3, figsize=(13, 3.7))
    for (width,), mine in sorted(curves_of(rows, "width").items()):
        x, measured, error = (column(mine, k) for k in ("weight_variance", "measured", "error"))
        label = f"trained, width {width:.0f}"
        left.errorbar(x, measured, 2 * error, fmt="o", capsize=2, label=label)
        bias, bias_error = column(mine, "measured_bias"), column(mine, "bias_error")
        middle.errorbar(x, bias, 2 * bias_error, fmt="o", capsize=2, label=label)
    left.plot(x, column(mine, "exact_wide"), "k-", label="wide networks, exact")
    left.plot(x, column(mine, "theorem"), "k--", label="theorem 5.3")
    middle.plot(x, column(mine, "bias_wide"), "k-", label="wide networks, exact")
    left.set(xlabel="weight variance", ylabel="variance of the output", yscale="log")
    middle.set(xlabel="weight variance", ylabel="bias, squared", ylim=(0, None))
    middle.set_title("R(x) is the sum of both")
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
    for axis in (left, middle, right):
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
