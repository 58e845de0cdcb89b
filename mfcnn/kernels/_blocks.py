"""Large kernels in blocks: bounded memory, progress, several devices, and resumption.

Blocks go to all local devices. Inside the scope of a tf.distribute strategy they go to its devices;
the processes of a multi-worker strategy share them out, and each of them gets the whole kernel:

    with strategy.scope():
        nngp, ntk = kernel(x)
"""

import concurrent.futures
import functools
import json
import math
import pathlib
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments, files
from mfcnn.borrowed import could_possibly_record
from mfcnn.kernels import _identity
from mfcnn.numerics import equal_parts
from mfcnn.run_directory import RunDirectory

__all__ = ["FIELDS", "Run", "extremes", "grid_parts"]

FIELDS = ("nngp", "ntk")


def extremes(*tensors: tf.Tensor) -> tuple[float, float]:
    """Smallest and largest value of several eager tensors, as floats."""
    return (
        min(float(tf.reduce_min(t)) for t in tensors),
        max(float(tf.reduce_max(t)) for t in tensors),
    )


def grid_parts(n1: int, n2: int | None, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The index vectors (rows, columns) of every block of `Run.grid`."""
    rows, columns = equal_parts(n1, size), equal_parts(n2 or n1, size)
    return [
        (first, second)
        for i, (first, _) in enumerate(rows)
        for j, (second, _) in enumerate(columns)
        if n2 is not None or j >= i
    ]


class Run:
    """Evaluates block functions over a grid or a list of pairs, and puts the results together."""

    def __init__(
        self,
        problem: Callable[[], dict[str, Any]] = dict,
        progress: bool = False,
        output_dir: Any = None,
        fields: tuple[str, ...] = FIELDS,
    ):
        """Describes one evaluation.

        Args:
            problem: function to all that decides the values, as plain data: it guards resumption,
                and is called only for that.
            progress: whether to write a progress bar.
            output_dir: where finished blocks are kept, or None.
            fields: the kernels that are asked for, of "nngp" and "ntk".
        """
        self._problem, self._progress = problem, arguments.boolean("progress", progress)
        known = output_dir is not None
        self._output_dir = arguments.path("output_dir", output_dir) if known else None
        self._fields = tuple(field in fields for field in FIELDS)

    def grid(
        self, block: Callable, n1: int, n2: int | None, size: int, route: str = "grid"
    ) -> tuple[Any, Any, tf.Tensor]:
        """Kernels on all pairs of two lists of inputs, by rectangular blocks.

        Args:
            block: function of two index vectors (rows, columns) to (nngp, ntk, log_scale).
            n1: number of first inputs.
            n2: number of second inputs; None for the first again, where half the blocks suffice.
            size: the largest number of rows and columns of a block.
            route: how blocks come about, where there are several ways; kept with stored blocks.

        Returns:
            (nngp [n1, n2], ntk [n1, n2], log_scale); axes in front of a block's two are kept. A
            field that was not asked for may be None.
        """
        rows, columns = equal_parts(n1, size), equal_parts(n2 or n1, size)
        division = (route, size)
        if len(rows) == len(columns) == 1:
            only: list = []
            function = functools.partial(block, rows[0][0], columns[0][0])
            self._map(lambda *_: function(), [()], division, lambda _, result: only.append(result))
            return only[0]
        jobs = [
            (i, j)
            for i in range(len(rows))
            for j in range(len(columns))
            if n2 is not None or j >= i
        ]
        whole = self._whole(n1, n2 or n1)

        def put(job: tuple[int, int], result: tuple) -> None:
            (i, j), scale = job, result[2]
            (first, height), (second, width) = rows[i], columns[j]
            place = slice(first[0], first[0] + height), slice(second[0], second[0] + width)
            parts = [_cut(kernel, height, width) for kernel in result[:2]]
            if n2 is None and i == j:  # rounding may depend on the order of two inputs
                parts = [(part + _transposed(part)) / 2 for part in parts]
            whole.put(place, parts, scale)
            if n2 is None and i != j:
                whole.put(place[::-1], [_transposed(part) for part in parts], scale)

        self._map(lambda i, j: block(rows[i][0], columns[j][0]), jobs, division, put)
        return whole.result()

    def pairs(
        self, block: Callable, n1: int, n2: int | None, size: int
    ) -> tuple[Any, Any, tf.Tensor]:
        """As `grid`, with blocks that are lists of pairs: (first, second) indices to vectors."""
        symmetric = n2 is None
        both = np.triu_indices(n1) if n2 is None else np.indices([n1, n2]).reshape(2, -1)
        first, second = both
        parts = equal_parts(first.size, size)
        whole = self._whole(n1, n2 or n1)

        def put(job: tuple[int], result: tuple) -> None:
            indices, length = parts[job[0]]
            one, two = first[indices[:length]], second[indices[:length]]
            vectors = [vector[..., :length] for vector in result[:2]]
            apart = np.flatnonzero(one != two)
            whole.put((one, two), vectors, result[2])
            if symmetric and apart.size:
                mirrored = [_taken(vector, apart) for vector in vectors]
                whole.put((two[apart], one[apart]), mirrored, result[2])

        self._map(
            lambda k: block(first[parts[k][0]], second[parts[k][0]]),
            [(k,) for k in range(len(parts))],
            ("pairs", size),
            put,
        )
        return whole.result()

    def _whole(self, n1: int, n2: int) -> "_Filled | _Recorded":
        kind = _Recorded if could_possibly_record() else _Filled
        return kind(n1, n2, self._fields)

    def _map(
        self, function: Callable, jobs: list[tuple], division: tuple[str, int], put: Callable
    ) -> None:
        """Calls put(job, function(*job)) for all jobs, or with what is stored of them."""
        strategy = tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
        # Every process computes all where there are too few blocks to share.
        worker, workers = _place(strategy) if len(jobs) >= _place(strategy)[1] else (0, 1)
        mine = range(worker, len(jobs), workers)
        show = self._progress and worker == 0
        bar = keras.utils.Progbar(len(mine), unit_name="block") if show else None
        store = _Store(self._output_dir, self._problem, division, _place(strategy))
        devices = _devices(strategy)[: len(mine)]
        shared: list = [None] * len(jobs)

        # One queue a device: a device never holds two blocks.
        def work(queue: Iterable[int], device: str | None) -> None:
            for k in queue:
                result = store.load(jobs[k])
                if result is None:
                    with tf.device(device):
                        result = function(*jobs[k])
                    store.save(jobs[k], result)
                if workers == 1:
                    put(jobs[k], result)
                else:
                    shared[k] = result
                if bar:
                    bar.add(1)

        with store:
            if len(devices) > 1:
                queues = [mine[d :: len(devices)] for d in range(len(devices))]
                with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
                    list(pool.map(work, queues, devices))
            else:
                work(mine, devices[0] if devices else None)
        if workers > 1:
            for job, result in zip(jobs, _exchange(strategy, shared)):
                put(job, result)


class _Filled:
    """Kernels that are filled block by block: nothing else of their size is ever held."""

    def __init__(self, n1: int, n2: int, wanted: tuple[bool, ...]):
        self._sizes, self._wanted, self._lock = (n1, n2), wanted, threading.Lock()
        self._kernels: list[np.ndarray | None] = []
        self._scales: list[tuple[tuple, np.ndarray]] = []

    def put(self, place: tuple, parts: list[tf.Tensor], scale: tf.Tensor) -> None:
        """Takes the parts [..., *place] of both kernels, divided by exp(scale)."""
        with self._lock:
            if not self._kernels:
                shape = [*scale.shape, *self._sizes]
                dtype = parts[0].dtype.as_numpy_dtype
                self._kernels = [_aligned(shape, dtype) if w else None for w in self._wanted]
            self._scales.append((place, scale.numpy()))
        for kernel, part in zip(self._kernels, parts):
            if kernel is not None:
                kernel[(..., *place)] = part.numpy()

    def result(self) -> tuple[Any, Any, tf.Tensor]:
        """Both kernels, None for what was not asked for, and the scale that they share."""
        largest = np.max([scale for _, scale in self._scales], axis=0)
        nngp, ntk = self._kernels
        for place, scale in self._scales:
            if ntk is not None and np.any(scale != largest):
                rank = np.ndim(ntk[(..., *place)]) - np.ndim(scale)
                ntk[(..., *place)] *= np.exp(scale - largest).reshape([*scale.shape, *[1] * rank])
        return _as_tensor(nngp), _as_tensor(ntk), tf.constant(largest)


class _Recorded:
    """The same as operations that a gradient tape records."""

    def __init__(self, n1: int, n2: int, wanted: tuple[bool, ...]):
        del wanted
        self._sizes = n1, n2
        self._parts: list[tuple[np.ndarray, list[tf.Tensor], tf.Tensor]] = []

    def put(self, place: tuple, parts: list[tf.Tensor], scale: tf.Tensor) -> None:
        """As `_Filled.put`."""
        grid = np.arange(self._sizes[0] * self._sizes[1]).reshape(self._sizes)
        self._parts.append((grid[place], parts, scale))

    def result(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """As `_Filled.result`."""
        largest = tf.reduce_max(tf.stack([scale for *_, scale in self._parts]), 0)
        order = np.argsort(np.concatenate([np.ravel(index) for index, *_ in self._parts]))
        kernels = []
        for field in range(2):
            vectors = []
            for _, parts, scale in self._parts:
                vector = tf.reshape(parts[field], [*scale.shape, -1])
                factor = tf.exp(scale - largest)[..., None] if field else 1.0
                vectors.append(vector * factor)
            kernel = tf.gather(tf.concat(vectors, -1), order, axis=-1)
            kernels.append(tf.reshape(kernel, [*largest.shape, *self._sizes]))
        return kernels[0], kernels[1], largest


def _cut(kernel: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Without what the last rows and columns of a part repeat."""
    whole = kernel.shape[-2:] == (height, width)
    return kernel if whole else kernel[..., :height, :width]


def _transposed(kernel: tf.Tensor) -> tf.Tensor:
    return tf.linalg.matrix_transpose(kernel)


def _taken(vector: tf.Tensor, places: np.ndarray) -> tf.Tensor:
    return tf.gather(vector, places, axis=-1)


def _aligned(shape: list[int], dtype: Any) -> np.ndarray:
    """An array whose memory a tensor may share."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def _as_tensor(array: np.ndarray | None) -> tf.Tensor | None:
    """The array as a tensor in the same memory: it is written no more."""
    if array is None:
        return None
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _devices(strategy: tf.distribute.Strategy | None) -> list[str]:
    """The devices of a strategy on this host, or all of the fastest kind."""
    if strategy is not None:
        return list(strategy.extended.worker_devices)
    devices = [d.name for d in tf.config.list_logical_devices()]
    kinds = {name.split(":")[-2] for name in devices}
    kind = next(k for k in ("TPU", "GPU", "CPU") if k in kinds)
    return [name for name in devices if name.split(":")[-2] == kind]


def _place(strategy: tf.distribute.Strategy | None) -> tuple[int, int]:
    """(index of this process, number of processes) of a strategy."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    spec = resolver.cluster_spec()
    tasks = [(job, index) for job in sorted(spec.jobs) for index in spec.task_indices(job)]
    return tasks.index((resolver.task_type, resolver.task_id)), len(tasks)


def _exchange(strategy: tf.distribute.Strategy, results: list) -> list[tuple[tf.Tensor, ...]]:
    """Fills in the results of the other processes, which are None here; all have one shape."""
    local = strategy.num_replicas_in_sync // _place(strategy)[1]
    known = next(result for result in results if result is not None)
    blank = tuple(tf.zeros_like(t) for t in known)
    filled = [tf.stack(ts) for ts in zip(*(blank if r is None else r for r in results))]

    def contribution(values: tuple[tf.Tensor, ...]) -> list[tf.Tensor]:
        first = tf.distribute.get_replica_context().replica_id_in_sync_group % local == 0
        return [tf.where(first, v, tf.zeros_like(v)) for v in values]

    @tf.function(autograph=False)
    def total(*values: tf.Tensor) -> list[tf.Tensor]:
        each = strategy.run(contribution, args=(values,))
        return [strategy.reduce("SUM", v, axis=None) for v in each]

    return list(zip(*(tf.unstack(t) for t in total(*filled))))


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
        path = self._file("kernel.json")
        if path.exists():
            remedy = "Give another directory, or remove this one."
            differences = _identity.difference(files.read_json(path, remedy), self._mine)
            if differences:
                raise ValueError(
                    f"output_dir={str(self._directory)!r} holds blocks of another kernel or other "
                    f"inputs: in it {'; '.join(differences)}. Give another directory."
                )

    def _file(self, name: str) -> pathlib.Path:
        assert self._directory is not None
        return self._directory / name

    def _path(self, job: tuple[int, ...]) -> pathlib.Path:
        return self._file(f"block_{'_'.join(map(str, job))}.npz")

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
        path = self._file("kernel.json")
        if not path.exists():
            files.write_atomically(path, json.dumps(self._mine, indent=1))
        arrays = {k: v.numpy() for k, v in zip(("nngp", "ntk", "log_scale"), result)}
        files.write_atomically(self._path(job), lambda partial: np.savez(partial, **arrays))
