"""Finished blocks of a kernel on disk: of one problem, whole or computed again."""

import json
import pathlib
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn import files
from mfcnn.kernels import _identity
from mfcnn.run_directory import RunDirectory

__all__ = ["Store"]


class Store:
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

    def __enter__(self) -> "Store":
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
