"""Large kernels in blocks: bounded memory, progress, several devices, and resumption.

Blocks go to all local devices. Inside the scope of a tf.distribute strategy they go to its devices;
the processes of a multi-worker strategy share them out, and each of them gets the whole kernel:

    with strategy.scope():
        nngp, ntk = kernel(x)
"""

import concurrent.futures
import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments
from mfcnn.borrowed import could_possibly_record
from mfcnn.kernels import _block_store, _whole
from mfcnn.numerics import equal_parts

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
        plain = self._output_dir is None and not self._progress
        if plain and max(n1, n2 or n1) <= size and not tf.distribute.has_strategy():
            return block(np.arange(n1), np.arange(n2 or n1))  # a small call, without ceremony
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

    def _whole(self, n1: int, n2: int) -> "_whole.Filled | _whole.Recorded":
        kind = _whole.Recorded if could_possibly_record() else _whole.Filled
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
        store = _block_store.Store(self._output_dir, self._problem, division, _place(strategy))
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


def _cut(kernel: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Without what the last rows and columns of a part repeat."""
    whole = kernel.shape[-2:] == (height, width)
    return kernel if whole else kernel[..., :height, :width]


def _transposed(kernel: tf.Tensor) -> tf.Tensor:
    return tf.linalg.matrix_transpose(kernel)


def _taken(vector: tf.Tensor, places: np.ndarray) -> tf.Tensor:
    return tf.gather(vector, places, axis=-1)


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
