"""The directory of a run: one process at a time, one configuration for ever."""

import fcntl
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import IO

__all__ = ["take_directory"]


def take_directory(
    folder: pathlib.Path, output_dir: pathlib.Path, may_differ: Sequence[str]
) -> IO[str]:
    """Makes a run's directory, or makes sure that it is of the same configuration and free.

    Args:
        folder: of the program, with its config.json.
        output_dir: of the run.
        may_differ: names of what a continued run may change.

    Returns:
        The open file by which the directory is this process's, for as long as it runs.

    Raises:
        ValueError: if it is another run's, or in use.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    lock = (output_dir / ".runner.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"another process trains in {output_dir}") from None
    new = folder / "config.json"
    old = output_dir / "config.json"
    if not old.exists():
        shutil.copy(new, old)
        return lock
    here, there = (json.loads(path.read_text()) for path in (new, old))
    names = sorted((set(here) | set(there)) - {*may_differ, "versions"})
    differing = [name for name in names if here.get(name) != there.get(name)]
    if differing:
        changes = (f"{n}: {there.get(n)!r} there, {here.get(n)!r} now" for n in differing)
        raise ValueError(
            f"{output_dir} holds a run with another configuration ({', '.join(changes)}): give "
            "another --output_dir"
        )
    return lock
