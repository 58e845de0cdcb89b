"""Arrays in a folder, one .npy file each: of any size, read and written some rows at a time."""

import json
import os
import pathlib
import re
import shutil
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["Checkpoints", "read_folder", "write_array", "write_rows"]

_KEPT = 2


def read_folder(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays by path, mapped: only what is used is read."""
    return {
        urllib.parse.unquote(file.stem): np.load(file, mmap_mode="r")
        for file in folder.glob("*.npy")
    }


def write_array(folder: pathlib.Path, path: str, value: Any) -> None:
    """Writes an array of a path, as "deep/kernel"."""
    np.save(_file(folder, path), value)


def write_rows(
    folder: pathlib.Path, path: str, shape: Sequence[int], start: int, rows: np.ndarray
) -> None:
    """Writes some rows of an array [shape], which with the first of them is made."""
    file = _file(folder, path)
    mode: Any = "r+" if file.exists() else "w+"
    array = np.lib.format.open_memmap(file, mode, rows.dtype, tuple(shape))
    array[start : start + len(rows)] = rows
    array.flush()


def _file(folder: pathlib.Path, path: str) -> pathlib.Path:
    return folder / f"{urllib.parse.quote(path, safe='')}.npy"


class Checkpoints:
    """Folders state-STEP of arrays, the newest two; each is whole or not there."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory

    def newest(self) -> tuple[int, dict[str, np.ndarray], dict[str, Any]] | None:
        """(step, values by path, what else was saved) of the newest, None if there is none."""
        steps = self._steps()
        if not steps:
            return None
        folder = self._path(steps[-1])
        return steps[-1], read_folder(folder), json.loads((folder / "run.json").read_text())

    def begin(self, step: int) -> pathlib.Path:
        """A new folder for the arrays of a step, which counts once it is ended."""
        partial = self._directory / f".state-{step}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return partial

    def end(self, step: int, extra: Mapping[str, Any]) -> None:
        """Makes it a checkpoint, then removes the one before the last."""
        partial = self._directory / f".state-{step}.partial"
        (partial / "run.json").write_text(json.dumps(extra))
        for path in (*partial.iterdir(), partial):
            _bring_to_disk(path)
        shutil.rmtree(self._path(step), ignore_errors=True)
        partial.replace(self._path(step))
        _bring_to_disk(self._directory)
        for old in self._steps()[:-_KEPT]:
            shutil.rmtree(self._path(old), ignore_errors=True)

    def drop(self, step: int) -> None:
        """Removes what was begun."""
        shutil.rmtree(self._directory / f".state-{step}.partial", ignore_errors=True)

    def remove(self) -> None:
        """Removes them all, and what a kill left half written."""
        for pattern in ("state-*", ".state-*.partial"):
            for path in self._directory.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)

    def _path(self, step: int) -> pathlib.Path:
        return self._directory / f"state-{step}"

    def _steps(self) -> list[int]:
        names = (path.name for path in self._directory.glob("state-*"))
        found = (re.fullmatch(r"state-(\d+)", name) for name in names)
        return sorted(int(match[1]) for match in found if match)


def _bring_to_disk(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
