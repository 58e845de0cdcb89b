"""The directory of a run: one owner at a time, one configuration for ever.

    with RunDirectory("runs/digits", config) as directory:
        ...                                            # may fail: nothing was written so far
        files.write_atomically(directory / "metrics.csv", text)   # writes config.json first

Every program of the package that keeps results does so in one of these.
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import numpy as np

from mfcnn import arguments, files
from mfcnn.ownership import DirectoryInUseError, Owner
from mfcnn.version import __version__

__all__ = ["ConfigurationError", "DirectoryInUseError", "RunDirectory", "check_configuration"]

# Any of these is a result, and must not be mixed with those of an unknown configuration.
_RESULTS = ("metrics.csv", "checkpoints", "points", "model.keras")

_HELD: dict[pathlib.Path, "RunDirectory"] = {}


class ConfigurationError(ValueError):
    """The output directory belongs to a run with another configuration."""


class RunDirectory(os.PathLike):
    """A directory that this process owns, as a context manager and a path.

    On entering the place is checked and locked; `config.json` is written before the first file
    under it that goes through `mfcnn.files`. On leaving, a directory in which nothing was written
    is taken away again. A process that owns the directory already may enter it once more.

    Args:
        path: of the directory, made if it is missing; not empty.
        config: dict of the whole configuration; NumPy's values become Python's. None for a
            directory without one of its own.
        may_differ: names whose values a continued run may change.
        defaults: dict of what is meant where an older config.json lacks an entry.
        part: (index, count) where several processes share a directory, each its own part of it.
        file: name of the file of the configuration.
        beat: seconds between two signs of life, for hosts that see no locks of this one.

    Raises:
        ConfigurationError: on entering, if the directory holds another configuration; the message
            names each differing entry with both values.
        DirectoryInUseError: on entering, if another process owns it.
        DamagedFileError: on entering, if its configuration cannot be read.

    Example:
        >>> import tempfile
        >>> with mfcnn.training.RunDirectory(tempfile.mkdtemp(), {"depth": 3}) as directory:
        ...     mfcnn.training.replace_file(directory / "note.txt", "done")
        >>> (directory / "config.json").exists()
        True
    """

    def __init__(
        self,
        path: os.PathLike | str,
        config: Mapping[str, Any] | None = None,
        may_differ: Iterable[str] = (),
        defaults: Mapping[str, Any] | None = None,
        part: tuple[int, int] = (0, 1),
        file: str = "config.json",
        beat: float = 5.0,
    ) -> None:
        if path == "":
            raise ValueError("output_dir must be the path of a folder. Received: output_dir=''")
        self.path = arguments.path("path", path)
        count = arguments.integer("part[1]", part[1], 1)
        self._part = arguments.integer("part[0]", part[0], 0, count - 1), count
        self._config = None if config is None else _plain(config)
        self._beat = arguments.number("beat", beat, above=0)
        self._may_differ, self._defaults = set(may_differ), _plain(defaults or {})
        self._file = file
        self._depth, self._written = 0, False
        self._owner: Owner | None = None
        self._made: list[pathlib.Path] = []

    def __fspath__(self) -> str:
        """The path as text."""
        return os.fspath(self.path)

    def __truediv__(self, name: str) -> pathlib.Path:
        """The path of a file in it."""
        return self.path / name

    def __str__(self) -> str:
        """The path as text."""
        return str(self.path)

    def __enter__(self) -> "RunDirectory":
        """Checks and locks the place; see the class for what is raised."""
        self._depth += 1
        if self._depth > 1:
            return self
        self._resolved = self.path.resolve()
        self._guard_before = files.GUARDS.get(self._resolved)
        try:
            self._make()
            self._own()
            if self._config is not None:
                check_configuration(
                    self, self._config, self._may_differ, self._defaults, self._file
                )
                files.GUARDS[self._resolved] = self.begin
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Gives the directory back, and takes it away if nothing was written."""
        self._depth -= 1
        if self._depth:
            return
        if self._guard_before is None:
            files.GUARDS.pop(self._resolved, None)
        else:
            files.GUARDS[self._resolved] = self._guard_before
        if _HELD.get(self._resolved) is self:
            del _HELD[self._resolved]
            if self._owner is not None:
                self._owner.release()
        self._owner = None
        if not self._written:
            _remove_empty(self.path, self._made)

    def _own(self) -> None:
        above = (self._resolved, *self._resolved.parents)
        held = next((_HELD[path] for path in above if path in _HELD), None)
        if held is not None:
            self._owner = held._owner  # this process owns it already
            return
        self._owner = owner = Owner(self.path, self._part, self._beat)
        _HELD[self._resolved] = self
        files.GUARDS[self._resolved] = owner.check
        if self._part[1] == 1:  # else they may be those of another part
            files.remove_partials(self.path)

    def begin(self) -> None:
        """Writes the configuration, unless it is there; called before the first result."""
        if self._owner is None:
            raise RuntimeError(f"{self} is written to outside its `with` block")
        self._owner.check()
        if self._written:
            return
        self._written = True
        path = self.path / self._file
        text = json.dumps(
            (self._config or {}) | {"versions": _versions()}, indent=2, sort_keys=True
        )
        if not path.exists() or path.read_text() != text + "\n":
            files.write_atomically(path, text + "\n")

    def _make(self) -> None:
        missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
        self._made = missing
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise NotADirectoryError(f"output_dir={os.fspath(self.path)!r} is a file") from error


def check_configuration(
    directory: os.PathLike | str,
    config: Mapping[str, Any],
    may_differ: Iterable[str] = (),
    defaults: Mapping[str, Any] | None = None,
    file: str = "config.json",
) -> None:
    """Refuses a directory that holds results of another configuration, or of an unknown one.

    Raises:
        ConfigurationError: with each differing entry, there and now.
        DamagedFileError: if the file cannot be read.
    """
    directory, config = pathlib.Path(directory), _plain(config)
    path = directory / file
    if not path.exists():
        found = [name for name in _RESULTS if (directory / name).exists()]
        if found:
            raise ConfigurationError(
                f"{directory} holds {found[0]} but no {file} that says of which configuration. "
                "Give another output_dir, or remove what is there."
            )
        return
    remedy = "Put it back from a copy, or give another output_dir."
    old = {**_plain(defaults or {}), **files.read_json(path, remedy)}
    names = sorted((set(old) | set(config)) - set(may_differ) - {"versions"})
    differing = [name for name in names if old.get(name) != config.get(name)]
    if "binary" in differing and "binary" in old:
        differing = ["binary"]
    if differing:
        changes = ", ".join(f"{n}: {old.get(n)!r} there, {config.get(n)!r} now" for n in differing)
        raise ConfigurationError(
            f"{directory} holds a run with another configuration ({changes}). "
            "Give another output_dir, or the same flags to go on with that run."
        )


def _remove_empty(path: pathlib.Path, made: list[pathlib.Path]) -> None:
    """Removes empty folders below a path, and it and those above it that were made for it."""
    folders = sorted((p for p in path.glob("**/*") if p.is_dir()), reverse=True)
    for folder in folders + made:
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def _versions() -> dict[str, str]:
    names = ("tensorflow", "keras")
    return {"mfcnn": __version__} | {name: importlib.metadata.version(name) for name in names}


def _plain(config: Mapping[str, Any]) -> dict:
    """A configuration as it comes back from its file."""

    def value(entry: Any) -> Any:
        if isinstance(entry, np.ndarray):
            return entry.tolist()
        return entry.item() if isinstance(entry, np.generic) else str(entry)

    return json.loads(json.dumps(dict(config), default=value))
