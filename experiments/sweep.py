"""Sweeps: a list of points, each measured once, whatever interrupts it.

    rows = sweep.run(points, measure, directory, cost)

A point is a dict of what differs between the networks. Its rows are in `metrics.csv` as soon as it
is done; a killed sweep goes on with the first point that is not, and there from the last
checkpoint, and ends with the same file, byte for byte. With --shard_count hosts each takes every
shard_count-th point into a file of its own; the one that ends last puts all together.

`Networks` trains the points of a sweep of vanilla CNNs by the parts of `experiments.train`, with
one compiled program for all points that differ in the values of variables only.
"""

import contextlib
import csv
import shutil
import time

from absl import flags, logging

from experiments import common, train
from mfcnn import data, layers, models, training
from mfcnn.activations import NAMES as ACTIVATIONS

__all__ = [
    "EVAL_BATCH_SIZE",
    "Networks",
    "define_flags",
    "define_network_flags",
    "finite_part",
    "network_settings",
    "open_sweep",
    "run",
]

FLAGS = flags.FLAGS
EVAL_BATCH_SIZE = 256


def define_flags(name):
    """Defines the flags of every sweep, those of `common.define_flags` among them."""
    common.define_flags(name)
    flags.DEFINE_integer("shard_count", 1, "Hosts that share the sweep.", lower_bound=1)
    flags.DEFINE_integer("shard_index", 0, "Which of them this one is.", lower_bound=0)
    flags.DEFINE_boolean(
        "keep_runs", False, "Keep the checkpoints, curves and model of each finished point."
    )
    flags.register_multi_flags_validator(
        ["shard_index", "shard_count"],
        lambda values: values["shard_index"] < values["shard_count"],
        "shard_index must be below shard_count",
    )


def open_sweep(settings):
    """Makes --output_dir with its config.json, or checks that it holds the same sweep.

    Returns:
      The directory as a pathlib.Path.
    """
    logging.set_verbosity(logging.WARNING)  # the notes of libraries would hide the progress
    try:
        return training.open_run(FLAGS.output_dir, settings)
    except training.ConfigurationError as error:
        raise SystemExit(f"{FLAGS.output_dir}: {error}") from error


def run(points, measure, directory, cost=lambda point: 1.0):
    """Measures the points of this shard that are not yet done, in their order.

    Args:
      points: list of dicts of numbers and strings with the same keys, no two alike.
      measure: function from a point and a folder of its own to a list of dicts with the same keys.
        Called again with the same folder after a kill.
      directory: pathlib.Path of the sweep; gets metrics.csv.
      cost: function from a point to a number proportional to its time, for the time left.

    Returns:
      All rows in the order of the points, read back from the file (numbers as float), or None as
      long as other shards are not done.
    """
    index, count = FLAGS.shard_index, FLAGS.shard_count
    path = directory / (f"metrics-{index}-of-{count}.csv" if count > 1 else "metrics.csv")
    rows = _read(path)
    done = _keys_of(rows, points[0])
    mine = [(point, directory / "points" / str(i)) for i, point in enumerate(points)][index::count]
    todo = [(point, folder) for point, folder in mine if _key(point) not in done]
    left, spent, measured = sum(cost(point) for point, _ in todo), 0.0, 0.0
    for position, (point, folder) in enumerate(todo, len(mine) - len(todo) + 1):
        start = time.monotonic()
        results = measure(point, folder)
        rows += [point | result for result in results]
        common.write_csv(path, rows)
        spent, measured = spent + time.monotonic() - start, measured + cost(point)
        _say(position, len(mine), point, results[-1], spent / measured * (left - measured))
        _clear(folder)
    for _, folder in mine:  # what a kill between a point's rows and its clearing has left
        _clear(folder)
    return _all_rows(points, path, directory)


def _clear(folder):
    """Removes the folder of a finished point; other shards may still have theirs beside it."""
    if not FLAGS.keep_runs:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty yet, or not there
            folder.parent.rmdir()


def _say(position, count, point, result, left):
    words = [f"{k}={_short(v)}" for k, v in {**point, **result}.items()]
    print(f"[{position}/{count}] {' '.join(words)}; about {_duration(left)} left", flush=True)


def _short(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds):
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _all_rows(points, path, directory):
    rows = _read(path)
    if FLAGS.shard_count > 1:
        names = [f"metrics-{i}-of-{FLAGS.shard_count}.csv" for i in range(FLAGS.shard_count)]
        rows = [row for name in names for row in _read(directory / name)]
        missing = len(points) - len(_keys_of(rows, points[0]))
        if missing:
            print(f"This shard is done; {missing} points of other shards are not.")
            return None
        order = {_key(point): i for i, point in enumerate(points)}
        rows.sort(key=lambda row: order[_key({name: row[name] for name in points[0]})])
        common.write_csv(directory / "metrics.csv", rows)
    return [{name: _number(value) for name, value in row.items()} for row in rows]


def _read(path):
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _key(point):
    """A point as it stands in the file."""
    return tuple(common.csv_text(value) for value in point.values())


def _keys_of(rows, point):
    return {tuple(row[name] for name in point) for row in rows}


def _number(text):
    try:
        return float(text)
    except ValueError:
        return text


# Sweeps of vanilla CNNs.

