"""Change of the tangent kernel in training: Figures 3, 4 and 8 to 11 of the finite-width paper.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.ntk_change --dataset=mnist

Networks of several depths and weight variances are trained by full-batch gradient descent on the
mean over examples of half the squared error, from Gaussian weights in the standard
parameterization. Shown are |Theta_t - Theta_0|_F / |Theta_0|_F after given numbers of steps and in
the end, and the least loss.
"""

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from experiments import common
from mfcnn import activations, data, empirical, meanfield

FLAGS = flags.FLAGS


_PATIENCE, _LEAST_DECREASE = 100, 1e-7


def network(input_size, classes, width, depth, activation, weight_variance, bias_variance, seed):
    """A fully connected network in the standard parameterization."""
    seeds = iter(np.random.SeedSequence(seed).generate_state(2 * depth + 2).tolist())

    def dense(units, fan_in, phi=None):
        def normal(variance):
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


def track(model, x, targets, learning_rate, max_steps):
    """Trains until the loss stands still, with the kernel at 10, 100, ... steps and at the end.

    Early stopping: 100 steps in a row without a decrease of the least loss by 1e-7.

    Args:
      model: a network; its weights are changed.
      x: inputs [n, d], float32.
      targets: [n, k], float32.
      learning_rate: of gradient descent.
      max_steps: the largest number of steps.

    Returns:
      A list of dicts: steps, change (relative, Frobenius), loss, least_loss, stopped (whether
      training ended there).
    """
    x, targets = tf.constant(x, tf.float32), tf.constant(targets, tf.float32)
    variables = [v.value for v in model.trainable_variables]

    def body(step, best, since, loss):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(x) - targets)) / (2 * len(x))
        for v, g in zip(variables, tape.gradient(loss, variables)):
            v.assign_sub(learning_rate * g)
        better = loss < best - _LEAST_DECREASE
        return step + 1, tf.minimum(best, loss), tf.where(better, 0, since + 1), loss

    @tf.function(autograph=False)
    def advance(step, best, since, loss, stop):
        def going(step, best, since, loss):
            del best
            enough = since >= _PATIENCE
            return (step < stop) & ~enough & tf.math.is_finite(loss)

        return tf.while_loop(going, body, (step, best, since, loss))

    start = empirical.ntk(model, x)
    state = (tf.constant(0), tf.constant(np.inf), tf.constant(0), tf.constant(0.0))
    state = (state[0], tf.constant(3e38), *state[2:])
    rows, stop = [], 10
    while True:
        target = min(stop, max_steps)
        state = advance(*state, tf.constant(target))
        steps, best, since, loss = (float(s) for s in state)
        stopped = steps < target or since >= _PATIENCE or steps == max_steps
        change = float(tf.norm(empirical.ntk(model, x) - start) / tf.norm(start))
        rows.append(
            {"steps": int(steps), "change": change, "loss": loss, "least_loss": best,
             "stopped": stopped}
        )  # fmt: skip
        if stopped:
            return rows
        stop *= 10


def draw(rows, variances, depths, critical, title):
    """The change after each number of steps and in the end, and the least loss."""
    steps = sorted({r["checkpoint"] for r in rows if not r["stopped"]})
    panels = [*steps, "end", "loss"]
    figure, axes = common.subplots(1, len(panels), figsize=(3.3 * len(panels), 3.2), squeeze=False)
    for axis, panel in zip(axes[0], panels):
        table = np.full([len(depths), len(variances)], np.nan)
        for r in rows:
            i, j = depths.index(r["depth"]), variances.index(r["weight_variance"])
            if panel in ("end", "loss") and r["stopped"]:
                table[i, j] = r["least_loss"] if panel == "loss" else r["change"]
            elif r["checkpoint"] == panel:
                table[i, j] = r["change"]
        shown = axis.pcolormesh(variances, depths, np.log10(table + 1e-12), cmap="viridis")
        axis.axvline(critical, color="w", ls="--")
        axis.set(xlabel="weight variance", ylabel="hidden layers", yticks=depths)
        names = {"loss": "least loss", "end": "end of training"}
        axis.set_title(names.get(panel, f"{panel} steps"))
        axis.grid(False)
        figure.colorbar(shown, ax=axis, label="log10")
    figure.suptitle(title)
    return figure


def define_flags():
    """Defines the flags of this binary."""
    common.define_flags("ntk_change")
    flags.DEFINE_enum("dataset", "digits", data.NAMES, "Data set.")
    flags.DEFINE_enum("activation", "tanh", ["tanh", "relu", "erf"], "Activation.")
    flags.DEFINE_float("bias_variance", 1.0, "sigma_b^2.", lower_bound=0)
    flags.DEFINE_float("learning_rate", 1e-5, "The paper's is 1e-5.", lower_bound=0)
    common.define_override("widths", "Units of each hidden layer.", flags.DEFINE_list)
    common.define_override("depths", "Numbers of hidden layers.", flags.DEFINE_list)
    common.define_override("grid", "Number of weight variances.", lower_bound=2)
    common.define_override("examples", "Training examples.", lower_bound=2)
    common.define_override("max_steps", "Steps at most.", lower_bound=10)


def main(_):
    """Trains the grid for each width, writes the table and draws the maps."""
    settings = common.settings(
        quick={"widths": ["64"], "depths": ["2", "5", "10"], "grid": 4, "examples": 32,
               "max_steps": 300},
        paper={"widths": ["128", "256", "512"], "depths": [str(d) for d in range(2, 31, 4)],
               "grid": 10, "examples": 128, "max_steps": 100_000},
    )  # fmt: skip
    names = ("dataset", "activation", "bias_variance", "learning_rate")
    settings |= {n: FLAGS[n].value for n in names}
    directory = common.prepare_output_dir(settings)
    images, labels = data.load_arrays(FLAGS.dataset, "train", settings["examples"], FLAGS.seed)
    x = images.reshape(len(images), -1)
    # Unit second moment: q of the first layer is weight_variance + bias_variance.
    x = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True))
    targets = np.eye(10, dtype="float32")[labels]
    homogeneity = activations.get(FLAGS.activation).homogeneity
    critical = (
        1 / homogeneity
        if homogeneity is not None
        else meanfield.critical_weight_variance(FLAGS.activation, FLAGS.bias_variance)
    )
    variances = np.linspace(0.4, 1.8, settings["grid"]) * critical
    depths, rows = [int(d) for d in settings["depths"]], []
    for width in map(int, settings["widths"]):
        for depth in depths:
            for variance in variances:
                keras.backend.clear_session()
                model = network(
                    x.shape[1], 10, width, depth, FLAGS.activation, variance,
                    FLAGS.bias_variance, FLAGS.seed,
                )  # fmt: skip
                tracked = track(model, x, targets, FLAGS.learning_rate, settings["max_steps"])
                for number, row in enumerate(tracked, 1):
                    labels_of_row = {"width": width, "depth": depth, "weight_variance": variance}
                    rows.append(labels_of_row | {"checkpoint": 10**number} | row)
                logging.info("width %d, depth %d, %.2f: %s", width, depth, variance, tracked[-1])
                common.write_csv(directory / "metrics.csv", rows)
        mine = [r for r in rows if r["width"] == width]
        title = f"{FLAGS.activation}, width {width}, relative change of the NTK"
        figure = draw(mine, list(variances), depths, critical, title)
        common.save_figure(figure, directory / f"ntk_change_width_{width}.png")


if __name__ == "__main__":
    define_flags()
    app.run(main)
