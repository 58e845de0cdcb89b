"""Large kernels in blocks: bounded memory, progress, several devices, and resumption."""

import concurrent.futures
import hashlib
import json
import math
import os

import keras
import numpy as np
import tensorflow as tf

__all__ = ["Run", "extremes"]


def extremes(*tensors):
    """Smallest and largest value of several eager tensors, as floats."""
    return (
        min(float(tf.reduce_min(t)) for t in tensors),
        max(float(tf.reduce_max(t)) for t in tensors),
    )


class Run:
    """Evaluates block functions over a grid or a list of pairs, and puts the results together."""

    def __init__(self, fingerprint, progress=False, output_dir=None):
        """Describes one evaluation.

        Args:
            fingerprint: what decides the values, beside the inputs; guards resumption.
            progress: whether to write a progress bar.
            output_dir: where finished blocks are kept, or None.
        """
        self._fingerprint, self._progress, self._output_dir = fingerprint, progress, output_dir

    def grid(self, block, n1, n2, size, inputs):
        """Kernels on all pairs of two lists of inputs, by rectangular blocks.

        Args:
            block: function of two index vectors (rows, columns) to (nngp, ntk, log_scale).
            n1: number of first inputs.
            n2: number of second inputs; None for the first again, where half the blocks suffice.
            size: the largest number of rows and columns of a block.
            inputs: tensors that identify the problem to a resumed run.

        Returns:
            (nngp [n1, n2], ntk [n1, n2], log_scale); axes in front of a block's two are kept.
        """
        rows, columns = _split(n1, size), _split(n2 or n1, size)
        jobs = [
            (i, j)
            for i in range(len(rows))
            for j in range(len(columns))
            if n2 is not None or j >= i
        ]
        results = self._map(lambda i, j: block(rows[i][0], columns[j][0]), jobs, inputs)
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
        rows, columns = _split(n1, size), _split(n2 or n1, size)
        for i, (first, _) in enumerate(rows):
            for j, (second, _) in enumerate(columns):
                if n2 is not None or j >= i:
                    function(first, second)

    def pairs(self, block, n1, n2, size, inputs):
        """As `grid`, with blocks that are lists of pairs: (first, second) indices to vectors."""
        symmetric = n2 is None
        first, second = np.triu_indices(n1) if symmetric else np.indices([n1, n2]).reshape(2, -1)
        parts = _split(first.size, size)
        results = self._map(
            lambda k: block(first[parts[k][0]], second[parts[k][0]]),
            [(k,) for k in range(len(parts))],
            inputs,
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

    def _map(self, function, jobs, inputs):
        if not jobs:
            return []
        bar = keras.utils.Progbar(len(jobs), unit_name="block") if self._progress else None
        store = _Store(self._output_dir, self._fingerprint, inputs)
        devices = [d.name for d in tf.config.list_logical_devices()]
        kinds = {name.split(":")[-2] for name in devices}
        kind = next(k for k in ("TPU", "GPU", "CPU") if k in kinds)
        devices = [name for name in devices if name.split(":")[-2] == kind]

        def run(k, device):
            result = store.load(jobs[k])
            if result is None:
                with tf.device(device):
                    result = function(*jobs[k])
                store.save(jobs[k], result)
            return result

        if len(devices) == 1 or len(jobs) == 1:
            results = []
            for k in range(len(jobs)):
                results.append(run(k, devices[0]))
                if bar:
                    bar.add(1)
            return results
        results = [None] * len(jobs)
        with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
            # One queue a device: a device never holds two blocks.
            def work(d):
                for k in range(d, len(jobs), len(devices)):
                    results[k] = run(k, devices[d])
                    if bar:
                        bar.add(1)

            list(pool.map(work, range(len(devices))))
        return results


def _split(count, size):
    """Index vectors of equal length that cover range(count), with the number of valid entries."""
    length = math.ceil(count / math.ceil(count / size))
    return [
        (np.minimum(np.arange(k, k + length), count - 1), min(length, count - k))
        for k in range(0, count, length)
    ]


def _common_scale(results):
    """Brings blocks with scales of their own to the largest of them."""
    largest = tf.reduce_max(tf.stack([scale for _, _, scale in results]), 0)

    def common(nngp, ntk, scale):
        # One scale for each depth, if there are several of them in front.
        ones = [1] * (ntk.shape.rank - scale.shape.rank)
        return nngp, ntk * tf.reshape(tf.exp(scale - largest), [*scale.shape, *ones])

    return [common(*result) for result in results], largest


class _Store:
    """Finished blocks on disk; a directory belongs to one problem."""

    def __init__(self, directory, fingerprint, inputs):
        self._directory = directory
        if directory is None:
            return
        os.makedirs(directory, exist_ok=True)
        digest = hashlib.sha256(repr(fingerprint).encode())
        for tensor in inputs:
            digest.update(np.ascontiguousarray(tensor).tobytes())
        problem = {"problem": digest.hexdigest()}
        path = os.path.join(directory, "kernel.json")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                if json.load(file) != problem:
                    raise ValueError(
                        f"output_dir={directory!r} holds blocks of another kernel or other inputs; "
                        "give another directory"
                    )
        else:
            with open(path, "w", encoding="utf-8") as file:
                json.dump(problem, file)

    def _path(self, job):
        return os.path.join(self._directory, f"block_{'_'.join(map(str, job))}.npz")

    def load(self, job):
        if self._directory is None or not os.path.exists(self._path(job)):
            return None
        with np.load(self._path(job)) as saved:
            return tuple(tf.constant(saved[name]) for name in ("nngp", "ntk", "log_scale"))

    def save(self, job, result):
        if self._directory is None:
            return
        # Renamed when complete, so that an interrupted write never counts as a block.
        partial = self._path(job) + ".partial.npz"
        np.savez(partial, **{k: v.numpy() for k, v in zip(("nngp", "ntk", "log_scale"), result)})
        os.replace(partial, self._path(job))
