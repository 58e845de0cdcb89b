"""Sweeps of vanilla CNNs, with one compiled program for all points that differ in values only."""

import math
import pathlib
from collections.abc import Callable
from typing import Any

from absl import flags
from matplotlib.axes import Axes

from experiments import common, ranges, sweep, vanilla
from experiments.curves import Rows, column
from mfcnn import data, layers, models, training
from mfcnn.activations import NAMES as ACTIVATIONS

__all__ = [
    "PAPER_NETWORK",
    "PAPER_VARIANCES",
    "Networks",
    "define_flags",
    "network_settings",
    "paper_width",
    "plot_accuracy",
    "steps_to",
]

FLAGS = flags.FLAGS

_FLAGS: dict[str, tuple[Callable, str, dict[str, Any]]] = {
    "dataset": (flags.DEFINE_enum, "Data set.", {"enum_values": data.NAMES}),
    "subset": (flags.DEFINE_integer, "Training examples to use.", {"lower_bound": 1}),
    "test_subset": (flags.DEFINE_integer, "Test examples to use.", {"lower_bound": 1}),
    "resize": (flags.DEFINE_integer, "Side of the images in pixels.", {"lower_bound": 1}),
    "filters": (flags.DEFINE_integer, "Channels of the deep block.", {"lower_bound": 1}),
    "activation": (flags.DEFINE_enum, "Activation.", {"enum_values": ACTIVATIONS}),
    "q_star": (
        flags.DEFINE_float,
        "Start on the critical line with this fixed-point variance; None: 1 / depth.",
        ranges.Q_STAR,
    ),
    "padding": (flags.DEFINE_enum, "same (zeros) or circular.", {"enum_values": layers.PADDINGS}),
    "strides": (
        common.define_numbers,
        "Strides of the stem's convolutions.",
        {"integers": True, "lower_bound": 1, "empty": True},
    ),
    "readout": (flags.DEFINE_enum, "pool or flatten.", {"enum_values": models.READOUTS}),
    "optimizer": (flags.DEFINE_enum, "Optimizer.", {"enum_values": vanilla.OPTIMIZERS}),
    "learning_rate": (vanilla.define_learning_rate, "A number or auto, see experiments.train.", {}),
    "batch_size": (flags.DEFINE_integer, "Examples in a step.", {"lower_bound": 1}),
    "steps": (flags.DEFINE_integer, "Training steps of each network.", {"lower_bound": 1}),
    "eval_every": (flags.DEFINE_integer, "Steps between two rows.", {"lower_bound": 1}),
    "checkpoint_every": (
        flags.DEFINE_integer,
        "Steps between two checkpoints.",
        {"lower_bound": 1},
    ),
    "steps_per_execution": (flags.DEFINE_integer, "Steps in one call.", {"lower_bound": 1}),
    "jit_compile": (flags.DEFINE_boolean, "XLA for the step; None: where it is faster.", {}),
    "strategy": (
        flags.DEFINE_enum,
        "Where to run; several hosts share a sweep by shards.",
        {"enum_values": [s for s in training.STRATEGIES if s != "multiworker"]},
    ),
    "tpu": (flags.DEFINE_string, "TPU name or address, for strategy=tpu.", {}),
}


# What one sweep or another runs over or asks of its networks.
_SWEPT: dict[str, tuple[Callable, str, dict[str, Any]]] = {
    "depth": (flags.DEFINE_integer, "Layers of the deep block.", {"lower_bound": 1}),
    "depths": (common.define_numbers, "Depths.", {"integers": True, "lower_bound": 1}),
    "initializations": (
        common.define_names,
        f"Some of {', '.join(models.INITIALIZATIONS)}.",
        {"accepted": models.INITIALIZATIONS},
    ),
    "learning_rates": (
        common.define_numbers,
        "Learning rates times the depth, tried for each.",
        ranges.POSITIVE_LEARNING_RATE,
    ),
    "weight_variances": (common.define_numbers, "Values of sigma_w^2.", ranges.POSITIVE_VARIANCE),
    "target": (flags.DEFINE_float, "Training accuracy to reach.", ranges.FRACTION),
}


def define_flags(name: str, *swept: str) -> None:
    """Defines the flags of a sweep of vanilla CNNs.

    Args:
        name: of the binary.
        *swept: names of `_SWEPT` that it has beside those of `network_settings`. The default of
            all is the preset's value.
    """
    sweep.define_flags(name)
    chosen = {other: _SWEPT[other] for other in swept}
    for flag, (kind, text, options) in (_FLAGS | chosen).items():
        common.define_override(flag, text, kind, **options)


