"""How a program that runs on several hosts ends when one of them is gone.

Native code that waits for another machine cannot be interrupted from Python: a limit in time can
only end the process. Nothing is lost, since a run goes on from its last checkpoint.
"""

import contextlib
import os
import sys
import threading

import tensorflow as tf

__all__ = ["EXIT_START_AGAIN", "PeerLostError", "leave", "lost_peers", "time_limit"]

# EX_TEMPFAIL of sysexits.h: the same command, started again, goes on from the last checkpoint.
EXIT_START_AGAIN = 75


class PeerLostError(RuntimeError):
    """Another worker left or cannot be reached; the same command goes on from the checkpoint."""


@contextlib.contextmanager
def time_limit(seconds, message):
    """Ends the whole process with EXIT_START_AGAIN if the block takes longer.

    Args:
        seconds: the limit; None for none.
        message: written to stderr at the end.
    """
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, leave, [f"{message} (waited {seconds:g} s)"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def lost_peers(strategy):
    """Turns the errors by which TensorFlow reports another worker's end into PeerLostError."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        yield
        return
    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.FailedPreconditionError,
        tf.errors.InternalError,
    ) as error:
        raise PeerLostError(
            f"Another worker left or does not answer ({type(error).__name__}). Start all workers "
            "again with the same flags: they go on from the last checkpoint."
        ) from error


def leave(message):
    """Ends the process with EXIT_START_AGAIN at once: TensorFlow's own end waits for the others."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
    os._exit(EXIT_START_AGAIN)
