"""The largest learning rate that trains: Figure 2 of the NTK paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.max_learning_rate --dataset=mnist

Fully connected NTK-parameterized networks are trained by full-batch gradient descent on the mean
over examples of half the squared error. Its theory is df/dt = -Theta (f - y) / n, so the largest
stable rate is eta_theory = 2 n / lambda_max of the analytic kernel. The figure shows the best
accuracy over training against rho = eta / eta_theory; theory says that it breaks at 1.
"""

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging
from matplotlib import colormaps

from experiments import common
from mfcnn import data, kernels, layers

FLAGS = flags.FLAGS


def normalized(images):
    """Images as vectors [n, d] with |x|^2 = d, as the theory has them."""
    x = images.reshape(len(images), -1).astype("float64")
    return x * np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)


def eta_theory(x, activation, depth, weight_variance, bias_variance):
    """2 n / lambda_max of the analytic kernel on the inputs x [n, d]."""
    theta = kernels.fully_connected(depth, activation, weight_variance, bias_variance)(x, get="ntk")
    return 2 * len(x) / np.linalg.eigvalsh(theta.numpy())[-1]


def best_accuracies(train, test, activation, depth, weight_variance, bias_variance, width, rates,
                    steps, seed):  # fmt: skip
    """Trains one network from the same start at each rate.

    Args:
      train: (x [n, d], labels [n]).
      test: likewise.
      activation: a name.
      depth: number of hidden layers.
      weight_variance: sigma_w^2.
      bias_variance: sigma_b^2.
      width: units of each hidden layer.
      rates: learning rates.
      steps: gradient descent steps.
      seed: of the start.

    Returns:
      An array [rates, 2]: the best training and test accuracy throughout training.
    """
    classes = int(max(train[1].max(), test[1].max())) + 1
    options = {"weight_variance": weight_variance, "bias_variance": bias_variance}
    model = keras.Sequential(
        [keras.Input(train[0].shape[1:])]
        + [layers.NTKDense(width, activation, seed=seed + i, **options) for i in range(depth)]
        + [layers.NTKDense(classes, None, seed=seed + depth, **options)]
    )
    start = [tf.constant(v) for v in model.get_weights()]
    x, x_test = (tf.constant(split[0], tf.float32) for split in (train, test))
    labels, labels_test = (tf.constant(split[1]) for split in (train, test))
    targets = tf.one_hot(labels, classes) - 1 / classes

    def accuracy(outputs, right):
        hits = tf.argmax(outputs, 1, output_type=right.dtype) == right
        return tf.reduce_mean(tf.cast(hits, tf.float32))

    @tf.function(autograph=False)
    def run(rate):
        for v, value in zip(model.trainable_variables, start):
            v.value.assign(value)

        def body(step, best):
            with tf.GradientTape() as tape:
                outputs = model(x, training=True)
                loss = tf.reduce_sum(tf.square(outputs - targets)) / (2 * len(train[1]))
            variables = [v.value for v in model.trainable_variables]
            finite = tf.math.is_finite(loss)
            now = tf.stack([accuracy(outputs, labels), accuracy(model(x_test), labels_test)])
            for v, g in zip(variables, tape.gradient(loss, variables)):
                v.assign_sub(rate * g)
            best = tf.where(finite, tf.maximum(best, now), best)
            return tf.where(finite, step + 1, steps + 1), best

        return tf.while_loop(lambda step, _: step <= steps, body, (0, tf.zeros([2])))[1]

    return np.array([run(tf.constant(rate, tf.float32)) for rate in rates])


def draw(rows, depths):
    """A panel for each depth: solid for training, dashed for test accuracy."""
    figure, axes = common.subplots(
        1, len(depths), figsize=(4.2 * len(depths), 3.6), squeeze=False, sharey=True
    )
    stds = sorted({r["weight_std"] for r in rows})
    for axis, depth in zip(axes[0], depths):
        for index, std in enumerate(stds):
            mine = [r for r in rows if r["depth"] == depth and r["weight_std"] == std]
            color = colormaps["coolwarm"](index / max(len(stds) - 1, 1))
            for split, line in (("train", "-"), ("test", "--")):
                axis.plot(
                    [r["rho"] for r in mine],
                    [r[f"{split}_accuracy"] for r in mine],
                    line,
                    color=color,
                    label=f"$\\sigma_w$ = {std:g}" if split == "train" else None,
                )
        axis.axvline(1, color="k", lw=0.8)
        axis.set(xscale="log", xlabel="$\\eta / \\eta_{theory}$", title=f"depth {depth}")
    axes[0, 0].set_ylabel("best accuracy")
    axes[0, 0].legend(fontsize=7)
    return figure


def define_flags():
    """Defines the flags of this binary."""
    common.define_flags("max_learning_rate")
    flags.DEFINE_enum("dataset", "digits", data.NAMES, "Data set.")
    flags.DEFINE_enum("activation", "tanh", ["tanh", "erf", "relu"], "Activation.")
    flags.DEFINE_float("bias_std", 0.43, "sigma_b, the paper's.", lower_bound=0)
    common.define_override("weight_stds", "Values of sigma_w.", flags.DEFINE_list)
    common.define_override("depths", "Numbers of hidden layers.", flags.DEFINE_list)
    common.define_override("width", "Units of each hidden layer.", lower_bound=1)
    common.define_override("examples", "Training examples.", lower_bound=2)
    common.define_override("steps", "Gradient descent steps.", lower_bound=1)
    common.define_override(
        "rates", "Number of multiples of eta_theory, from 0.1 to 10.", lower_bound=2
    )


def main(_):
    """Trains all networks, writes the table and draws the figure."""
    settings = common.settings(
        quick={"weight_stds": ["1.0", "1.5", "2.0"], "depths": ["3", "6"], "width": 256,
               "examples": 128, "steps": 60, "rates": 9},
        paper={"weight_stds": [f"{s:.2f}" for s in np.linspace(1.0, 2.8, 10)],
               "depths": ["5", "10", "20", "40"], "width": 2048, "examples": 1000, "steps": 300,
               "rates": 10},
    )  # fmt: skip
    settings |= {n: FLAGS[n].value for n in ("dataset", "activation", "bias_std")}
    directory = common.prepare_output_dir(settings)
    train, test = (
        data.load_arrays(FLAGS.dataset, split, settings["examples"], FLAGS.seed)
        for split in ("train", "test")
    )
    train, test = ((normalized(images), labels) for images, labels in (train, test))
    multiples = np.geomspace(0.1, 10, settings["rates"])
    depths, rows = [int(d) for d in settings["depths"]], []
    for depth in depths:
        for std in map(float, settings["weight_stds"]):
            variances = (std**2, FLAGS.bias_std**2)
            rate = eta_theory(train[0], FLAGS.activation, depth, *variances)
            logging.info("depth %d, sigma_w %.2f: eta_theory %.4g", depth, std, rate)
            accuracies = best_accuracies(
                train, test, FLAGS.activation, depth, *variances, settings["width"],
                multiples * rate, settings["steps"], FLAGS.seed,
            )  # fmt: skip
            rows += [
                {"depth": depth, "weight_std": std, "eta_theory": rate, "rho": rho,
                 "train_accuracy": a, "test_accuracy": b}
                for rho, (a, b) in zip(multiples, accuracies)
            ]  # fmt: skip
            common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(draw(rows, depths), directory / "max_learning_rate.png")


if __name__ == "__main__":
    define_flags()
    app.run(main)
