"""How every binary starts and ends: flags, one line for what went wrong, the exit status.

    if __name__ == "__main__":
        binary.start(define_flags, main)

Exit status: 0 it is done; 1 a flag, the data or the system forbid it; 75 another host was lost;
128 + the signal's number if it was stopped (143 SIGTERM, 130 Ctrl-C). After 75, 130 and 143 the
same command goes on. A traceback is a mistake of ours; `--verbosity=1` shows it for the others too.
"""

import contextlib
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from absl import app, flags

__all__ = ["keep_open", "name", "opened", "start"]

# What ends a program for a reason that its user can do something about; all else is a bug.
_REASONS = (OSError, ValueError, RuntimeError, ArithmeticError, MemoryError)

_signals: list[int] = []  # those that came, in their order
_open = contextlib.ExitStack()


def start(
    define_flags: Callable[[], None],
    main: Callable[[list[str]], Any],
    arguments: bool = False,
) -> NoReturn:
    """Defines and parses the flags, runs main, and ends the process with the right status.

    Args:
        define_flags: defines the flags of the binary.
        main: takes the command line's arguments that are not flags, the program's name first.
        arguments: whether there may be any.
    """
    define_flags()
    for flag in _own_flags():
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)  # for --help
    app.run(lambda argv: _run(main, argv, arguments), flags_parser=_parse)
    raise AssertionError("absl's run ends the process")


def keep_open(context: contextlib.AbstractContextManager) -> Any:
    """Enters a context, as that of a run's directory, that is left when the binary's main ends."""
    return _open.enter_context(context)


@contextlib.contextmanager
def opened() -> Iterator[None]:
    """Around a main that is called directly: leaves, at its end, what `keep_open` has entered."""
    with _open:
        yield


def name() -> str:
    """The binary's name, as `experiments.train`."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else os.path.basename(sys.argv[0])


def _own_flags() -> list[flags.Flag]:
    """All flags but absl's own."""
    values = flags.FLAGS
    owners = {name: values.find_module_defining_flag(name) or "" for name in values}
    return [values[name] for name, owner in owners.items() if not owner.startswith("absl")]


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        for flag in _own_flags():
            values = flag.value if isinstance(flag.value, list) else [flag.value]
            if any(isinstance(value, float) and not math.isfinite(value) for value in values):
                raise flags.Error(f"flag --{flag.name}={flag.value}: it must be finite")
        if "output_dir" in flags.FLAGS and not flags.FLAGS.output_dir:
            raise flags.Error("flag --output_dir=: it must be the path of a folder")
        return rest
    except flags.Error as error:
        _refuse(f"{_line(error)} (--help shows all flags)")


def _run(main: Callable[[list[str]], Any], argv: list[str], arguments: bool) -> int:
    if len(argv) > 1 and not arguments:
        _refuse(f"unknown arguments: {' '.join(argv[1:])} (flags are written as --name=value)")
    _signals.clear()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    sys.unraisablehook = _interrupt_again
    status, where = 0, ""
    try:
        with _open:
            status = main(argv) or 0
    except KeyboardInterrupt as error:
        _signals.append(getattr(error, "signum", signal.SIGINT))
        if hasattr(error, "step"):
            where = f" at step {error.step}"
    except Exception as error:
        if not _signals:
            _fail(error)
    if _signals:  # a library may have made another error of it, or none, and gone on with nonsense
        for signum in set(_signals):
            signal.signal(signum, signal.SIG_IGN)  # the end is not stopped any more
        _end(f"stopped{where}; the same command goes on.", 128 + _signals[0])
    return status


def _fail(error: Exception) -> NoReturn:
    tensorflow, training = sys.modules.get("tensorflow"), sys.modules.get("mfcnn.training")
    if training and isinstance(error, training.PeerLostError):
        training.leave(f"{name()}: {_line(error)}")
    reasons = (*_REASONS, tensorflow.errors.OpError) if tensorflow else _REASONS
    if not isinstance(error, reasons) or flags.FLAGS.verbosity >= 1:
        raise error
    _refuse(_line(error))


def _line(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, OSError) and error.strerror:
        words = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    elif isinstance(error, MemoryError):
        words = f"out of memory. {error}"
    else:
        words = getattr(error, "message", None) or str(error) or type(error).__name__
    words = " ".join(words.split())
    return words if len(words) < 2000 else words[:2000] + " ..."


def _refuse(words: str) -> NoReturn:
    _end(words, 1)


def _end(words: str, status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(f"{name()}: {words}\n")
    sys.exit(status)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    _signals.append(signum)
    raise KeyboardInterrupt


def _interrupt_again(unraisable: Any) -> None:
    """A signal that came inside a destructor, which can raise nothing, comes once more."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt) and _signals:
        again = threading.Timer(0.01, os.kill, (os.getpid(), _signals[-1]))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(unraisable)
