"""How a program that runs on several hosts ends when one of them is gone.

Native code that waits for another machine cannot be interrupted from Python: a limit in time can
only end the process. Nothing is lost, since a run goes on from its last checkpoint.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

import tensorflow as tf

__all__ = [
    "EXIT_START_AGAIN",
    "LOST_PEER_ERRORS",
    "PeerLostError",
    "leave",
    "lost_peers",
    "time_limit",
]

# EX_TEMPFAIL of sysexits.h: the same command, started again, goes on from the last checkpoint.
EXIT_START_AGAIN = 75

# By which TensorFlow reports the end of another host.
LOST_PEER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)

_GRACE = 2.0  # seconds between the two ends of a wait


class PeerLostError(RuntimeError):
    """Another host left or cannot be reached; the same command goes on from the checkpoint."""


@contextlib.contextmanager
def time_limit(seconds: float | None, message: str) -> Iterator[None]:
    """Ends the whole process if the block takes longer; for the main thread.

    With status EXIT_START_AGAIN, or, where the block waits in native code that lets no Python run,
    by SIGALRM, which the kernel carries out, a few seconds later.

    Args:
        seconds: the limit; None for none.
        message: what then happened, written to stderr beforehand and at the end.
    """
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, leave, [f"{message} (waited {seconds:g} s)"])
    timer.daemon = True
    timer.start()
    sys.stderr.write(f"Waiting for at most {seconds:g} s. If it ends here: {message}\n")
    sys.stderr.flush()
    handler = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        timer.cancel()


@contextlib.contextmanager
def lost_peers(strategy: tf.distribute.Strategy | None = None) -> Iterator[None]:
    """Turns the errors by which TensorFlow reports the end of another host into PeerLostError.

    That is another worker of a multi-worker strategy, or a host of a TPU, as when it is preempted.

    Args:
        strategy: of the program; None where one of several hosts is being made.

    Returns:
        A context manager.

    Raises:
        PeerLostError: on leaving the context, if another host was lost in it.

    Example:
        >>> with mfcnn.training.lost_peers():
        ...     raise tf.errors.UnavailableError(None, None, "Socket closed")
        Traceback (most recent call last):
            ...
        mfcnn.training.failure.PeerLostError: Another host left or does not answer ...
    """
    spanning = (tf.distribute.MultiWorkerMirroredStrategy, tf.distribute.TPUStrategy)
    if strategy is not None and not isinstance(strategy, spanning):
        yield
        return
    try:
        yield
    except LOST_PEER_ERRORS as error:
        reason, _, _ = error.message.partition("\n")
        raise PeerLostError(
            f"Another host left or does not answer ({type(error).__name__}: {reason}). Start all "
            "again with the same flags: they go on from the last checkpoint."
        ) from error


def leave(message: str) -> NoReturn:
    """Ends the process with EXIT_START_AGAIN at once: TensorFlow's own end waits for the others.

    Args:
        message: for stderr.

    Returns:
        Never.

    Example:
        >>> mfcnn.training.leave("The other host is gone.")  # doctest: +SKIP
    """
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
    os._exit(EXIT_START_AGAIN)
