"""Large kernels in blocks: bounded memory, progress, several devices, and resumption.

Blocks go to all local devices. Inside the scope of a tf.distribute strategy they go to its devices;
the processes of a multi-worker strategy share them out, and each of them gets the whole kernel:

    with strategy.scope():
        nngp, ntk = kernel(x)
"""

import concurrent.futures
import json
import pathlib
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import files
from mfcnn.kernels import _identity
from mfcnn.numerics import equal_parts
from mfcnn.run_directory import RunDirectory

__all__ = ["Run", "extremes"]


def extremes(*tensors):
    """Smallest and largest value of several eager tensors, as floats."""
    return (
        min(float(tf.reduce_min(t)) for t in tensors),
        max(float(tf.reduce_max(t)) for t in tensors),
    )


class Run:
    """Evaluates block functions over a grid or a list of pairs, and puts the results together."""

    def __init__(
        self,
        problem: Callable[[], dict[str, Any]],
        progress: bool = False,
        output_dir: Any = None,
    ):
        """Describes one evaluation.

        Args:
            problem: function to all that decides the values, as plain data: it guards resumption,
                and is called only for that.
            progress: whether to write a progress bar.
            output_dir: where finished blocks are kept, or None.
        """
        self._problem, self._progress, self._output_dir = problem, progress, output_dir

    def grid(self, block, n1, n2, size, route="grid"):
        """Kernels on all pairs of two lists of inputs, by rectangular blocks.

        Args:
            block: function of two index vectors (rows, columns) to (nngp, ntk, log_scale).
            n1: number of first inputs.
            n2: number of second inputs; None for the first again, where half the blocks suffice.
            size: the largest number of rows and columns of a block.
            route: how blocks come about, where there are several ways; kept with stored blocks.

        Returns:
            (nngp [n1, n2], ntk [n1, n2], log_scale); axes in front of a block's two are kept.
        """
        rows, columns = equal_parts(n1, size), equal_parts(n2 or n1, size)
        jobs = [
            (i, j)
            for i in range(len(rows))
            for j in range(len(columns))
            if n2 is not None or j >= i
        ]
        results = self._map(lambda i, j: block(rows[i][0], columns[j][0]), jobs, (route, size))
        results, log_scale = _common_scale(results)
        parts = dict(zip(jobs, results))

        def part(i, j, field):
            height, width = rows[i][1], columns[j][1]
            if (i, j) in parts:
                matrix = parts[i, j][field]
            else:
                matrix = tf.linalg.matrix_transpose(parts[j, i][field])
            whole = matrix.shape[-2:] == (height, width)
            return matrix if whole else matrix[..., :height, :width]

        matrices = [
            tf.concat(
                [
                    tf.concat([part(i, j, field) for j in range(len(columns))], -1)
                    for i in range(len(rows))
                ],
                -2,
            )
            for field in range(2)
        ]
        return *matrices, log_scale

    def visit(self, function, n1, n2, size):
        """Calls a function on the index vectors of every block of `grid`."""
        rows, columns = equal_parts(n1, size), equal_parts(n2 or n1, size)
        for i, (first, _) in enumerate(rows):
            for j, (second, _) in enumerate(columns):
                if n2 is not None or j >= i:
                    function(first, second)

    def pairs(self, block, n1, n2, size):
        """As `grid`, with blocks that are lists of pairs: (first, second) indices to vectors."""
        symmetric = n2 is None
        first, second = np.triu_indices(n1) if symmetric else np.indices([n1, n2]).reshape(2, -1)
        parts = equal_parts(first.size, size)
        results = self._map(
            lambda k: block(first[parts[k][0]], second[parts[k][0]]),
            [(k,) for k in range(len(parts))],
            ("pairs", size),
        )
        results, log_scale = _common_scale(results)
        position = np.empty([n1, n2 or n1], np.int64)
        position[first, second] = np.arange(first.size)
        if symmetric:
            position[second, first] = np.arange(first.size)
        vectors = [
            tf.concat([r[field][..., :length] for r, (_, length) in zip(results, parts)], -1)
            for field in range(2)
        ]
        return *(tf.gather(vector, position, axis=-1) for vector in vectors), log_scale

    def _map(self, function, jobs, division):
        if not jobs:
            return []
        strategy = tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
        # Every process computes all where there are too few blocks to share.
        worker, workers = _place(strategy) if len(jobs) >= _place(strategy)[1] else (0, 1)
        mine = range(worker, len(jobs), workers)
        show = self._progress and worker == 0
        bar = keras.utils.Progbar(len(mine), unit_name="block") if show else None
        store = _Store(self._output_dir, self._problem, division, _place(strategy))
        devices = _devices(strategy)[: len(mine)]
        results = [None] * len(jobs)

        # One queue a device: a device never holds two blocks.
        def work(queue, device):
            for k in queue:
                results[k] = store.load(jobs[k])
                if results[k] is None:
                    with tf.device(device):
                        results[k] = function(*jobs[k])
                    store.save(jobs[k], results[k])
                if bar:
                    bar.add(1)

        with store:
            if len(devices) > 1:
                queues = [mine[d :: len(devices)] for d in range(len(devices))]
                with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
                    list(pool.map(work, queues, devices))
            else:
                work(mine, devices[0] if devices else None)
        return results if workers == 1 else _exchange(strategy, results)


