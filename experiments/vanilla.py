"""The vanilla CNN of a configuration: its model, optimizer and program.

`experiments.train` trains one, `experiments.vanilla_sweep` many, `tpu.compile_check` none: what a
flag (`experiments.vanilla_flags`) means is written here, once.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from experiments.vanilla_flags import OPTIMIZERS, configuration, define_flags, define_learning_rate
from mfcnn import data, layers, meanfield, models, training

__all__ = [
    "MEASURED_DEPTH",
    "OPTIMIZERS",
    "configuration",
    "define_flags",
    "deep_block_sides",
    "define_learning_rate",
    "jit_compile",
    "learning_rate",
    "make_model",
    "make_optimizer",
    "outer_rates",
    "set_precision",
    "stem_strides",
    "verdict",
]

# The flags that decide what is computed, by name.
Config = Mapping[str, Any]

# The variance profile of each start's kernels.
PROFILES = {"delta_orthogonal": "delta", "orthogonal": "orthogonal", "gaussian": "uniform"}

# Deeper networks take their rate from smaller ones of the same q_star * depth, if that is small
# enough for these to have a small q_star too.
MEASURED_DEPTH = 20_000
_SMALLER_DEPTHS = (500, 1000, 2000)
_LARGEST_KAPPA = 25


def set_precision(config: Config) -> None:
    """Sets Keras's dtype policy for the models that are made from here on."""
    bfloat16 = config["precision"] == "bfloat16"
    keras.config.set_dtype_policy("mixed_bfloat16" if bfloat16 else "float32")


def learning_rate(
    config: Config, model: keras.Model, dataset: data.ImageData | None
) -> tuple[float, str]:
    """The learning rate of the flags, and in words where it comes from."""
    if config["learning_rate"] != "auto":
        return float(config["learning_rate"]), "as given"
    if config["optimizer"] in ("adam", "rmsprop"):
        return 0.01 / config["depth"], "0.01 / depth, the law measured for adaptive steps"
    assert dataset is not None, "a rate from the network's NTK needs its images"
    # From 16 to 256 images lambda_max / n varies by a third. Each replica holds all of these.
    images, rho = next(iter(dataset.train_batches()))[0][:32], config["rho"]
    kappa = config["depth"] * (config["q_star"] or 1 / config["depth"])
    critical = config["weight_variance"] is None and kappa <= _LARGEST_KAPPA
    if config["depth"] > MEASURED_DEPTH and critical:
        rate, lambda_max = _rate_by_law(config, kappa, dataset, images)
        where = f", {training.LAW_SAFETY} * depth * the largest / layer of {_SMALLER_DEPTHS} layers"
    else:
        rates = outer_rates(config)
        rate, lambda_max = training.ntk_learning_rate(model, images, rho, rates=rates)
        where = ""
    return rate, f"{rho} * 2 / lambda_max, lambda_max(NTK) / n = {lambda_max:.4g}{where}"


def _rate_by_law(
    config: Config, kappa: float, dataset: data.ImageData, images: Any
) -> tuple[float, float]:
    """(learning rate, lambda_max) of a network too deep to measure it, q_star = kappa / depth."""
    shape, classes = dataset.image_shape, dataset.classes

    def smaller(depth: int) -> keras.Model:
        own = {"depth": depth, "q_star": kappa / depth}
        if config.get("input_scale"):  # in units of the square root of q_star
            own["input_scale"] = config["input_scale"] * math.sqrt(config["depth"] / depth)
        return make_model({**config, **own}, shape, classes)

    compiled = jit_compile(config, shape)
    return training.extrapolated_learning_rate(
        smaller,
        config["depth"],
        images,
        config["rho"],
        _SMALLER_DEPTHS,
        compiled,
        outer_rates(config),
    )


def make_optimizer(
    config: Config, model: keras.Model, dataset: data.ImageData | None, verbose: bool = True
) -> keras.optimizers.Optimizer:
    """The Keras optimizer of the flags; says which learning rate it takes and why."""
    rate, reason = learning_rate(config, model, dataset)
    if verbose:
        print(f"{config['optimizer']}, learning rate {rate:.4g} ({reason}).", flush=True)
    if config["schedule"] == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, config["steps"])
    optimizer = {
        "sgd": lambda: keras.optimizers.SGD(rate),
        "momentum": lambda: keras.optimizers.SGD(rate, momentum=0.9),
        "rmsprop": lambda: keras.optimizers.RMSprop(rate),
        "adam": lambda: keras.optimizers.Adam(rate),
    }[config["optimizer"]]()
    rates = outer_rates(config)
    return training.scaled_rates(optimizer, rates) if rates else optimizer


