"""How a binary ends: one line and a status for what its user can change, a traceback for bugs."""

import signal
import sys
import time

import pytest
import tensorflow as tf
from absl import flags

from experiments import binary
from mfcnn import training


@pytest.fixture(autouse=True)
def parsed():
    flags.FLAGS(["test"])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    hook = sys.unraisablehook
    yield
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


def ending(main, capsys, argv=("name",), arguments=False):
    """(exit status, what was written to stderr)."""
    with pytest.raises(SystemExit) as error:
        binary._run(main, list(argv), arguments)
    return error.value.code, capsys.readouterr().err


def raising(error):
    def main(_):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("depth must be\n  an integer."), "depth must be an integer."),
        (OSError(28, "No space left on device", "runs/a"), "No space left on device: runs/a"),
        (PermissionError(13, "Permission denied", "/a"), "Permission denied: /a"),
        (NotADirectoryError("output_dir='a' is a file"), "output_dir='a' is a file"),
        (MemoryError("Unable to allocate 8 TiB"), "out of memory. Unable to allocate 8 TiB"),
        (FloatingPointError("not finite at step 3"), "not finite at step 3"),
        (training.DirectoryInUseError("in use by pid 7"), "in use by pid 7"),
        (
            tf.errors.ResourceExhaustedError(None, None, "OOM when\nallocating"),
            "OOM when allocating",
        ),
        (tf.errors.DataLossError(None, None, "truncated record"), "truncated record"),
    ],
)
def test_what_a_user_can_change_is_one_line_and_status_1(error, words, capsys):
    status, written = ending(raising(error), capsys)
    assert status == 1 and written == f"{binary.name()}: {words}\n"


@pytest.mark.parametrize("error", [KeyError("a"), TypeError("b"), AttributeError("c")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        binary._run(raising(error), ["name"], False)


def test_verbosity_shows_the_traceback_of_the_others():
    flags.FLAGS.verbosity = 1
    try:
        with pytest.raises(ValueError, match="depth"):
            binary._run(raising(ValueError("depth")), ["name"], False)
    finally:
        flags.FLAGS.verbosity = -1


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_its_status(signum, capsys):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status, written = ending(lambda _: signal.raise_signal(signum), capsys)
    finally:
        signal.signal(signal.SIGINT, before)
    assert status == 128 + signum
    assert written == f"{binary.name()}: stopped; the same command goes on.\n"


@pytest.mark.parametrize("after", [raising(ValueError("Invalid matrix")), lambda _: 0])
def test_a_signal_that_a_library_has_swallowed_counts_all_the_same(after, capsys):
    """As Matplotlib's renderer makes a ValueError of an interrupt."""

    def main(argv):
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            return after(argv)

    status, written = ending(main, capsys)
    assert status == 143 and "stopped; the same command goes on." in written


def test_a_signal_inside_a_destructor_is_not_lost(capsys):
    class Thing:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)
            for _ in range(3):  # the handler runs between two instructions
                pass

    def main(_):
        thing = Thing()
        del thing
        time.sleep(60)
        raise AssertionError("the signal was lost")

    status, written = ending(main, capsys)
    assert status == 143
    assert written == f"{binary.name()}: stopped; the same command goes on.\n"


def test_a_training_that_a_signal_stopped_says_where(capsys):
    error = training.StoppedError(signal.SIGTERM, 40)
    status, written = ending(raising(error), capsys)
    assert status == 143 and "stopped at step 40; the same command goes on." in written


def test_a_lost_host_ends_with_status_75(monkeypatch, capsys):
    left = []
    monkeypatch.setattr(training, "leave", lambda words: left.append(words) or exit(75))
    status, _ = ending(raising(training.PeerLostError("host b left")), capsys)
    assert status == 75 and "host b left" in left[0]


def test_arguments_that_are_no_flags_are_refused_where_there_are_none(capsys):
    status, written = ending(lambda _: 0, capsys, ["name", "depth", "3"])
    assert (
        status == 1 and "unknown arguments: depth 3 (flags are written as --name=value)" in written
    )
    assert binary._run(lambda argv: len(argv), ["name", "a"], True) == 2


def test_directories_are_given_back_at_the_end(tmp_path, capsys):
    def main(_):
        binary.keep_open(training.RunDirectory(tmp_path / "run"))
        assert (tmp_path / "run" / ".owner.json").exists()
        raise ValueError("refused")

    ending(main, capsys)
    assert not (tmp_path / "run").exists()