def network_settings(**values: Any) -> dict[str, Any]:
    """The settings of a sweep of vanilla CNNs: those given, and for the rest of `_FLAGS` these."""
    return {
        "dataset": "mnist",
        "subset": None,
        "test_subset": None,
        "resize": None,
        "filters": 16,
        "activation": "tanh",
        "q_star": None,
        "strides": ["1", "2", "2"],
        "padding": "circular",
        "stem_padding": None,
        "readout_scale": None,
        "critical_readout": False,
        "readout": "pool",
        "optimizer": "adam",
        "learning_rate": "auto",
        "batch_size": 32,
        "steps": 200,
        "eval_every": 100,
        "checkpoint_every": None,
        "steps_per_execution": 10,
        "jit_compile": None,
        "strategy": "default",
        "tpu": "local",
    } | values


# The CNN paper's network (section 3), and where it is silent that of the authors' public demo:
# a SAME stem before a circular deep block, pooling, nothing rescaled, the readout drawn with the
# variances of all other layers, momentum 0.9 at 0.001, batches of 100. Widths follow the depth.
PAPER_NETWORK = {
    "activation": "tanh",
    "q_star": None,
    "filters": None,
    "strides": ["1", "2", "2"],
    "padding": "circular",
    "stem_padding": "same",
    "readout": "pool",
    "readout_scale": 1.0,
    "critical_readout": True,
    "optimizer": "momentum",
    "learning_rate": "0.001",
    "batch_size": 100,
    "resize": None,
    "subset": None,
    "test_subset": None,
}
# Figure by figure: what the paper says of it. The variances are those of the demo.
PAPER_VARIANCES = {"weight_variance": 1.05, "bias_variance": 2.01e-5}


def paper_width(depth: int) -> int:
    """Channels of the paper's networks: 256 up to 256 layers, 128 beyond."""
    return 256 if depth <= 256 else 128


# What is compiled into a program; all else is values of variables. The start gives the scales of
# readout and biases where they are not set.
_PROGRAM = (
    "depth",
    "filters",
    "activation",
    "strides",
    "padding",
    "stem_padding",
    "readout",
    "readout_scale",
    "input_scale",
    "optimizer",
    "outer_rate",
)
_START = ("q_star", "weight_variance", "bias_variance")


class Networks:
    """Trains the networks of a sweep, each from its own start, with as few programs as there are.

    Args:
        settings: dict as from `network_settings`, and a seed.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        # What the main job knows and a sweep does not set has its default.
        self.settings = vanilla.configuration(default=True) | settings
        self.strategy = training.make_strategy(settings["strategy"], settings["tpu"])
        names = ("seed", "subset", "test_subset", "resize")
        self.dataset = data.load(
            settings["dataset"], settings["batch_size"], **{name: settings[name] for name in names}
        )
        self._program: list[Any] | None = None
        self._trainer: training.Trainer | None = None

    def curve(self, point: sweep.Point, folder: pathlib.Path, **settings: Any) -> Rows:
        """Trains the network of a point.

        Args:
            point: dict of settings, among them depth.
            folder: of the run; a run that was killed goes on from there.
            **settings: of this network, that are not among the columns.

        Returns:
            The rows of the run's metrics.csv, to the last one before the loss overflowed if it did.
        """
        config = self.settings | point | settings
        if config["filters"] is None:
            config["filters"] = paper_width(config["depth"])
        names: tuple[str, ...] = _PROGRAM
        if config.get("readout_scale"):
            config["bias_scale"] = 1 / config["readout_scale"]
        else:
            names += _START
        program = [config.get(name) for name in names]
        make = (
            lambda: vanilla.make_model(config, self.dataset.image_shape, self.dataset.classes),
            lambda model: vanilla.make_optimizer(config, model, self.dataset, verbose=False),
        )
        title = " ".join(f"{k}={sweep.short(v)}" for k, v in point.items())
        if self._trainer is not None and program == self._program:
            self._trainer.restart(*make, folder, title)
        else:
            self._trainer = training.Trainer(
                *make,
                self.dataset,
                folder,
                strategy=self.strategy,
                jit_compile=vanilla.jit_compile(config, self.dataset.image_shape),
                eval_every=config["eval_every"],
                checkpoint_every=config["checkpoint_every"],
                steps_per_execution=config["steps_per_execution"],
                eval_batch_size=sweep.EVAL_BATCH_SIZE,
                title=title,
                verbose=config["preset"] == "paper",
                artifacts=FLAGS.keep_runs,
            )
            self._program = program
        return sweep.finite_part(self._trainer, config["steps"])


def steps_to(curve: Rows, target: float) -> float:
    """The first step with that training accuracy since the row before, or infinity."""
    return min((r["step"] for r in curve if r["train_accuracy"] >= target), default=math.inf)


def plot_accuracy(axis: Axes, curve: Rows, solid: str, dashed: str, **look: Any) -> None:
    """Draws the accuracies of two splits, "train" and "test", over the steps."""
    steps = column(curve, "step")
    axis.plot(steps, column(curve, f"{solid}_accuracy"), "-", **look)
    axis.plot(steps, column(curve, f"{dashed}_accuracy"), "--", **look | {"label": None})
