"""Files that a kill, a full disk or another process cannot leave half written.

    files.write_atomically(directory / "config.json", text)
    files.write_atomically(directory / "model.keras", model.save)   # a function of a path

The old file stays until the new one is whole and on the disk. What is read again later is checked
first: `DamagedFileError` says in a sentence which file it is and what to do.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import socket
import threading
from collections.abc import Callable
from typing import Any

__all__ = [
    "GUARDS",
    "DamagedFileError",
    "about_to_write",
    "bring_to_disk",
    "read_checked",
    "read_json",
    "remove_partials",
    "was_checked",
    "write_atomically",
    "write_checked",
]

# What is to happen before a file under a directory is written, by the resolved directory: a run
# writes its configuration before its first result, and makes sure that it still owns the place.
GUARDS: dict[pathlib.Path, Callable[[], None]] = {}

_PARTIAL = ".partial"


class DamagedFileError(ValueError):
    """A file of an earlier start cannot be read; the message names it and says what to do."""

    def __init__(self, path: os.PathLike | str, problem: str, remedy: str) -> None:
        super().__init__(f"{os.fspath(path)} is damaged ({problem}). {remedy}")


def about_to_write(path: os.PathLike | str) -> None:
    """Calls the guards of the directories above a path; for those who write by other means."""
    path = pathlib.Path(path).resolve()
    for directory in (path, *path.parents):
        if directory in GUARDS:
            GUARDS[directory]()


def write_atomically(
    path: os.PathLike | str, content: str | bytes | Callable[[pathlib.Path], Any]
) -> None:
    """Writes a file such that there is the old one or the new one, whatever ends the process.

    Several processes and hosts may do so at the same time: one of them wins.

    Args:
        path: of the file; its folder exists.
        content: text, bytes, or a function that writes a file to the path that it is given, which
            has the same suffix.

    Raises:
        OSError: for a full disk and the like. Then the old file is there, and nothing else.
    """
    path = pathlib.Path(path)
    about_to_write(path)
    writer = f"{socket.gethostname()}.{os.getpid()}.{threading.get_native_id()}"
    name = f".{path.stem}.{writer}{_PARTIAL}{path.suffix}"
    partial = path.with_name(name)
    try:
        if callable(content):
            content(partial)
        elif isinstance(content, bytes):
            partial.write_bytes(content)
        else:
            with partial.open("w", encoding="utf-8", newline="") as file:
                file.write(content)
        bring_to_disk(partial)
        partial.replace(path)
        bring_to_disk(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def bring_to_disk(path: os.PathLike | str) -> None:
    """Waits until a file, or the list of files of a folder, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some shared file systems know no fsync of a folder
        if not os.path.isdir(path):
            raise
    finally:
        os.close(descriptor)


def remove_partials(directory: os.PathLike | str) -> None:
    """Removes what killed processes left half written; for the owner of a directory."""
    for path in pathlib.Path(directory).glob(f".*{_PARTIAL}*"):
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_checked(path: os.PathLike | str, text: str) -> None:
    """Writes a text, and beside it the checksum by which `read_checked` knows it again."""
    path = pathlib.Path(path)
    checksums = _checksums(path)
    new, old = _digest(text.encode()), _digest(path.read_bytes()) if path.exists() else None
    # Two files cannot be replaced at once: between the two moves either text is the right one.
    write_atomically(checksums, "\n".join(dict.fromkeys(filter(None, (new, old)))) + "\n")
    write_atomically(path, text)


def read_checked(path: os.PathLike | str, remedy: str) -> str:
    """The text of a file of `write_checked`.

    A file without a checksum, as older versions left it, is taken as it is.

    Args:
        path: of the file.
        remedy: a sentence that says what to do with a damaged one.

    Raises:
        DamagedFileError: if it is not what was written, or gone.
    """
    path = pathlib.Path(path)
    known = _checksums(path).read_text().split() if _checksums(path).exists() else None
    if not path.exists():
        raise DamagedFileError(path, "it is gone, its checksum is there", remedy)
    content = path.read_bytes()
    if known is not None and _digest(content) not in known:
        raise DamagedFileError(path, "its checksum is not the one it was written with", remedy)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DamagedFileError(path, "it is not text", remedy) from error


def was_checked(path: os.PathLike | str) -> bool:
    """Whether there is a file, or the checksum of one, for `read_checked`."""
    return pathlib.Path(path).exists() or _checksums(pathlib.Path(path)).exists()


def read_json(path: os.PathLike | str, remedy: str) -> dict:
    """The object of a JSON file.

    Args:
        path: of the file.
        remedy: a sentence that says what to do with a damaged one.

    Raises:
        DamagedFileError: if it holds anything but a JSON object.
    """
    try:
        value = json.loads(pathlib.Path(path).read_bytes())
    except ValueError as error:  # not JSON, or not even text
        raise DamagedFileError(path, f"it is not JSON: {error}", remedy) from error
    if not isinstance(value, dict):
        raise DamagedFileError(path, "it is no JSON object", remedy)
    return value


def _checksums(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.name}.sha256")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
