"""The training loop of a folder: steps, rows of metrics.csv, checkpoints, a signal's end."""

import argparse
import importlib.util
import json
import math
import os
import pathlib
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import numpy as np

from .arrays import Checkpoints
from .batches import Batches
from .directory import take_directory
from .program import Devices, Executable
from .state import State

__all__ = ["Run", "main"]

FIELDS = ("step", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
_UNREAD = 50  # steps whose sums may wait on the devices


class Run:
    """A run of the program of a folder; goes on from its newest checkpoint.

    Args:
        folder: of the program.
        output_dir: gets metrics.csv and checkpoints/.
        platform: "cpu", "gpu" or "tpu".
    """

    def __init__(self, folder: pathlib.Path, output_dir: pathlib.Path, platform: str) -> None:
        self._output_dir = output_dir
        self.spec: dict[str, Any] = json.loads((folder / "program.json").read_text())
        self.devices = Devices(platform, self.spec["replicas"])
        if self.devices.is_chief:
            self._lock = take_directory(folder, output_dir, self.spec["may_differ"])
        self._checkpoints = Checkpoints(output_dir / "checkpoints")
        self.step, saved = self.spec["first_step"], None
        self._window, self._rows = np.array(self.spec["window"], float), self.spec["rows"]
        found = self._checkpoints.newest()
        if found and found[0] >= self.step:
            self.step, saved, extra = found
            self._window, self._rows = np.array(extra["window"]), extra["rows"]
            self.say(f"Going on from step {self.step}.")
        self.state = State(folder, self.spec, self.devices, saved)
        self._batches = Batches(folder, self.spec, self.devices)
        self._programs = {name: self._compile(folder, name) for name in ("train", "test")}
        self._unread: list[Sequence[Any]] = []
        self.rates: list[float] = []  # seconds a step, between two looks at the sums
        self._since = 0.0
        self._write_rows()

    def say(self, words: str) -> None:
        """Prints a line, once for all processes."""
        if self.devices.is_chief:
            print(words, flush=True)

    def _compile(self, folder: pathlib.Path, name: str) -> Executable:
        updated = [path in self.spec["shards"] for path in self.spec[name]["updated"]]
        return Executable(folder / f"{name}.mlir", self.devices, updated)

    def _call(self, name: str, batch: Sequence[Any]) -> Sequence[Any]:
        program, arrays = self.spec[name], self.state.arrays
        arguments = [*batch, *(arrays[path] for path in program["arguments"])]
        sums, values = self._programs[name](arguments)
        arrays |= zip(program["updated"], values)
        return sums

    def train(self) -> None:
        """One step."""
        if not self._unread:
            self._since = time.perf_counter()
        self._unread.append(self._call("train", self._batches.train(self.step)))
        self.step += 1
        if len(self._unread) >= _UNREAD:
            self.read()

    def read(self) -> np.ndarray:
        """Sums of loss, hits and examples since the last row; waits for the devices."""
        if self._unread:
            self._window += self.devices.total(sum(map(_sum, self._unread)))
            self.rates.append((time.perf_counter() - self._since) / len(self._unread))
        self._unread = []
        return self._window

    def evaluate(self) -> tuple[float, float]:
        """(loss, accuracy) on the test set."""
        sums = [_sum(self._call("test", batch)) for batch in self._batches.test()]
        return _means(self.devices.total(sum(sums)))

    def report(self) -> dict[str, float]:
        """Adds a row to metrics.csv."""
        values = (self.step, *_means(self.read()), *self.evaluate())
        row = dict(zip(FIELDS, values))
        self._rows += ",".join(_text(value) for value in values) + "\n"
        self._write_rows()
        self._window = np.zeros(3)
        return row

    def agree(self, signum: int, over: bool) -> tuple[int, bool]:
        """(signal, whether the time is over), the same for all processes; they ask now and then."""
        if self.devices.alone:
            return signum, over
        if self.step % _UNREAD:
            return 0, False
        found = self.devices.largest(np.array([signum, over]))
        return int(found[0]), bool(found[1])

    def measured(self) -> dict[str, Any]:
        """What a benchmark asks: the device, seconds a step (median, without the first), FLOPs."""
        rates = self.rates[1:] or self.rates
        seconds = float(np.median(rates)) if rates else math.nan
        return {
            "device": self.devices.all[0].device_kind,
            "replicas": len(self.devices.all),
            "step": self.step,
            "seconds_a_step": seconds,
            "flops_a_step": 3 * self.spec["forward_flops"],
        }

    def save(self) -> bool:
        """Writes a checkpoint, of finite values only; whether they are."""
        folder = self._checkpoints.begin(self.step) if self.devices.is_chief else None
        finite = self.state.save(folder) and bool(np.all(np.isfinite(self.read())))
        if folder and finite:
            extra = {"window": self._window.tolist(), "rows": self._rows}
            self._checkpoints.end(self.step, extra)
        elif folder:
            self._checkpoints.drop(self.step)
        return finite

    def _write_rows(self) -> None:
        if not self.devices.is_chief:
            return
        partial = self._output_dir / ".metrics.partial.csv"
        partial.write_text(self._rows)
        partial.replace(self._output_dir / "metrics.csv")


class _Stop:
    """The signal that came; a second one is carried out at once."""

    signum = 0

    def __init__(self) -> None:
        self._before = {n: signal.signal(n, self) for n in (signal.SIGTERM, signal.SIGINT)}

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        for number, handler in self._before.items():
            signal.signal(number, handler)


def train(run: Run, steps: int, seconds: float = math.inf) -> int:
    """Trains up to a step, or for some time; the exit status."""
    stop, end = _Stop(), time.monotonic() + seconds
    eval_every, save_every = run.spec["eval_every"], run.spec["checkpoint_every"]
    finite, signum = True, 0
    while run.step < steps:
        run.train()
        last = run.step == steps
        if run.step % eval_every == 0 or last:
            row = run.report()
            rate = f"{1e3 * run.measured()['seconds_a_step']:.4g} ms a step"
            run.say(", ".join([*(f"{name} {row[name]:.6g}" for name in FIELDS), rate]))
            finite = finite and math.isfinite(row["train_loss"])
        if finite and (run.step % save_every == 0 or last):
            finite = run.save()
        if not finite:
            run.say(f"The loss or a weight is no longer finite at step {run.step}.")
            return 1
        signum, over = run.agree(stop.signum, time.monotonic() > end)
        if signum or over:
            break
    if run.step < steps:
        if not signum and run.read()[2]:  # the time is over, between two rows
            run.report()
        run.save()
    if signum:
        run.say(f"Stopped at step {run.step}; the same command goes on.")
    return 128 + signum if signum else 0


def _sum(sums: Sequence[Any]) -> np.ndarray:
    return sum((np.asarray(each, np.float32) for each in sums), np.zeros(3, np.float32)).astype(
        float
    )


def _means(sums: Any) -> tuple[float, float]:
    loss, hits, count = sums
    return float(loss / count), float(hits / count)


def _text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.7g}"


