"""The verdict before training against the network that is trained.

    python -m experiments.verdict --output_dir=experiments/results/verdict

For each start, padding and depth: squared gradient of the deep block's first kernels over that of
the last, variance of the last pre-activations, and correlation of two images there, measured over
several draws of the vanilla CNN that `experiments.train` builds, beside what its verdict says.
Prints what lies outside two standard deviations. Mean field theory is the limit of many channels c:
the means differ from it by parts of order 2 / c, and Gaussian products of depth L by factors of
exp(L / c). `--filters` gives tables of other widths.

The weights are those of `experiments.train`; the passes are float64, in which squared gradients
down to 1e-600 have digits.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from matplotlib.figure import Figure

from experiments import binary, common, vanilla
from experiments.curves import Rows
from mfcnn import data, layers, meanfield, models

FLAGS = flags.FLAGS
MEASURES = ("log10_gradient_ratio", "log10_variance", "correlation")


def _program(model: keras.Model) -> Callable:
    """A function from (images, seed) to `MEASURES`, for the weights that the model has then."""
    deep = model.get_layer("deep")
    stem = keras.Model(model.inputs, deep.input)

    @tf.function(autograph=False)
    def run(images: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        inputs = stem(images)
        with tf.GradientTape() as tape:
            outputs = deep(inputs)
            g = tf.random.stateless_normal(tf.shape(outputs), seed, dtype=outputs.dtype)
            loss = tf.reduce_sum(g * outputs)
        gradient = tape.gradient(loss, deep.trainable_variables[0])
        squares = tf.math.log(tf.reduce_sum(tf.reshape(gradient, [gradient.shape[0], -1]) ** 2, 1))
        h = tf.reshape(tf.math.atanh(outputs), [2, -1])
        gram = tf.matmul(h, h, transpose_b=True)
        variance = tf.linalg.trace(gram) / tf.cast(tf.size(h), h.dtype)
        return (
            (squares[0] - squares[-1]) / np.log(10),
            tf.math.log(variance) / np.log(10),
            gram[0, 1] / tf.sqrt(gram[0, 0] * gram[1, 1]),
        )

    return run


def expected(
    config: vanilla.Config, images: np.ndarray
) -> tuple[dict[str, float], meanfield.Trainability]:
    """The verdict's numbers for the same network: `MEASURES`, and the verdict itself."""
    verdict = vanilla.verdict(config, images.shape[1:], images)
    weight_variance, bias_variance, _ = models.initial_variances(
        config["activation"], config["depth"], config["q_star"], None, None
    )
    start = (config["activation"], weight_variance, bias_variance)
    padding = config["padding"]
    covariance = meanfield.stem_covariance(
        images, *start, strides=vanilla.stem_strides(config), padding=padding
    )
    profile = vanilla.PROFILES[config["initialization"]]
    last = np.asarray(
        meanfield.covariance_trajectory(
            covariance, *start, profile, config["depth"], padding, last_only=True
        )
    )
    n = int(np.prod(last.shape[:3]))
    blocks = last.reshape(2, n // 2, 2, n // 2)
    traces = np.einsum("iaja->ij", blocks)
    numbers = (
        verdict.log10_gradient_ratio,
        verdict.log10_output_variance,
        traces[0, 1] / np.sqrt(traces[0, 0] * traces[1, 1]),
    )
    return dict(zip(MEASURES, numbers)), verdict


def compare(config: dict[str, Any], images: np.ndarray, draws: int) -> dict[str, Any]:
    """A row: the mean and the standard deviation over draws beside the verdict's number."""
    make = functools.partial(vanilla.make_model, image_shape=images.shape[1:], classes=10)
    with _float64():
        model = make(config)
    program, images_ = _program(model), tf.constant(images, tf.float64)
    found = []
    for number in range(draws):
        drawn = make(config | {"seed": config["seed"] + number})
        model.set_weights(drawn.get_weights())
        results = program(images_, tf.constant([number, 0]))
        found.append(dict(zip(MEASURES, (float(result) for result in results))))
    theory, verdict = expected(config, images)
    row = {name: config[name] for name in ("initialization", "padding", "depth", "filters")}
    for name in MEASURES:
        values = np.array([one[name] for one in found])
        row |= {
            f"{name}": values.mean(),
            f"{name}_deviation": values.std(ddof=1),
            f"{name}_theory": float(theory[name]),
        }
    return row | {"trains": verdict.trainable, "width_deviation": verdict.width_deviation}


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    """Keras makes models of float64 inside."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def outside(rows: Rows) -> list[str]:
    """A line for each number that is not within two standard deviations of the verdict's."""
    lines = []
    for row in rows:
        for name in MEASURES:
            value, deviation, theory = (row[name + end] for end in ("", "_deviation", "_theory"))
            if not abs(value - theory) <= 2 * deviation:
                lines.append(
                    f"{row['initialization']}, {row['padding']}, {row['depth']} layers of "
                    f"{row['filters']}: {name} {value:.4g} +- {deviation:.2g}, verdict "
                    f"{theory:.4g}; depth / channels {row['depth'] / row['filters']:.3g}, "
                    f"2 / channels in decades {2 / row['filters'] / np.log(10):.2g}"
                )
    return lines


def draw(rows: Rows) -> Figure:
    """Measured against predicted, a panel for each of `MEASURES`."""
    figure, axes = common.subplots(1, 3, figsize=(11, 3.6))
    colors = dict(zip(models.INITIALIZATIONS, ("tab:orange", "tab:red", "tab:blue")))
    marks = {"circular": "o", "same": "s"}
    for axis, name in zip(axes, MEASURES):
        for initialization, color in colors.items():
            for padding, mark in marks.items():
                mine = [
                    row
                    for row in rows
                    if (row["initialization"], row["padding"]) == (initialization, padding)
                ]
                axis.errorbar(
                    [row[f"{name}_theory"] for row in mine],
                    [row[name] for row in mine],
                    [row[f"{name}_deviation"] for row in mine],
                    fmt=mark,
                    color=color,
                    label=f"{initialization}, {padding}",
                )
        ends = np.array(axis.get_xlim())
        axis.plot(ends, ends, "k-", lw=0.7)
        axis.set(xlabel="verdict", ylabel="measured", title=name.replace("_", " "))
    axes[0].legend(fontsize=6)
    return figure


def define_flags() -> None:
    """Defines the flags of this binary."""
    common.define_flags("verdict")
    common.define_override("dataset", "Data set.", flags.DEFINE_enum, enum_values=data.NAMES)
    common.define_override("depths", "Depths.", common.define_numbers, integers=True, lower_bound=1)
    common.define_override("filters", "Channels.", lower_bound=1)
    numbers = {"integers": True, "lower_bound": 1}
    common.define_override("strides", "Strides of the stem.", common.define_numbers, **numbers)
    common.define_override("draws", "Networks at each point.", lower_bound=2)


def main(_: list[str]) -> None:
    """Measures all networks, writes the table and the picture, prints what lies outside."""
    settings = common.settings(
        quick={
            "dataset": "digits",
            "depths": ["50", "200", "1000"],
            "filters": 32,
            "strides": ["1", "2", "1"],
            "draws": 10,
        },
        paper={"dataset": "cifar10", "depths": ["50", "200", "1000", "2000"], "filters": 128},
    )
    directory = common.prepare_output_dir(settings)
    dataset = data.load(settings["dataset"], 2, seed=settings["seed"])
    images = np.asarray(next(iter(dataset.train_batches()))[0])[:2]
    base = vanilla.configuration(default=True) | {
        "filters": settings["filters"],
        "strides": settings["strides"],
        "seed": settings["seed"],
    }
    rows = []
    for depth in settings["depths"]:
        for padding in layers.PADDINGS:
            for initialization in models.INITIALIZATIONS:
                config = base | {
                    "depth": int(depth),
                    "padding": padding,
                    "initialization": initialization,
                }
                rows.append(compare(config, images, settings["draws"]))
                print(" ".join(f"{k}={common.csv_text(v)[:8]}" for k, v in rows[-1].items()))
                common.write_csv(directory / "metrics.csv", rows)
    print("\n".join(["Outside two standard deviations:", *(outside(rows) or ["nothing"])]))
    common.save_figure(draw(rows), directory / "verdict.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
