"""SIGTERM and Ctrl-C: a training ends after the step that it is at, with a checkpoint."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["StoppedError", "StopRequest", "stop_on_signals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(KeyboardInterrupt):
    """A signal ended the training, and its state was saved; the same run goes on from there.

    Attributes:
        signum: number of the signal.
        step: of the checkpoint.
    """

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped at step {step} by {signal.Signals(signum).name}")
        self.signum, self.step = int(signum), int(step)


class StopRequest:
    """Whether a signal came; `signum` is its number, 0 before."""

    signum = 0


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Notes the first SIGTERM or SIGINT in the block instead of carrying it out.

    A second one is carried out at once, and one that the process ignores, as in the background of
    a script, stays ignored. Outside the main thread, where Python lets no one set what
    a signal does, nothing is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {n: handler for n, handler in before.items() if handler is not signal.SIG_IGN}

    def note(signum: int, frame: FrameType | None) -> None:
        request.signum = request.signum or signum
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
