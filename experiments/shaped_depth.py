"""Plain networks whose test accuracy does not fall with depth: shaped activations on MNIST.

    TFDS_DATA_DIR=../shared/tfds python -m experiments.shaped_depth

A network's map of correlations flattens with depth unless its activation is shaped for that depth
(`mfcnn.activations.tailored`). Trains, at several depths and seeds, plain networks with tailored
leaky relu and tanh and the critical tanh network, and a ResNet of as many convolutions with batch
normalization; all have one stem, one readout and the same steps of Adam, each at the best (by
training loss) of the rates tried. A plain network's rate falls like 1 / depth in its deep block;
its stem and readout keep one rate at any depth, as a ResNet's layers do
(`training.scaled_rates`). Draws the test accuracy against depth; prints the table.

Source: G. Zhang, A. Botev, J. Martens, "Deep learning without shortcuts" (2022).
"""

import functools
import math
import pathlib

import keras
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from experiments import binary, common, ranges, sweep, vanilla, vanilla_sweep
from experiments.curves import Rows, column, curves_of
from mfcnn import activations, layers, models, training

FLAGS = flags.FLAGS
METHODS = ("tailored leaky relu", "tailored tanh", "critical tanh", "resnet")

_QUICK = vanilla_sweep.network_settings(
    depths=["20", "200", "2000"],
    methods=list(METHODS),
    learning_rates=["0.03"],
    eta=0.6,
    tau=1.0,
    seeds=3,
    padding="same",
    strides=["2", "2", "2", "2"],
    readout="flatten",
    batch_size=64,
    steps=1000,
    eval_every=250,
)
_PAPER = {"strides": ["1", "2", "2"], "filters": 64, "steps": 20_000, "eval_every": 1000}
# A rate times the depth is that of a deep block of plain layers; a tenth of it that of the layers
# around it, a third that of a ResNet: the best in trials at 20 layers.
_OUTER_DEPTH = 10
_RESNET_DEPTH = 3


def residual_block(filters: int, seed: int) -> keras.Model:
    """X + C relu B C relu B x, with two 3x3 convolutions C and batch normalizations B."""
    x = inputs = keras.Input((None, None, filters))
    for index in range(2):
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.Activation("relu")(x)
        start = keras.initializers.HeNormal(seed=seed + index)
        x = keras.layers.Conv2D(filters, 3, padding="same", kernel_initializer=start)(x)
    return keras.Model(inputs, keras.layers.Add()([inputs, x]))


def resnet(config: vanilla.Config, shape: tuple[int, ...], classes: int) -> keras.Model:
    """A pre-activation ResNet with the stem and readout of `models.vanilla_cnn`.

    Args:
        config: dict of depth, filters, strides, readout, seed.
        shape: (height, width, channels).
        classes: number of logits.

    Returns:
        A `keras.Model`; depth // 2 blocks of two convolutions.
    """
    seeds = iter(range(100 * config["seed"], 100 * config["seed"] + 100))
    x = inputs = keras.Input(shape)
    for stride in vanilla.stem_strides(config):
        start = keras.initializers.HeNormal(seed=next(seeds))
        x = keras.layers.Conv2D(
            config["filters"], 3, strides=stride, padding="same", kernel_initializer=start
        )(x)
        x = keras.layers.Activation("relu")(keras.layers.BatchNormalization()(x))
    block = residual_block(config["filters"], seed=next(seeds))
    x = layers.Repeat(block, max(config["depth"] // 2, 1))(x)
    x = keras.layers.Activation("relu")(keras.layers.BatchNormalization()(x))
    pool = config["readout"] == "pool"
    x = keras.layers.GlobalAveragePooling2D()(x) if pool else keras.layers.Flatten()(x)
    start = keras.initializers.GlorotUniform(seed=next(seeds))
    return keras.Model(inputs, keras.layers.Dense(classes, kernel_initializer=start)(x))


def make_model(config: vanilla.Config, shape: tuple[int, ...], classes: int) -> keras.Model:
    """The network of a point, by its method."""
    method = config["method"]
    if method == "resnet":
        return resnet(config, shape, classes)
    start = {"q_star": config["q_star"]}  # None: 1 / depth
    activation: str | activations.Activation = "tanh"
    if method != "critical tanh":
        # The conditions are for weights that keep the mean square, and no biases.
        start = {"weight_variance": 1.0, "bias_variance": 0.0, "bias_scale": 1.0}
        name = method.removeprefix("tailored ").replace(" ", "_")
        depth = config["depth"] + len(config["strides"])
        own = {"eta": config["eta"]} if name == "leaky_relu" else {"tau": config["tau"]}
        activation = activations.tailored(name, depth, **own)
    return models.vanilla_cnn(
        shape,
        config["depth"],
        config["filters"],
        classes,
        activation=activation,
        padding=config["padding"],
        strides=vanilla.stem_strides(config),
        readout=config["readout"],
        seed=config["seed"],
        **start,
    )


def make_optimizer(config: vanilla.Config) -> keras.optimizers.Optimizer:
    """Adam on a cosine for the network of a point, at the rates of its kinds of layers."""
    plain = config["method"] != "resnet"
    rate = config["learning_rate"] / (config["depth"] if plain else _RESNET_DEPTH)
    adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, config["steps"]))
    outer_rate = config["depth"] / _OUTER_DEPTH if plain else 1.0
    return training.scaled_rates(adam, vanilla.outer_rates({**config, "outer_rate": outer_rate}))


