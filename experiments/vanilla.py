"""The vanilla CNN of a configuration: its flags, model, optimizer and program.

`experiments.train` trains one, `experiments.vanilla_sweep` many, `tpu.compile_check` none: what a
flag means is written here, once.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from experiments import ranges
from mfcnn import data, layers, meanfield, models, training
from mfcnn.activations import NAMES as ACTIVATIONS

__all__ = [
    "OPTIMIZERS",
    "configuration",
    "define_flags",
    "deep_block_sides",
    "define_learning_rate",
    "jit_compile",
    "learning_rate",
    "make_model",
    "make_optimizer",
    "set_precision",
    "stem_strides",
    "verdict",
]

# The flags that decide what is computed, by name.
Config = Mapping[str, Any]

PRECISIONS = ("float32", "bfloat16")
OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam")

# The variance profile of each start's kernels.
PROFILES = {"delta_orthogonal": "delta", "orthogonal": "orthogonal", "gaussian": "uniform"}

FLAGS = flags.FLAGS
_MOST_RATE = ranges.LEARNING_RATE["upper_bound"]


def define_flags(flag_values: flags.FlagValues = FLAGS) -> None:
    """Defines the flags of the main job, with what they accept."""
    define = _Definer(flag_values)
    _define_data(define)
    _define_network(define)
    _define_optimizer(define, flag_values)
    _define_training(define)
    _define_machine(define)
    define.string("output_dir", "runs/train", "Where the run is kept.")
    _validate(flag_values)


class _Definer:
    """absl's DEFINE functions for one set of flag values."""

    def __init__(self, flag_values: flags.FlagValues) -> None:
        self._flag_values = flag_values

    def __getattr__(self, kind: str) -> Callable:
        return functools.partial(getattr(flags, f"DEFINE_{kind}"), flag_values=self._flag_values)


def _define_data(define: _Definer) -> None:
    define.enum("dataset", "digits", data.NAMES, "Data set; digits needs no download.")
    define.integer("subset", None, "Training examples to use; all if not given.", lower_bound=1)
    define.integer("test_subset", None, "Test examples to use; all if not given.", lower_bound=1)
    define.integer("resize", None, "Side of the images in pixels.", lower_bound=1)


def _define_network(define: _Definer) -> None:
    define.integer("depth", 1000, "Convolutions of the deep block.", lower_bound=1)
    define.integer("filters", 16, "Channels of the deep block.", lower_bound=1)
    define.enum(
        "initialization", "delta_orthogonal", models.INITIALIZATIONS, "Kernels of the deep block."
    )
    define.enum("activation", "tanh", ACTIVATIONS, "Activation.")
    define.float(
        "q_star",
        None,
        "Start on the critical line with this fixed-point variance; "
        "1 / depth if no variance is given.",
        **ranges.Q_STAR,
    )
    weight_variance = "sigma_w^2, with bias_variance instead of q_star."
    define.float("weight_variance", None, weight_variance, **ranges.VARIANCE)
    define.float("bias_variance", None, "sigma_b^2.", **ranges.VARIANCE)
    define.enum(
        "padding",
        "same",
        layers.PADDINGS,
        "same (zeros) or circular. Zeros break the symmetry by which pooling sees only the sum "
        "over positions, and a deep network learns several times faster.",
    )
    define.enum(
        "stem_padding", None, layers.PADDINGS, "Of the stem alone; as padding if not given."
    )
    define.float(
        "readout_scale",
        None,
        "Factor before the readout; 1 is none, 1 / sqrt(q_star) the default.",
        **ranges.SCALE,
    )
    define.float(
        "bias_scale",
        None,
        "The deep block's bias variables are divided by it; sqrt(q_star) if not given, 1 is none.",
        **ranges.SCALE,
    )
    define.boolean(
        "critical_readout",
        False,
        "Readout of variances sigma_w^2 / fan_in and sigma_b^2, instead of 1 / fan_in and 0.",
    )
    define.list("strides", ["1", "2", "2"], "Strides of the stem's 3x3 convolutions.")
    define.enum("readout", "pool", models.READOUTS, "Global average pooling or flatten.")


def _define_optimizer(define: _Definer, flag_values: flags.FlagValues) -> None:
    define.enum("optimizer", "adam", OPTIMIZERS, "Optimizer; momentum is SGD with 0.9.")
    define_learning_rate(
        "learning_rate",
        "auto",
        "A number, or auto: for sgd and momentum rho * 2 / lambda_max of the own NTK on 32 "
        "images, for adam and rmsprop 0.01 / depth.",
        flag_values=flag_values,
    )
    define.enum(
        "schedule",
        "constant",
        ("constant", "cosine"),
        "The learning rate over the steps: constant, or falling to zero along a cosine.",
    )
    rho = "Fraction of the largest stable rate, for auto."
    define.float("rho", 0.3, rho, **ranges.RELATIVE_RATE)
    define.boolean(
        "fused",
        False,
        "Update each layer inside the backward pass (sgd and momentum): the gradient of the whole "
        "stack never exists.",
    )


