"""One owner of a directory: the lock that `RunDirectory` holds.

The owner is named by a small file, `.owner.json`: host, process, since when. The kernel locks it as
long as the process lives, however it ends. On storage where hosts do not see each other's locks
the file's age tells: its owner touches it every few seconds, and looks whether it is still its own.
"""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import secrets
import socket
import sys
import threading
import time

__all__ = ["STALE", "DirectoryInUseError", "Owner"]

STALE = 60.0  # seconds without a sign of life from which a lock is old
_SETTLE = 1.0  # seconds after which two that signed at the same time see it


class DirectoryInUseError(RuntimeError):
    """Another process works in the directory; the message names it."""


class Owner:
    """The lock of a directory, or of a part of it, from here to `release`.

    Args:
        directory: that is there.
        part: (index, count) where several processes share it; (0, 1) for all of it.
        beat: seconds between two signs of life.

    Raises:
        DirectoryInUseError: if another process owns it, or a part of it by another count.
    """

    def __init__(
        self, directory: pathlib.Path, part: tuple[int, int] = (0, 1), beat: float = 5.0
    ) -> None:
        index, count = part
        name = ".owner.json" if count == 1 else f".owner-{index}-of-{count}.json"
        self._path = directory / name
        self._token = secrets.token_hex(8)
        self._lost = ""
        self._descriptor = self._take()
        self._done = threading.Event()
        threading.Thread(target=self._signs, args=(beat,), daemon=True).start()
        try:
            for other in directory.glob(".owner*.json"):
                shared = other.name.endswith(f"-of-{count}.json") and count > 1
                if other != self._path and not shared:
                    _refuse_living(other)
        except BaseException:
            self.release()
            raise

    def _take(self) -> int:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                locked = _lock(descriptor)
                if locked is not False and not _is_at(descriptor, self._path):
                    os.close(descriptor)  # its owner took it away in between
                    continue
                _refuse_holder(self._path, _holder(descriptor), locked)
                self._sign(descriptor)
                if locked is None:  # no locks here: two that signed at once see it a moment later
                    time.sleep(_SETTLE)
                    if _holder(descriptor).get("token") != self._token:
                        _refuse_holder(self._path, _holder(descriptor), locked)
                return descriptor
            except BaseException:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
                raise

    def _sign(self, descriptor: int) -> None:
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        record = {
            "host": socket.gethostname(),
            "boot": _boot(),
            "pid": os.getpid(),
            "started": _start_of(os.getpid()),
            "since": now,
            "command": " ".join(sys.argv),
            "token": self._token,
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(record, indent=2) + "\n").encode(), 0)
        os.fsync(descriptor)

    def _signs(self, beat: float) -> None:
        while not self._done.wait(beat):
            self._look()

    def _look(self) -> None:
        try:
            record = json.loads(self._path.read_bytes())
            if record["token"] != self._token:
                self._lost = f"pid {record['pid']} on {record['host']} has taken it over"
            else:
                os.utime(self._path)
        except FileNotFoundError:
            self._lost = f"{self._path.name} was removed"
        except (OSError, ValueError, LookupError, TypeError):
            pass  # a storage that is away for a moment, or a file that is being written

    def check(self) -> None:
        """Raises a DirectoryInUseError if another process has taken the directory over."""
        if self._lost:
            raise DirectoryInUseError(
                f"{self._path.parent} is no longer owned by this process: {self._lost}."
            )

    def release(self) -> None:
        """Gives the directory back."""
        self._done.set()
        if not self._lost and _is_at(self._descriptor, self._path):
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(self._descriptor)


def _refuse_living(path: pathlib.Path) -> None:
    """Refuses if a lock other than the own has a living owner."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        _refuse_holder(path, _holder(descriptor), _lock(descriptor))
    finally:
        os.close(descriptor)


def _refuse_holder(path: pathlib.Path, holder: dict, locked: bool | None) -> None:
    """Raises if the process that a lock names is alive, as far as can be seen from here."""
    here = holder.get("host") == socket.gethostname() and holder.get("boot") == _boot()
    if locked is False:
        alive = True
    elif not holder:
        alive = False
    elif here:
        # The kernel has released the lock of a dead process.
        alive = locked is None and _start_of(holder["pid"]) == holder.get("started")
    else:
        alive = holder.get("host") != socket.gethostname() and _age(path) < STALE
    if alive:
        pid, host, since = (holder.get(k, "unknown") for k in ("pid", "host", "since"))
        hint = (
            ""
            if here or locked is False
            else (f" If that process is gone, it is free {STALE:.0f} s after its end.")
        )
        raise DirectoryInUseError(
            f"{path.parent} is in use by pid {pid} on {host} since {since}. Wait for its end, or "
            f"give another output_dir.{hint}"
        )


def _lock(descriptor: int) -> bool | None:
    """Whether the kernel gave the lock; None where the file system knows none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _holder(descriptor: int) -> dict:
    """What a lock file says of its owner; empty if it says nothing."""
    try:
        record = json.loads(os.pread(descriptor, 2**16, 0))
    except ValueError:  # empty, or written by a process that was killed then
        return {}
    return record if isinstance(record, dict) and "pid" in record else {}


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _age(path: pathlib.Path) -> float:
    """Seconds since a lock was touched, by the clock of its file system."""
    probe = path.with_name(f".{path.stem}.{socket.gethostname()}.{os.getpid()}.partial")
    probe.touch()
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _boot() -> str:
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _start_of(pid: int) -> str:
    """When a process started, so that a later one of the same number is not taken for it."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