def measure(networks: vanilla_sweep.Networks, point: sweep.Point, folder: pathlib.Path) -> Rows:
    """Trains the network of a point and returns the last row of its table."""
    config, dataset = networks.settings | point, networks.dataset
    plain = point["method"] != "resnet"
    trainer = training.Trainer(
        lambda: make_model(config, dataset.image_shape, dataset.classes),
        lambda model: make_optimizer(config),
        dataset,
        folder,
        strategy=networks.strategy,
        jit_compile=plain and vanilla.jit_compile(config, dataset.image_shape),
        eval_every=config["eval_every"],
        checkpoint_every=config["checkpoint_every"],
        steps_per_execution=config["steps_per_execution"],
        eval_batch_size=sweep.EVAL_BATCH_SIZE,
        verbose=config["preset"] == "paper",
        artifacts=FLAGS.keep_runs,
    )
    rows = sweep.finite_part(trainer, config["steps"])
    if not rows or rows[-1]["step"] < config["steps"]:
        return [dict.fromkeys(("train_loss", "train_accuracy", "test_accuracy"), math.nan)]
    return [{name: value for name, value in rows[-1].items() if name not in ("step", "test_loss")}]


def table(rows: Rows) -> Rows:
    """By method and depth the mean and the standard error over seeds, each at its best rate.

    Args:
        rows: dicts of method, depth, seed, learning_rate, train_loss, test_accuracy.

    Returns:
        list of dicts of method, depth, learning_rate, seeds, train_loss, test_accuracy and the
        latter's standard error over seeds. The best rate has the least mean training loss, and
        none is best that diverged for a seed.
    """
    found = []
    for (method, depth), mine in curves_of(rows, "method", "depth").items():
        rates = curves_of(mine, "learning_rate").values()
        losses = [np.mean(column(each, "train_loss")) for each in rates]
        best = list(rates)[int(np.argmin(np.nan_to_num(losses, nan=np.inf)))]
        accuracy, count = column(best, "test_accuracy"), len(best)
        found.append(
            {
                "method": method,
                "depth": depth,
                "learning_rate": best[0]["learning_rate"],
                "seeds": count,
                "train_loss": float(np.mean(column(best, "train_loss"))),
                "test_accuracy": float(np.mean(accuracy)),
                "error": float(np.std(accuracy, ddof=1) / math.sqrt(count)) if count > 1 else 0.0,
            }
        )
    return found


def report(found: Rows) -> None:
    """Prints the table, and for each method how far its accuracies lie apart over depth."""
    for row in found:
        print(
            f"{row['method']}, {row['depth']:.0f} layers: training loss {row['train_loss']:.3f}, "
            f"test accuracy {row['test_accuracy']:.2%} +- {row['error']:.2%} "
            f"({row['seeds']} seeds, rate {row['learning_rate']:g})"
        )
    for (method,), mine in curves_of(found, "method").items():
        accuracy = column(mine, "test_accuracy")
        print(f"{method}: {np.ptp(accuracy):.2%} between the depths")


def draw(found: Rows) -> Figure:
    """Test accuracy and training loss against depth, a curve for each method."""
    figure, axes = common.subplots(1, 2, figsize=(9, 3.6))
    for (method,), mine in curves_of(found, "method").items():
        depths = column(mine, "depth")
        accuracy, error = column(mine, "test_accuracy"), column(mine, "error")
        axes[0].errorbar(depths, accuracy, error, fmt="o-", capsize=3, label=method)
        axes[1].plot(depths, column(mine, "train_loss"), "o-", label=method)
    axes[0].set(xscale="log", xlabel="depth", ylabel="test accuracy")
    axes[1].set(xscale="log", yscale="log", xlabel="depth", ylabel="training loss")
    axes[1].legend()
    return figure


def define_flags() -> None:
    """Defines the flags of this binary."""
    vanilla_sweep.define_flags("shaped_depth", "depths", "learning_rates")
    common.define_override("seeds", "Draws of each network.", lower_bound=1)
    common.define_override(
        "eta", "Correlation that leaky relu leaves of 0.", flags.DEFINE_float, **ranges.CORRELATION
    )
    common.define_override(
        "tau", "Curvature at 1 of tanh's map.", flags.DEFINE_float, **ranges.CURVATURE
    )
    common.define_names(
        "methods", None, f"Some of {', '.join(METHODS)}. Default: the preset's.", METHODS
    )


def main(_: list[str]) -> None:
    """Trains all networks, writes the table, draws the figure, prints who loses to depth."""
    settings = common.settings(_QUICK, _PAPER)
    directory = sweep.open_sweep(settings)
    networks = vanilla_sweep.Networks(settings)
    points = [
        {"method": method, "depth": int(depth), "seed": seed, "learning_rate": float(rate)}
        for depth in settings["depths"]
        for method in settings["methods"]
        for seed in range(settings["seed"], settings["seed"] + settings["seeds"])
        for rate in settings["learning_rates"]
    ]
    rows = sweep.run(
        points,
        functools.partial(measure, networks),
        directory,
        cost=lambda point: point["depth"] + 20,
    )
    if rows is not None:
        found = table(rows)
        report(found)
        common.save_figure(draw(found), directory / "shaped_depth.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
