"""The flags of the vanilla CNN: what each accepts and means, written once.

`experiments.vanilla` makes the network of them.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from experiments import ranges
from mfcnn import data, layers, models, training
from mfcnn.activations import NAMES as ACTIVATIONS

__all__ = ["OPTIMIZERS", "configuration", "define_flags", "define_learning_rate"]

PRECISIONS = ("float32", "bfloat16")
OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam")

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
    define.integer(
        "shift",
        0,
        "Augmentation: training images are moved by up to so many pixels, anew in each epoch.",
        lower_bound=0,
    )


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
    define.float(
        "input_scale",
        None,
        "Factor on the deep block's input; 1 if not given, sqrt(q_star) for signals of the fixed "
        "point's variance.",
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
        "images, above 20,000 layers by its law from smaller networks; for adam and rmsprop "
        "0.01 / depth.",
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
    define.float(
        "outer_rate",
        1.0,
        "Learning rate of stem and readout as a multiple of the deep block's, which falls like "
        "1 / depth: depth / 100 gives them that of a network of 100 layers.",
        **ranges.SCALE,
    )
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
        ["outer_rate", "fused"],
        lambda values: values["outer_rate"] == 1 or not values["fused"],
        "outer_rate needs an optimizer that is not fused",
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