def outer_rates(config: Config) -> dict[str, float]:
    """The factors of `--outer_rate` by layer: of all but the deep block; none if they are 1."""
    outer_rate = float(config.get("outer_rate") or 1.0)
    stem = [f"stem_{index}" for index, _ in enumerate(config["strides"], 1)]
    return {} if outer_rate == 1 else dict.fromkeys([*stem, "logits"], outer_rate)


def stem_strides(config: Config) -> tuple[int, ...]:
    """The strides of the stem as a tuple of integers."""
    return tuple(int(stride) for stride in config["strides"])


def deep_block_sides(config: Config, image_shape: Sequence[int]) -> list[int]:
    """Height and width of the deep block's images."""
    sides = list(image_shape[:2])
    for stride in stem_strides(config):
        sides = [math.ceil(side / stride) for side in sides]
    return sides


def make_model(config: Config, image_shape: Sequence[int], classes: int) -> keras.Model:
    """The vanilla CNN of the flags."""
    return models.vanilla_cnn(
        image_shape,
        config["depth"],
        config["filters"],
        classes,
        activation=config["activation"],
        initialization=config["initialization"],
        q_star=config["q_star"],
        weight_variance=config["weight_variance"],
        bias_variance=config["bias_variance"],
        variance_profile=config.get("variance_profile"),
        padding=config["padding"],
        strides=stem_strides(config),
        readout=config["readout"],
        readout_scale=config.get("readout_scale"),
        bias_scale=config.get("bias_scale"),
        seed=config["seed"],
        stem_padding=config.get("stem_padding"),
        critical_readout=bool(config.get("critical_readout")),
        input_scale=config.get("input_scale"),
    )


def verdict(
    config: Config, image_shape: Sequence[int], images: np.ndarray | tf.Tensor | None = None
) -> meanfield.Trainability:
    """What mean field theory says of the deep block of this very network.

    Args:
        config: the configuration, as from `configuration`.
        image_shape: (height, width, channels).
        images: some of the training images, [m, *image_shape]: what the stem makes of them is the
            deep block's input. Without them the input counts as being at the fixed point.

    Returns:
        A `mfcnn.meanfield.Trainability`.
    """
    weight_variance, bias_variance, _ = models.initial_variances(
        config["activation"],
        config["depth"],
        config["q_star"],
        config["weight_variance"],
        config["bias_variance"],
    )
    start = (config["activation"], weight_variance, bias_variance)
    inputs = None
    if images is not None:
        padding = config.get("stem_padding") or config["padding"]
        stem = {"strides": stem_strides(config), "padding": padding}
        inputs = meanfield.stem_variances(images, *start, **stem).mean(axis=0)
        inputs = inputs * (config.get("input_scale") or 1.0) ** 2
        inputs = np.maximum(inputs, 1e-12)  # pixels that are always black
    profile = config.get("variance_profile")
    return meanfield.trainability(
        *start,
        config["depth"],
        variance_profile=PROFILES[config["initialization"]] if profile is None else profile,
        orthogonal=config["initialization"] != "gaussian",
        size=tuple(deep_block_sides(config, image_shape)),
        padding=config["padding"],
        input_variance=inputs,
        width=config["filters"],
    )


def jit_compile(config: Config, image_shape: Sequence[int]) -> bool:
    """Whether XLA compiles the step: as given, else where it is faster."""
    if config["jit_compile"] is not None:
        return config["jit_compile"]
    if config["fused"]:
        return False
    if config["strategy"] == "tpu" or tf.config.list_physical_devices("GPU"):
        return True
    if config["strategy"] == "mirrored":
        return False  # each logical CPU would compile a program of its own
    positions = config["batch_size"] * math.prod(deep_block_sides(config, image_shape))
    return layers.xla_is_faster(config["filters"], positions)