def _arguments(argv: Sequence[str] | None) -> Any:
    here = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(prog="python -m runner", description=__doc__)
    parser.add_argument("--platform", choices=("cpu", "gpu", "tpu"), default="cpu")
    parser.add_argument("--folder", type=pathlib.Path, default=here, help="of the program")
    parser.add_argument("--output_dir", type=pathlib.Path, help="default: run/ in the folder")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after this time")
    pod = parser.add_argument_group("several processes", "one on each host")
    pod.add_argument("--coordinator", help="host:port of the first process; auto on a TPU pod")
    pod.add_argument("--processes", type=int, help="their number")
    pod.add_argument("--process", type=int, help="the place of this one, from 0")
    parser.add_argument("--measured", type=pathlib.Path, help="file for the time of a step")
    return parser.parse_args(argv)


def _missing() -> str:
    """What this Python lacks, in a sentence; nothing if it lacks nothing."""
    if importlib.util.find_spec("jax") is None:
        return "this Python has no jax: pip install jax==0.10.2, or jax[cuda13] on a GPU"
    return ""


def _set_platform(given: Any, replicas: int) -> None:
    """Chooses jax's platform, and meets the other processes; on a CPU the devices are virtual."""
    os.environ["JAX_ENABLE_X64"] = "1"  # the count of steps is an int64
    os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(given.platform, given.platform)
    if given.platform == "cpu":
        count = replicas // (given.processes or 1)
        flag = f"--xla_force_host_platform_device_count={count}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    if given.coordinator:
        import jax

        named = given.coordinator != "auto"
        jax.distributed.initialize(
            *((given.coordinator, given.processes, given.process) if named else ())
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Trains the program of the folder."""
    given = _arguments(argv)
    if _missing():
        sys.exit(f"runner: {_missing()}")
    spec: Mapping[str, Any] = json.loads((given.folder / "program.json").read_text())
    try:
        _set_platform(given, spec["replicas"])
        run = Run(given.folder, given.output_dir or given.folder / "run", given.platform)
        status = train(run, spec["steps"], 60 * given.minutes)
        if given.measured and run.devices.is_chief:
            given.measured.write_text(json.dumps(run.measured()) + "\n")
    except (ValueError, OSError, RuntimeError) as error:
        print(f"runner: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)
