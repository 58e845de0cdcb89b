"""Sweeps: a list of points, each measured once, whatever interrupts it.

    rows = sweep.run(points, measure, directory, cost)

A point is a dict of what differs between the networks. Its rows are in `metrics.csv` as soon as it
is done; a killed sweep goes on with the first point that is not, and there from the last
checkpoint, and ends with the same file, byte for byte. With --shard_count hosts each takes every
shard_count-th point into a file of its own; the one that ends last puts all together.

What a point is, the sweep does not know; `vanilla_sweep` and `dense_networks` train networks.
"""

import contextlib
import csv
import io
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags, logging

from experiments import common
from experiments.curves import Rows
from mfcnn import files, training
from mfcnn.run_directory import RunDirectory

__all__ = ["EVAL_BATCH_SIZE", "Point", "define_flags", "finite_part", "open_sweep", "run", "short"]

FLAGS = flags.FLAGS
Point = dict[str, Any]
EVAL_BATCH_SIZE = 256


def define_flags(name: str) -> None:
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


def open_sweep(settings: Mapping[str, Any]) -> RunDirectory:
    """Makes --output_dir with its config.json, or checks that it holds the same sweep."""
    logging.set_verbosity(logging.WARNING)  # the notes of libraries would hide the progress
    return common.prepare_output_dir(settings, (FLAGS.shard_index, FLAGS.shard_count))


def run(
    points: Sequence[Point],
    measure: Callable[[Point, pathlib.Path], Rows],
    directory: RunDirectory | pathlib.Path,
    cost: Callable[[Point], float] = lambda point: 1.0,
    *,
    shard: tuple[int, int] | None = None,
    keep_runs: bool | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Rows | None:
    """Measures the points of this shard that are not yet done, in their order.

    Args:
        points: dicts of numbers and strings with the same keys, no two alike.
        measure: function from a point and a folder of its own to a list of dicts with the same
            keys. Called again with the same folder after a kill.
        directory: of the sweep; gets metrics.csv.
        cost: function from a point to a number proportional to its time, for the time left.
        shard: (index, count) of this host among those that share the sweep; None is the flags'.
        keep_runs: whether the folders of finished points stay; None is the flag's.
        clock: the time in seconds.

    Returns:
        All rows in the order of the points, read back from the file (numbers as float), or None as
        long as other shards are not done.
    """
    index, count = shard or (FLAGS.shard_index, FLAGS.shard_count)
    keep_runs = FLAGS.keep_runs if keep_runs is None else keep_runs
    path = directory / (f"metrics-{index}-of-{count}.csv" if count > 1 else "metrics.csv")
    rows = _read(path)
    done = _keys_of(rows, points[0])
    mine = [(point, directory / "points" / str(i)) for i, point in enumerate(points)][index::count]
    todo = [(point, folder) for point, folder in mine if _key(point) not in done]
    left, spent, measured = sum(cost(point) for point, _ in todo), 0.0, 0.0
    for position, (point, folder) in enumerate(todo, len(mine) - len(todo) + 1):
        start = clock()
        results = measure(point, folder)
        rows += [point | result for result in results]
        files.write_checked(path, common.csv_of(rows))
        spent, measured = spent + clock() - start, measured + cost(point)
        _say(position, len(mine), point, results[-1], spent / measured * (left - measured))
        if not keep_runs:
            _clear(folder)
    if not keep_runs:  # what a kill between a point's rows and its clearing has left
        for _, folder in mine:
            _clear(folder)
    return _all_rows(points, path, directory, count)


def _clear(folder: pathlib.Path) -> None:
    """Removes the folder of a finished point; other shards may still have theirs beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty yet, or not there
        folder.parent.rmdir()


def _say(position: int, count: int, point: Point, result: Point, left: float) -> None:
    words = [f"{k}={short(v)}" for k, v in {**point, **result}.items()]
    print(f"[{position}/{count}] {' '.join(words)}; about {_duration(left)} left", flush=True)


def short(value: Any) -> str:
    """A setting's value for a line of text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _all_rows(
    points: Sequence[Point],
    path: pathlib.Path,
    directory: RunDirectory | pathlib.Path,
    shard_count: int,
) -> Rows | None:
    rows = _read(path)
    if shard_count > 1:
        names = [f"metrics-{i}-of-{shard_count}.csv" for i in range(shard_count)]
        rows = [row for name in names for row in _read(directory / name)]
        missing = len(points) - len(_keys_of(rows, points[0]))
        if missing:
            print(f"This shard is done; {missing} points of other shards are not.")
            return None
        order = {_key(point): i for i, point in enumerate(points)}
        rows.sort(key=lambda row: order[_key({name: row[name] for name in points[0]})])
        files.write_checked(directory / "metrics.csv", common.csv_of(rows))
    return [{name: _number(value) for name, value in row.items()} for row in rows]


def _read(path: pathlib.Path) -> Rows:
    """The rows of a table as text, none where there is no table."""
    if not files.was_checked(path):
        return []
    remedy = (
        f"Put it back from a copy, or remove it and .{path.name}.sha256: its points are then "
        "measured again."
    )
    rows = list(csv.DictReader(io.StringIO(files.read_checked(path, remedy), newline="")))
    whole = all(None not in row and None not in row.values() for row in rows)
    if not rows or not whole:
        raise files.DamagedFileError(path, "a row has too few or too many values", remedy)
    return rows


def _key(point: Point) -> tuple[str, ...]:
    """A point as it stands in the file."""
    return tuple(common.csv_text(value) for value in point.values())


def _keys_of(rows: Rows, point: Point) -> set[tuple[str, ...]]:
    return {tuple(row[name] for name in point) for row in rows}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def finite_part(trainer: training.Trainer, steps: int) -> Rows:
    """Runs a trainer and returns its rows; where the loss overflows, those up to there."""
    try:
        trainer.run(steps)
    except FloatingPointError:
        pass  # a result like any other: this network does not train at this learning rate
    return [row | {"step": int(row["step"])} for row in trainer.metrics.rows()]
