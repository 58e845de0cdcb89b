"""Products K(x1, x2) V by blocks that are computed, used and dropped: no kernel is ever whole.

Two routes give the blocks. Where the kernel is a function of the angle (`kernel.function`: dense
networks, inputs of one norm), a block is one matrix product and a short series, whatever the
depth. Else it is a call of the kernel. The blocks go to one thread a core; each thread adds up its
own in a fixed order, so that a product has the same bits in each run.
"""

import concurrent.futures
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn import arguments
from mfcnn.kernels import _function, _series

__all__ = ["Products", "matvec"]

_EQUAL = 4e-14  # relative spread of norms that are equal to rounding
_BLOCK = 2048  # rows and columns of a block: 17 MB in float32


def matvec(
    kernel: Any, v: Any, x1: Any, x2: Any = None, get: str = "ntk", block_size: int = _BLOCK
) -> np.ndarray:
    """The product K(x1, x2) v of a kernel and vectors, without the kernel.

    Args:
        kernel: a kernel of `mfcnn.kernels` with one depth.
        v: [n2, k] or [n2].
        x1: inputs [n1, ...].
        x2: inputs [n2, ...]; None is x1, at half the cost.
        get: "ntk" or "nngp".
        block_size: rows and columns of a block in memory.

    Returns:
        float64 [n1, k], or [n1] for one vector.

    Raises:
        ValueError: for a v of another length, and what the kernel refuses.
    """
    x1 = np.asarray(x1)
    x2 = None if x2 is None else np.asarray(x2)
    vectors = arguments.array("v", v)
    count = len(x1 if x2 is None else x2)
    if vectors.ndim not in (1, 2) or len(vectors) != count:
        raise ValueError(f"v must be [{count}] or [{count}, k]. Received: v.shape={vectors.shape}")
    product = Products(kernel, x1, x2, get, block_size)
    result = product(vectors.reshape(count, -1))
    return result.reshape(-1, *vectors.shape[1:])


