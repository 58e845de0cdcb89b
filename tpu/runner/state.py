"""The variables of a program: their first values, their place on the devices, their checkpoints.

On the host a variable is what the unsharded program has, by its path: so checkpoints do not depend
on the number of replicas. A shard is the vectors of its parts, kernel then bias, one a layer,
filled up with zeros and cut into equal pieces, one for each replica.
"""

import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .arrays import read_folder, write_array, write_rows
from .draws import draw
from .program import Devices

__all__ = ["State", "join_shards", "split_shards"]

_PIECE = 2**24  # numbers of a stack that are cut or gathered at a time

Arrays = Mapping[str, np.ndarray]


def split_shards(parts: Sequence[np.ndarray], replicas: int) -> np.ndarray:
    """[replicas, layers, width] of some layers' weights, each [layers, ...]."""
    rows = np.concatenate([np.reshape(part, [len(part), -1]) for part in parts], axis=1)
    width = -(-rows.shape[1] // replicas)
    rows = np.pad(rows, [(0, 0), (0, width * replicas - rows.shape[1])])
    return rows.reshape(len(rows), replicas, width).transpose(1, 0, 2)


def join_shards(shards: np.ndarray, shapes: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """The weights, each [layers, ...], from shards [replicas, layers, width]."""
    rows = np.transpose(shards, (1, 0, 2)).reshape(shards.shape[1], -1)
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    parts = np.split(rows[:, : ends[-1]], ends[:-1], axis=1)
    return [part.reshape(len(part), *shape) for part, shape in zip(parts, shapes)]


class State:
    """The variables on the devices, by the paths that the program knows.

    Args:
        folder: of the program, for the values that it carries.
        spec: its program.json.
        devices: where they are put.
        saved: their values by path; None for those of the start.

    Attributes:
        arrays: from path to the array on the devices.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        spec: Mapping[str, Any],
        devices: Devices,
        saved: Arrays | None = None,
    ) -> None:
        self._variables, self._devices = spec["variables"], devices
        self._shards: dict[str, list[str]] = spec["shards"]
        self._of_shards = {path for parts in self._shards.values() for path in parts}
        self._carried = read_folder(folder / "initial") if saved is None else saved
        self._check()
        self._gather: dict[int, Callable[[Any, int], np.ndarray]] = {}
        self.arrays: dict[str, Any] = {}
        for path, parts in self._shards.items():
            self.arrays[path] = self._spread(parts)
        for path, variable in self._variables.items():
            if path not in self._of_shards:
                stop = variable["shape"][0] if variable["shape"] else 0
                self.arrays[path] = devices.same(self._value(path, 0, stop))

    def _check(self) -> None:
        for path, value in self._carried.items():
            shape = self._variables.get(path, {}).get("shape")
            if list(value.shape) != shape:
                raise ValueError(f"{path} is {list(value.shape)} there, and {shape} in the program")

    def _value(self, path: str, start: int, stop: int) -> np.ndarray:
        """A variable's rows from start to stop."""
        if path in self._carried:
            value = self._carried[path]
            return np.array(value[start:stop] if value.ndim else value)
        variable = self._variables[path]
        return draw(variable["law"], variable["shape"], variable["dtype"], start, stop)

    def _pieces(self, depth: int, size: int) -> Iterator[tuple[int, int]]:
        """(start, stop) of the pieces of a stack whose layers have `size` numbers."""
        rows = min(depth, max(1, _PIECE // size))
        for start in range(0, depth, rows):
            # The last piece has as many rows as all, and meets the one before.
            begin = min(start, depth - rows)
            yield begin, begin + rows

    def _spread(self, parts: Sequence[str]) -> Any:
        """The shards of a stack on the devices, cut some layers at a time."""
        shapes = [self._variables[part]["shape"] for part in parts]
        depth, size = shapes[0][0], sum(math.prod(shape[1:]) for shape in shapes)
        replicas, own = len(self._devices.all), self._devices.own
        dtype = self._variables[parts[0]]["dtype"]
        shards = {index: np.empty([depth, -(-size // replicas)], dtype) for index in own}
        for start, stop in self._pieces(depth, size):
            pieces = split_shards([self._value(part, start, stop) for part in parts], replicas)
            for index, shard in shards.items():
                shard[start:stop] = pieces[index]
        return self._devices.parts(shards.__getitem__)

    def save(self, folder: pathlib.Path | None) -> bool:
        """Writes all values to a folder, as those of the unsharded program.

        All processes have to call it, those but the chief with None for the folder.

        Returns:
            Whether all values are finite.
        """
        finite = True
        for path, array in self.arrays.items():
            if path in self._shards:
                finite = self._save_stack(path, folder) and finite
                continue
            value = self._devices.value(array)
            finite = finite and bool(np.all(np.isfinite(value)))
            if folder:
                write_array(folder, path, value)
        return finite

    def _save_stack(self, path: str, folder: pathlib.Path | None) -> bool:
        parts = self._shards[path]
        shapes = [self._variables[part]["shape"] for part in parts]
        size = sum(math.prod(shape[1:]) for shape in shapes)
        finite = True
        for start, stop in self._pieces(shapes[0][0], size):
            shards = self._rows(stop - start)(self.arrays[path], start)
            finite = finite and bool(np.all(np.isfinite(shards)))
            pieces = join_shards(shards, [shape[1:] for shape in shapes]) if folder else ()
            for part, shape, piece in zip(parts, shapes, pieces):
                assert folder is not None
                write_rows(folder, part, shape, start, piece)
        return finite

    def _rows(self, count: int) -> Callable[[Any, int], np.ndarray]:
        if count not in self._gather:
            self._gather[count] = self._devices.rows(count)
        return self._gather[count]
