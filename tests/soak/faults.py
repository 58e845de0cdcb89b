"""Faults: how each kind is dealt to a program, and what must come of it."""

import collections
import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from tests.soak.programs import ROOT, TIMEOUT, Child, Program, warm_up

NOT_MET = "ended before it was met"


class WrongError(Exception):
    """Neither recovered nor refused in a sentence."""


class Soak:
    """Deals faults and counts what came of them.

    Args:
        seed: of all random choices.
        scratch: folder for the directories of the programs.
        programs: to deal faults to.
    """

    def __init__(self, seed: int, scratch: pathlib.Path, programs: Sequence[Program]) -> None:
        self.random, self.scratch = random.Random(seed), scratch
        warm_up()
        self.counts, self.wrong, self.memory = collections.Counter(), [], 0.0
        self.of_two_workers = None  # results of two undisturbed workers, when first needed
        for program in programs:
            program.reference = scratch / f"reference_{program.name}"
            for attempt in range(2):  # the second for the time, with all caches warm
                shutil.rmtree(program.reference, ignore_errors=True)
                child = Child(program, program.reference)
                status, words = child.wait()
                if status:
                    raise WrongError(f"The undisturbed {program.name} fails: {words}")
                program.seconds = time.monotonic() - child.start
                if attempt and program.results(program.reference) != program.expected:
                    raise WrongError(f"Two undisturbed runs of {program.name} differ.")
                program.expected = program.results(program.reference)
            print(f"{program.name}: {program.seconds:.1f} s undisturbed.", flush=True)

    def child(self, program: Program, directory: pathlib.Path, limit: int | None = None) -> Child:
        """A program that has just been started."""
        return Child(program, directory, limit)

    def finish(self, program: Program, directory: pathlib.Path) -> str:
        """Runs the same command undisturbed: all must come out equal."""
        status, words = self._wait(self.child(program, directory))
        problem = program.is_done(directory) if status == 0 else f"status {status}: {words}"
        if problem:
            raise WrongError(f"the same command does not repair it: {problem}")
        return "recovered"

    def _wait(self, child: Child) -> tuple[int, str]:
        status, words = child.wait()
        self.memory = max(self.memory, child.memory)
        return status, words

    def one_line(self, program: Program, words: str) -> str:
        """The sentence by which a program ended with status 1."""
        lines = words.strip().splitlines()
        if "Traceback" in words or not lines:
            raise WrongError(f"no sentence: {words}")
        if program.module and not lines[-1].startswith(f"{program.module}: "):
            raise WrongError(f"no sentence at the end: {words}")
        return lines[-1]

    def deal(self, kind: str, program: Program) -> None:
        """One fault: counts its outcome."""
        if kind == "refuse" and not program.bad:
            kind = "kill"
        directory = self.scratch / "run"
        shutil.rmtree(directory, ignore_errors=True)
        try:
            outcome = getattr(self, kind)(program, directory)
        except WrongError as error:
            outcome = "anything else"
            self.wrong.append(f"{kind}, {program.name}: {error}")
            print(self.wrong[-1][-3000:], flush=True)
            with contextlib.suppress(OSError):
                shutil.copytree(directory, self.scratch / f"wrong_{len(self.wrong)}")
        self.counts[kind, program.name, outcome] += 1

    def _after(self, child: Child, program: Program) -> None:
        """Waits for a random part of the time that the program takes."""
        time.sleep(self.random.uniform(0, 1.1) * program.seconds)

    def kill(self, program: Program, directory: pathlib.Path) -> str:
        """SIGKILL, once or twice."""
        killed = False
        for _ in range(self.random.choice((1, 1, 2))):
            child = self.child(program, directory)
            self._after(child, program)
            os.kill(child.pid, signal.SIGKILL)
            if self._wait(child)[0] == -signal.SIGKILL:
                killed = True
            else:  # the machine is faster than when the program was measured
                program.seconds = child.seconds
        outcome = self.finish(program, directory)
        return outcome if killed else NOT_MET

    def stop(self, program: Program, directory: pathlib.Path) -> str:
        """SIGTERM or Ctrl-C."""
        signum = self.random.choice((signal.SIGTERM, signal.SIGINT))
        child = self.child(program, directory)
        time.sleep(0.3)  # until the program has begun
        self._after(child, program)
        os.kill(child.pid, signum)
        status, words = self._wait(child)
        if status == 128 + signum and program.module:
            if "the same command goes on" not in words or "Traceback" in words:
                raise WrongError(words)
        elif status not in (0, -signum, 128 + signum):
            raise WrongError(f"status {status} after {signum!r}: {words}")
        return self.finish(program, directory)

    def limit(self, program: Program, directory: pathlib.Path) -> str:
        """No file may grow beyond a size."""
        size = int(10 ** self.random.uniform(1, 5.3))
        status, words = self._wait(self.child(program, directory, size))
        if status == 1 and program.module:
            self.one_line(program, words)
        elif status not in (0, 1):
            raise WrongError(f"status {status} at {size} bytes: {words}")
        outcome = self.finish(program, directory)
        return outcome if status else NOT_MET

    def full(self, program: Program, directory: pathlib.Path) -> str:
        """A disk of some kilobytes, made larger afterwards."""
        size = int(2 ** self.random.uniform(3, 9))
        directory.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(directory)]
        if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
            return "not possible here"
        try:
            status, words = self._wait(self.child(program, directory))
            if status == 1 and program.module:
                self.one_line(program, words)
            elif status not in (0, 1):
                raise WrongError(f"status {status} at {size} KiB: {words}")
            subprocess.run(["mount", "-o", "remount,size=64m", str(directory)], check=True)
            outcome = self.finish(program, directory)
            return outcome if status else NOT_MET
        finally:
            subprocess.run(["umount", "-l", str(directory)], check=False)
            directory.rmdir()

    def damage(self, program: Program, directory: pathlib.Path) -> str:
        """A file of a finished or a killed run is cut, emptied, flipped or removed."""
        if self.random.random() < 0.5:
            shutil.copytree(program.reference, directory)
        else:
            child = self.child(program, directory)
            self._after(child, program)
            os.kill(child.pid, signal.SIGKILL)
            self._wait(child)
        found = sorted(path for path in directory.glob("**/*") if path.is_file())
        found = [path for path in found if "tensorboard" not in path.parts]
        if not found:
            return self.finish(program, directory)
        path = self.random.choice(found)
        content, how = path.read_bytes(), self.random.choice(("cut", "empty", "flip", "remove"))
        _damage(path, content, how, self.random)
        status, words = self._wait(self.child(program, directory))
        if status == 0:
            problem = program.is_done(directory)
            if problem:
                raise WrongError(f"{how} {path.name}: {problem}: {words}")
            return "recovered"
        sentence = self.one_line(program, words)
        if status != 1 or directory.name not in sentence:
            raise WrongError(f"{how} {path.name}: status {status}: {words}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.finish(program, directory)
        return "refused"

    def two(self, program: Program, directory: pathlib.Path) -> str:
        """Two owners at the same time: one works, one is refused."""
        results = [child.wait() for child in [Child(program, directory) for _ in range(2)]]
        statuses = sorted(status for status, _ in results)
        if statuses != [0, 1]:
            raise WrongError(f"statuses {statuses}: {results}")
        (words,) = (words for status, words in results if status)
        if "is in use by pid" not in words:
            raise WrongError(words)
        if program.module:
            self.one_line(program, words)
        if program.is_done(directory):
            raise WrongError(f"{program.is_done(directory)}: {results}")
        return "one works, one refused"

    def refuse(self, program: Program, directory: pathlib.Path) -> str:
        """A flag that cannot be: nothing is written, and the corrected command runs."""
        flag = self.random.choice(program.bad)
        wrong = Program(program.name, program.module, [*program.flags, flag], program.results, [])
        status, words = self._wait(self.child(wrong, directory))
        if status != 1:
            raise WrongError(f"{flag}: status {status}: {words}")
        self.one_line(program, words)
        if directory.exists():
            raise WrongError(f"{flag} leaves {list(directory.iterdir())}: {words}")
        return "refused"

    def lost(self, program: Program, directory: pathlib.Path) -> str:
        """One of two workers is killed at any time; the launcher starts both again."""
        if self.of_two_workers is None:
            undisturbed = self.scratch / "reference_of_two_workers"
            self.of_two_workers = self._two_workers(program, undisturbed, victims=False)
        if self._two_workers(program, directory, victims=True) != self.of_two_workers:
            raise WrongError("other metrics or weights than those of two undisturbed workers")
        return "recovered"

    def _two_workers(self, program: Program, directory: pathlib.Path, victims: bool) -> object:
        """Trains with two workers, of which one may be killed: the results."""
        environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1", "PYTHONPATH": str(ROOT)}
        logs = self.scratch / "workers"
        shutil.rmtree(logs, ignore_errors=True)
        launch = [sys.executable, "-m", "tpu.launch", "--processes=2", f"--worker_logs={logs}"]
        train = ["-m", program.module, f"--output_dir={directory}", *program.flags]
        longer = ["--strategy=multiworker", "--steps=60", "--eval_every=20"]
        launcher = subprocess.Popen(
            [*launch, "--", *train, *longer],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if victims:
            time.sleep(self.random.uniform(3, 40))
            children = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
            workers = [int(pid) for pid in children.read_text().split()]
            if workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.random.choice(workers), signal.SIGKILL)
        try:
            _, errors = launcher.communicate(timeout=2 * TIMEOUT)
        except subprocess.TimeoutExpired:
            launcher.kill()
            raise WrongError("the launcher does not end") from None
        words = "".join(p.read_text(errors="replace") for p in logs.glob("*"))[-5000:]
        if launcher.returncode:
            raise WrongError(f"status {launcher.returncode}: {errors} {words}")
        return program.results(directory)

    def table(self) -> list[dict]:
        """The counts: a row for each kind of fault, program and outcome."""
        return [
            {"fault": kind, "program": program, "outcome": outcome, "count": count}
            for (kind, program, outcome), count in sorted(self.counts.items())
        ]


def _damage(path: pathlib.Path, content: bytes, how: str, draw: random.Random) -> None:
    if how == "remove":
        path.unlink()
    elif how == "flip" and content:
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
    else:
        path.write_bytes(
            content[: draw.randrange(len(content))] if how == "cut" and content else b""
        )


# How often each kind is dealt, and to whom.
KINDS = {"kill": 6, "stop": 4, "limit": 4, "full": 3, "damage": 8, "two": 3, "refuse": 3}
WHOM = {"train": 4, "sweep": 1, "figure": 9, "kernel": 6}