class Products:
    """The linear map v -> K(x1, x2) v for fixed inputs, and single columns of it."""

    def __init__(
        self, kernel: Any, x1: np.ndarray, x2: np.ndarray | None, get: str, block_size: int = _BLOCK
    ):
        """Chooses the route; see `matvec` for the arguments."""
        self._get = arguments.choice("get", get, ("nngp", "ntk"))
        self._size = arguments.integer("block_size", block_size, 1)
        self._kernel, self._x1, self._x2 = kernel, x1, x2
        self._inputs = [x1] if x2 is None else [x1, x2]
        self.function = _function_of(kernel, *self._inputs)

    def __call__(
        self,
        vectors: np.ndarray,
        dtype: str = "float64",
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """K v in float64 sums of blocks in `dtype`; blocks of a kernel without table in its own."""
        jobs = self._jobs()
        if self.function is not None and dtype == "float32":
            _ = self._narrow  # made before the threads start
        workers = min(os.cpu_count() or 1, len(jobs)) or 1

        def work(worker: int) -> np.ndarray:
            total = np.zeros([len(self._x1), vectors.shape[1]])
            for rows, columns in jobs[worker::workers]:
                matrix = self._matrix(rows, columns, dtype)
                total[rows] += tf.matmul(matrix, tf.cast(vectors[columns], matrix.dtype)).numpy()
                if self._x2 is None and rows != columns:
                    right = tf.cast(vectors[rows], matrix.dtype)
                    total[columns] += tf.matmul(matrix, right, transpose_a=True).numpy()
                if progress is not None:
                    progress(1, len(jobs))
            return total

        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            return functools.reduce(np.add, pool.map(work, range(workers)))

    def columns(self, indices: np.ndarray) -> np.ndarray:
        """K(x1, x2[indices]) as a matrix in float64."""
        second = self._x1 if self._x2 is None else self._x2
        result = np.empty([len(self._x1), len(indices)])
        rows = _slices(len(self._x1), self._size)
        for part in rows:
            if self.function is not None:
                result[part] = self._block(part, indices, "float64")
            else:
                result[part] = self._kernel(self._x1[part], second[indices], get=self._get)
        return result

    def diagonal(self) -> np.ndarray:
        """K(x, x) at each input; x2 must be None."""
        if self.function is not None:
            return np.full(len(self._x1), float(self.function(1.0, get=self._get)))
        blocks = (self._x1[part] for part in _slices(len(self._x1), 16))
        return np.concatenate([np.diag(self._kernel(x, get=self._get)) for x in blocks])

    def _jobs(self) -> list[tuple[slice, slice]]:
        rows = _slices(len(self._x1), self._size)
        columns = rows if self._x2 is None else _slices(len(self._x2), self._size)
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(columns))]
        return [(rows[i], columns[j]) for i, j in pairs if self._x2 is not None or j >= i]

    def _points(self, side: int, rows: Any, dtype: str) -> tf.Tensor:
        """Some inputs, of side 0 or -1, on the unit sphere; in float32 they are kept."""
        if dtype == "float32":
            return tf.constant(self._narrow[side][rows])
        return tf.constant(_on_sphere(self._inputs[side][rows][:, self._used]))

    @functools.cached_property
    def _used(self) -> np.ndarray:
        """The coordinates that are not zero everywhere: the others add nothing."""
        return np.any([np.any(x, axis=0) for x in self._inputs], axis=0)

    @functools.cached_property
    def _narrow(self) -> list[np.ndarray]:
        kept = []
        for x in self._inputs:
            points = np.empty([len(x), np.count_nonzero(self._used)], np.float32)
            for part in _slices(len(x), self._size):
                points[part] = _on_sphere(x[part][:, self._used])
            kept.append(points)
        return kept

    def _block(self, rows: Any, columns: Any, dtype: str) -> tf.Tensor:
        """A block by the table."""
        points = self._points(0, rows, dtype), self._points(-1, columns, dtype)
        parts = _parts(self.function, self._get, dtype)
        return _compiled(tuple(parts.shape), parts.dtype)(*points, parts)

    def _matrix(self, rows: slice, columns: slice, dtype: str) -> tf.Tensor:
        """One block of the kernel."""
        if self.function is not None:
            return self._block(rows, columns, dtype)
        second = self._x1 if self._x2 is None else self._x2
        same = self._x2 is None and rows == columns
        return self._kernel(self._x1[rows], None if same else second[columns], get=self._get)


@functools.lru_cache(maxsize=32)
def _compiled(shape: tuple[int, ...], dtype: tf.DType) -> Callable[..., tf.Tensor]:
    """Blocks of a series, whose parts have this shape, from points on the sphere."""
    points, series = tf.TensorSpec([None, None], dtype), tf.TensorSpec(shape, dtype)

    def block(first: tf.Tensor, second: tf.Tensor, parts: tf.Tensor) -> tf.Tensor:
        return _series.evaluate(tf.matmul(first, second, transpose_b=True), parts)

    return tf.function(block, [points, points, series], autograph=False, jit_compile=True)


@functools.lru_cache(maxsize=32)
def _parts(function: _function.KernelFunction, get: str, dtype: str) -> tf.Tensor:
    return tf.constant(_series.chains(function.truncated(get, dtype)))


def _function_of(kernel: Any, *inputs: np.ndarray) -> Any:
    """The kernel's table for these inputs, or None where it has none: then blocks are computed."""
    if not getattr(kernel, "sees_angles_only", False) or any(x.ndim != 2 for x in inputs):
        return None
    squares = np.concatenate(
        [np.einsum("ij,ij->i", x, x, dtype=np.float64) / x.shape[1] for x in inputs]
    )
    if not np.any(squares) or np.ptp(squares) > _EQUAL * squares.max() or inputs[0].shape[1] < 2:
        return None
    try:
        return kernel.function(float(np.median(squares)), features=inputs[0].shape[1])
    except _function.NotResolvedError:
        return None


def _on_sphere(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