def _define_training(define: _Definer) -> None:
    define.integer("batch_size", 32, "Examples in a step, of all replicas.", lower_bound=1)
    define.integer("steps", 800, "Training steps in all.", lower_bound=1)
    define.integer("eval_every", 100, "Steps between two rows of metrics.csv.", lower_bound=1)
    define.integer(
        "checkpoint_every",
        None,
        "Steps between two checkpoints; eval_every if not given.",
        lower_bound=1,
    )
    define.integer("seed", 0, "Seed of weights and data order.", lower_bound=0)


def _define_machine(define: _Definer) -> None:
    define.enum(
        "strategy",
        "default",
        training.STRATEGIES,
        "Where to run: default, one device; mirrored, all local GPUs or logical CPUs; "
        "multiworker, a process on each host of TF_CONFIG; tpu.",
    )
    define.boolean(
        "shard_stack",
        False,
        "Spread the deep stack over the replicas of a TPU: each holds [depth, parameters / "
        "replicas] of weights, slots and gradient.",
    )
    define.integer("logical_cpus", None, "Logical devices to split the CPU into.", lower_bound=1)
    define.string("tpu", "local", "TPU name or address, for strategy=tpu.")
    define.float(
        "worker_timeout", 300.0, "Seconds to wait for the other hosts or the TPU.", **ranges.SECONDS
    )
    define.enum(
        "precision",
        "float32",
        PRECISIONS,
        "Of the computation; variables and loss are float32 in every case.",
    )
    define.boolean(
        "jit_compile",
        None,
        "XLA for the step; by default where it is faster: "
        "always, but on a CPU only for small layers.",
    )
    define.integer("steps_per_execution", 10, "Steps in one call.", lower_bound=1)


def _validate(flag_values: flags.FlagValues) -> None:
    """Registers what is asked of a value, or of several flags together."""
    flags.register_validator(
        "weight_variance",
        lambda value: value is None or value > 0,
        "weight_variance must be positive",
        flag_values=flag_values,
    )
    flags.register_validator(
        "strides",
        lambda value: all(s.isdigit() and 0 < int(s) <= ranges.MOST for s in value),
        "strides must be positive integers, as 1,2,2",
        flag_values=flag_values,
    )
    flags.register_multi_flags_validator(
        ["logical_cpus", "strategy"],
        lambda values: values["logical_cpus"] is None or values["strategy"] == "mirrored",
        "logical_cpus needs strategy=mirrored",
        flag_values=flag_values,
    )
    flags.register_multi_flags_validator(
        ["shard_stack", "strategy", "fused"],
        lambda values: (
            not values["shard_stack"] or (values["strategy"] == "tpu" and not values["fused"])
        ),
        "shard_stack needs strategy=tpu, and not fused",
        flag_values=flag_values,
    )
    flags.register_multi_flags_validator(
        ["q_star", "weight_variance", "bias_variance"],
        _is_one_start,
        "give q_star, or both weight_variance and bias_variance, or none of the three",
        flag_values=flag_values,
    )


def define_learning_rate(
    name: str, default: str | None, help: str, flag_values: flags.FlagValues = FLAGS
) -> None:
    """Defines a flag for a positive number or auto."""
    flags.DEFINE_string(name, default, help, flag_values=flag_values)
    flags.register_validator(
        name,
        lambda value: value is None or value == "auto" or _is_rate(value),
        f"{name} must be auto or a positive number of at most {_MOST_RATE:g}",
        flag_values=flag_values,
    )


def _is_rate(value: Any) -> bool:
    try:
        return 0 < float(value) <= _MOST_RATE
    except ValueError:
        return False


def _is_one_start(values: Mapping[str, Any]) -> bool:
    variances = (values["weight_variance"] is None, values["bias_variance"] is None)
    return all(variances) or (not any(variances) and values["q_star"] is None)


def configuration(default: bool = False) -> dict[str, Any]:
    """The main job's flags that decide what is computed, or their defaults, as a dict."""
    names = flags.FlagValues()
    define_flags(names)
    values = names if default else FLAGS
    return {name: values[name].value for name in names if name != "output_dir"}


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
    images, _ = next(iter(dataset.train_batches()))
    # From 16 to 256 images lambda_max / n varies by a third. Each replica holds all of these.
    rate, lambda_max = training.ntk_learning_rate(model, images[:32], config["rho"])
    return rate, f"{config['rho']} * 2 / lambda_max, lambda_max(NTK) / n = {lambda_max:.4g}"


def make_optimizer(
    config: Config, model: keras.Model, dataset: data.ImageData | None, verbose: bool = True
) -> keras.optimizers.Optimizer:
    """The Keras optimizer of the flags; says which learning rate it takes and why."""
    rate, reason = learning_rate(config, model, dataset)
    if verbose:
        print(f"{config['optimizer']}, learning rate {rate:.4g} ({reason}).", flush=True)
    if config["schedule"] == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, config["steps"])
    return {
        "sgd": lambda: keras.optimizers.SGD(rate),
        "momentum": lambda: keras.optimizers.SGD(rate, momentum=0.9),
        "rmsprop": lambda: keras.optimizers.RMSprop(rate),
        "adam": lambda: keras.optimizers.Adam(rate),
    }[config["optimizer"]]()


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