def _devices(strategy):
    """The devices of a strategy on this host, or all of the fastest kind."""
    if strategy is not None:
        return list(strategy.extended.worker_devices)
    devices = [d.name for d in tf.config.list_logical_devices()]
    kinds = {name.split(":")[-2] for name in devices}
    kind = next(k for k in ("TPU", "GPU", "CPU") if k in kinds)
    return [name for name in devices if name.split(":")[-2] == kind]


def _place(strategy):
    """(index of this process, number of processes) of a strategy."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    spec = resolver.cluster_spec()
    tasks = [(job, index) for job in sorted(spec.jobs) for index in spec.task_indices(job)]
    return tasks.index((resolver.task_type, resolver.task_id)), len(tasks)


def _exchange(strategy, results):
    """Fills in the results of the other processes, which are None here; all have one shape."""
    local = strategy.num_replicas_in_sync // _place(strategy)[1]
    known = next(result for result in results if result is not None)
    blank = tuple(tf.zeros_like(t) for t in known)
    filled = [tf.stack(ts) for ts in zip(*(blank if r is None else r for r in results))]

    def contribution(values):
        first = tf.distribute.get_replica_context().replica_id_in_sync_group % local == 0
        return [tf.where(first, v, tf.zeros_like(v)) for v in values]

    @tf.function(autograph=False)
    def total(*values):
        each = strategy.run(contribution, args=(values,))
        return [strategy.reduce("SUM", v, axis=None) for v in each]

    return list(zip(*(tf.unstack(t) for t in total(*filled))))


def _common_scale(results):
    """Brings blocks with scales of their own to the largest of them."""
    largest = tf.reduce_max(tf.stack([scale for _, _, scale in results]), 0)

    def common(nngp, ntk, scale):
        # One scale for each depth, if there are several of them in front.
        ones = [1] * (ntk.shape.rank - scale.shape.rank)
        return nngp, ntk * tf.reshape(tf.exp(scale - largest), [*scale.shape, *ones])

    return [common(*result) for result in results], largest


class _Store:
    """Finished blocks on disk, as a context manager; a directory belongs to one problem.

    Args:
        directory: of the blocks, or None.
        problem: see `Run`.
        division: (route, block size), part of the problem.
        part: (index, count) of this process among those that share the blocks.
    """

    def __init__(
        self,
        directory: Any,
        problem: Callable[[], dict[str, Any]],
        division: tuple,
        part: tuple[int, int],
    ):
        self._directory = None if directory is None else RunDirectory(directory, part=part)
        self._problem, self._division = problem, division

    def __enter__(self) -> "_Store":
        """Locks the directory, and refuses one of another problem."""
        if self._directory is None:
            return self
        self._directory.__enter__()
        try:
            self._check()
        except BaseException:
            self._directory.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        """Gives the directory back."""
        if self._directory is not None:
            self._directory.__exit__(*error)

    def _check(self) -> None:
        division = dict(zip(("route", "block_size"), self._division))
        # As it comes back from the file: lists for tuples.
        self._mine = json.loads(json.dumps(self._problem() | division))
        path = self._directory / "kernel.json"
        if path.exists():
            remedy = "Give another directory, or remove this one."
            differences = _identity.difference(files.read_json(path, remedy), self._mine)
            if differences:
                raise ValueError(
                    f"output_dir={str(self._directory)!r} holds blocks of another kernel or other "
                    f"inputs: in it {'; '.join(differences)}. Give another directory."
                )

    def _path(self, job: tuple[int, ...]) -> pathlib.Path:
        return self._directory / f"block_{'_'.join(map(str, job))}.npz"

    def load(self, job: tuple[int, ...]) -> tuple[tf.Tensor, ...] | None:
        """A finished block, or None; one that is damaged is named and computed again."""
        if self._directory is None or not self._path(job).exists():
            return None
        try:
            with np.load(self._path(job)) as saved:  # it has a checksum of each array
                return tuple(tf.constant(saved[name]) for name in ("nngp", "ntk", "log_scale"))
        except (OSError, ValueError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile):
            words = f"{self._path(job)} is damaged: this block is computed again."
            warnings.warn(words, stacklevel=2)
            return None

    def save(self, job: tuple[int, ...], result: tuple[tf.Tensor, ...]) -> None:
        """Keeps a finished block."""
        if self._directory is None:
            return
        path = self._directory / "kernel.json"
        if not path.exists():
            files.write_atomically(path, json.dumps(self._mine, indent=1))
        arrays = {k: v.numpy() for k, v in zip(("nngp", "ntk", "log_scale"), result)}
        files.write_atomically(self._path(job), lambda partial: np.savez(partial, **arrays))