_FLAGS = {
    "dataset": (flags.DEFINE_enum, "Data set.", {"enum_values": data.NAMES}),
    "subset": (flags.DEFINE_integer, "Training examples to use.", {"lower_bound": 1}),
    "test_subset": (flags.DEFINE_integer, "Test examples to use.", {"lower_bound": 1}),
    "resize": (flags.DEFINE_integer, "Side of the images in pixels.", {"lower_bound": 1}),
    "filters": (flags.DEFINE_integer, "Channels of the deep block.", {"lower_bound": 1}),
    "activation": (flags.DEFINE_enum, "Activation.", {"enum_values": ACTIVATIONS}),
    "padding": (flags.DEFINE_enum, "same (zeros) or circular.", {"enum_values": layers.PADDINGS}),
    "strides": (flags.DEFINE_list, "Strides of the stem's convolutions.", {}),
    "readout": (flags.DEFINE_enum, "pool or flatten.", {"enum_values": models.READOUTS}),
    "optimizer": (flags.DEFINE_enum, "Optimizer.", {"enum_values": train.OPTIMIZERS}),
    "learning_rate": (flags.DEFINE_string, "A number or auto, see experiments.train.", {}),
    "batch_size": (flags.DEFINE_integer, "Examples in a step.", {"lower_bound": 1}),
    "steps": (flags.DEFINE_integer, "Training steps of each network.", {"lower_bound": 1}),
    "eval_every": (flags.DEFINE_integer, "Steps between two rows.", {"lower_bound": 1}),
    "checkpoint_every": (flags.DEFINE_integer, "Steps between two checkpoints.",
                         {"lower_bound": 1}),
    "steps_per_execution": (flags.DEFINE_integer, "Steps in one call.", {"lower_bound": 1}),
    "jit_compile": (flags.DEFINE_boolean, "XLA for the step; None: where it is faster.", {}),
    "strategy": (flags.DEFINE_enum, "Where to run; several hosts share a sweep by shards.",
                 {"enum_values": [s for s in training.STRATEGIES if s != "multiworker"]}),
    "tpu": (flags.DEFINE_string, "TPU name or address, for strategy=tpu.", {}),
}  # fmt: skip


def define_network_flags():
    """Defines a flag for each of `network_settings`; its default is the preset's value."""
    for name, (kind, text, options) in _FLAGS.items():
        common.define_override(name, text, kind, **options)


def network_settings(**values):
    """The settings of a sweep of vanilla CNNs: those given, and for the rest of `_FLAGS` these."""
    return {
        "dataset": "mnist", "subset": None, "test_subset": None, "resize": None, "filters": 16,
        "activation": "tanh", "strides": ["1", "2", "2"], "padding": "circular",
        "readout": "pool", "optimizer": "adam",
        "learning_rate": "auto", "batch_size": 32, "steps": 200, "eval_every": 100,
        "checkpoint_every": None, "steps_per_execution": 10, "jit_compile": None,
        "strategy": "default", "tpu": "local",
    } | values  # fmt: skip


# What is compiled into a program; all else is values of variables. The start gives the scales of
# readout and biases where they are not set.
_PROGRAM = (
    "depth", "filters", "activation", "strides", "padding", "readout", "readout_scale", "optimizer"
)  # fmt: skip
_START = ("q_star", "weight_variance", "bias_variance")


class Networks:
    """Trains the networks of a sweep, each from its own start, with as few programs as there are.

    Args:
      settings: dict as from `network_settings`, and a seed.
    """

    def __init__(self, settings):
        # What `experiments.train` knows and a sweep does not set has its default.
        self.settings = train.configuration(default=True) | settings
        self.strategy = training.make_strategy(settings["strategy"], settings["tpu"])
        names = ("seed", "subset", "test_subset", "resize")
        self.dataset = data.load(
            settings["dataset"], settings["batch_size"], **{name: settings[name] for name in names}
        )
        self._program = self._trainer = None

    def curve(self, point, folder, **settings):
        """Trains the network of a point.

        Args:
          point: dict of settings, among them depth.
          folder: pathlib.Path of the run; a run that was killed goes on from there.
          **settings: of this network, that are not among the columns.

        Returns:
          The rows of the run's metrics.csv, to the last one before the loss overflowed if it did.
        """
        config = self.settings | point | settings
        names = _PROGRAM
        if config.get("readout_scale"):
            config["bias_scale"] = 1 / config["readout_scale"]
        else:
            names += _START
        program = [config.get(name) for name in names]
        make = (
            lambda: train.make_model(config, self.dataset.image_shape, self.dataset.classes),
            lambda model: train.make_optimizer(config, model, self.dataset, verbose=False),
        )
        title = " ".join(f"{k}={_short(v)}" for k, v in point.items())
        if program == self._program:
            self._trainer.restart(*make, folder, title)
        else:
            self._trainer = training.Trainer(
                *make, self.dataset, folder, strategy=self.strategy,
                jit_compile=train.jit_compile(config, self.dataset.image_shape),
                eval_every=config["eval_every"],
                checkpoint_every=config["checkpoint_every"],
                steps_per_execution=config["steps_per_execution"],
                eval_batch_size=EVAL_BATCH_SIZE, title=title,
                verbose=config["preset"] == "paper", artifacts=FLAGS.keep_runs,
            )  # fmt: skip
            self._program = program
        return finite_part(self._trainer, config["steps"])


def finite_part(trainer, steps):
    """Runs a trainer and returns its rows; where the loss overflows, those up to there."""
    try:
        trainer.run(steps)
    except FloatingPointError:
        pass  # a result like any other: this network does not train at this learning rate
    return [row | {"step": int(row["step"])} for row in trainer.metrics.rows()]
