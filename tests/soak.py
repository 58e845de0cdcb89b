r"""A soak: faults without end against the programs that keep results, from a seed.

    python -m tests.soak --minutes=60 --seed=7 --output=experiments/results/soak/faults.csv

Each fault is dealt to a tiny training, sweep, figure or kernel: a kill or signal at a random time,
a full disk or a limit on files, a damaged file, two owners at once, a start that is to be refused,
a worker of two that is lost. Afterwards the same command must end with the metrics and weights of
an undisturbed run, or the fault must have been refused in one line. Anything else is a failure.

The programs are forked from this process, which has imported everything and run nothing.
"""

import argparse
import collections
import contextlib
import csv
import io
import os
import pathlib
import random
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Sequence

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import h5py  # noqa: E402
import numpy as np  # noqa: E402

# Imported by the programs too, and here before any of them, once.
from experiments import architectures, common, vanilla_sweep  # noqa: E402, F401
from mfcnn import files, kernels  # noqa: E402
from mfcnn.data import sources  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]
TINY = (
    "--dataset=digits --filters=2 --batch_size=8 --subset=32 --test_subset=16 --strides=2,2,2 "
    "--learning_rate=0.001 --nojit_compile --steps_per_execution=1 "
).split()
TIMEOUT = 300.0


def train_weights(directory: pathlib.Path) -> bytes:
    """All weights of a saved model, in the order of their names."""
    with zipfile.ZipFile(directory / "model.keras") as archive:
        weights = archive.read("model.weights.h5")
    found = []
    with h5py.File(io.BytesIO(weights)) as file:
        file.visititems(lambda name, item: found.append((name, item)))
        arrays = [item[()].tobytes() for _, item in sorted(found) if isinstance(item, h5py.Dataset)]
    return b"".join(arrays)


def rows(directory: pathlib.Path) -> bytes:
    """The table of a run."""
    return (directory / "metrics.csv").read_bytes()


def compute_kernel(directory: str) -> int:
    """A kernel of 10 blocks, kept on the disk; the whole goes beside them."""
    kernel = kernels.fully_connected(2, "relu", 1.5, 0.1)
    kernel._block = 6
    x = np.random.default_rng(0).normal(size=(24, 5)) * np.linspace(1, 2, 24)[:, None]
    result = kernel(x, get="ntk", output_dir=directory).numpy()
    files.write_atomically(pathlib.Path(directory) / "result.npy", lambda p: np.save(p, result))
    return 0


class Program:
    """Something that keeps its results in a directory.

    Args:
        name: for the table.
        module: of the binary; None for `compute_kernel`.
        flags: of the binary, without the directory.
        results: function from a directory to what must come out equal.
        bad: flags that are to be refused before anything is written.
    """

    def __init__(
        self,
        name: str,
        module: str | None,
        flags: list[str],
        results: Callable[[pathlib.Path], object],
        bad: list[str],
    ) -> None:
        self.name, self.module, self.flags, self.results, self.bad = (
            name, module, flags, results, bad
        )  # fmt: skip
        self.reference, self.seconds, self.expected = None, 0.0, None

    def run(self, directory: pathlib.Path) -> None:
        """The whole program, in a process of its own."""
        if self.module is None:
            with contextlib.suppress(KeyboardInterrupt):
                sys.exit(compute_kernel(str(directory)))
            sys.exit(130)
        sys.argv = [self.module, f"--output_dir={directory}", *self.flags]
        runpy.run_module(self.module, run_name="__main__", alter_sys=True)

    def is_done(self, directory: pathlib.Path) -> str:
        """Empty if the directory holds the results of an undisturbed run, else what is wrong."""
        try:
            return "" if self.results(directory) == self.expected else "other results"
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            return f"no results: {error!r}"


PROGRAMS = [
    Program(
        "train",
        "experiments.train",
        [*TINY, "--depth=2", "--steps=8", "--eval_every=4", "--checkpoint_every=2"],
        lambda directory: (rows(directory), train_weights(directory)),
        ["--batch_size=33", "--subset=100000", "--test_subset=361", "--depth=0", "--filters=x",
         "--dataset=cifar10", "--weight_variance=1", "--learning_rate=0", "--strategy=tpu",
         "--strategy=multiworker", "--fused", "--resize=0", "--activation=nothing", "--q_star=1e9"],
    ),
    Program(
        "sweep",
        "experiments.train_depths",
        [*TINY, "--depths=1", "--initializations=delta_orthogonal,orthogonal,gaussian",
         "--steps=2", "--eval_every=1", "--checkpoint_every=1", "--resize=8"],
        rows,
        ["--depths=1,0", "--depths=a", "--depths=", "--initializations=none", "--batch_size=33",
         "--subset=100000", "--shard_index=1", "--learning_rate=fast", "--strides=0,1",
         "--resize=-3", "--dataset=cifar10", "--target=2"],
    ),
    Program(
        "figure",
        "experiments.weight_spectrum",
        ["--size=6", "--kernel_size=3", "--channels=2,4", "--dense_limit=30"],
        rows,
        ["--size=0", "--size=2", "--channels=", "--channels=2,x", "--preset=none", "--seed=-1",
         "--nothing=1", "--kernel_size=2.5", "--dense_limit=-1"],
    ),
    Program(
        "kernel", None, [], lambda directory: (directory / "result.npy").read_bytes(), []
    ),
]  # fmt: skip


class Child:
    """A program at work in a process of its own, forked from this one."""

    def __init__(self, program: Program, directory: pathlib.Path, limit: int | None = None) -> None:
        self.start = time.monotonic()
        # What a program writes fits into a pipe, and a limit on files does not concern that.
        self._output, descriptor = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(descriptor)
            return
        status = 1
        try:  # whatever happens, this copy of the soak ends here
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            program.run(directory)
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
            os._exit(status)

    def wait(self) -> tuple[int, str]:
        """(exit status, all that it wrote); negative for a signal."""
        deadline = self.start + TIMEOUT
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.005)
        self.memory = usage.ru_maxrss / 1024  # MiB
        os.set_blocking(self._output, False)
        words = b""
        with contextlib.suppress(BlockingIOError):
            words = os.read(self._output, 2**20)
        os.close(self._output)
        return os.waitstatus_to_exitcode(status), words.decode(errors="replace")


def warm_up() -> None:
    """What every program would do first, and what needs no TensorFlow, once for all of them."""
    sources.read("digits")
    figure, _ = common.subplots(1, 2)
    figure.savefig(io.BytesIO())
    common.plt.close(figure)


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
        for _ in range(self.random.choice((1, 1, 2))):
            child = self.child(program, directory)
            self._after(child, program)
            os.kill(child.pid, signal.SIGKILL)
            self._wait(child)
        return self.finish(program, directory)

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
        return self.finish(program, directory)

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
            return self.finish(program, directory)
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
        if not program.bad:
            return self.kill(program, directory)
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
        train = PROGRAMS[0]
        arguments = [*train.flags, "--strategy=multiworker", "--steps=60", "--eval_every=20"]
        environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1", "PYTHONPATH": str(ROOT)}
        logs = self.scratch / "workers"
        shutil.rmtree(logs, ignore_errors=True)
        launcher = subprocess.Popen(
            [sys.executable, "-m", "tpu.launch", "--processes=2", f"--worker_logs={logs}", "--",
             "-m", train.module, f"--output_dir={directory}", *arguments],
            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(self.random.uniform(3, 40))
        children = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
        victims = [int(pid) for pid in children.split()]
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(victims), signal.SIGKILL)
        try:
            _, errors = launcher.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            launcher.kill()
            raise WrongError("the launcher does not end") from None
        words = "".join(p.read_text(errors="replace") for p in logs.glob("*"))[-5000:]
        if launcher.returncode or rows(directory).count(b"\n") != 4:
            raise WrongError(f"status {launcher.returncode}: {errors} {words}")
        return "recovered"

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


def soak(
    seed: int,
    faults: int,
    minutes: float,
    output: pathlib.Path | None = None,
    kinds: Sequence[str] = (),
    programs: Sequence[str] = (),
    lost: int = 0,
) -> Soak:
    """Deals faults until there are enough of them or the time is over.

    Args:
        seed: of all.
        faults: at most so many.
        minutes: at most so long, but for the last one.
        output: CSV file of the counts, written after each fault.
        kinds: some of `KINDS`; all if empty.
        programs: some of `WHOM`; all if empty.
        lost: one in so many faults is a lost worker; 0 for none.
    """
    deadline = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="soak") as scratch:
        chosen = [p for p in PROGRAMS if not programs or p.name in programs]
        result = Soak(seed, pathlib.Path(scratch), chosen)
        names = kinds or list(KINDS)
        for number in range(1, faults + 1):
            if time.monotonic() > deadline:
                break
            (kind,) = result.random.choices(names, [KINDS[name] for name in names])
            (whom,) = result.random.choices(chosen, [WHOM[p.name] for p in chosen])
            if lost and number % lost == 0:
                kind, whom = "lost", PROGRAMS[0]
            result.deal(kind, whom)
            if output:
                text = io.StringIO()
                writer = csv.DictWriter(
                    text, ["fault", "program", "outcome", "count"], lineterminator="\n"
                )
                writer.writeheader()
                writer.writerows(result.table())
                files.write_atomically(output, text.getvalue())
    return result


def main() -> int:
    """Soaks as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--faults", type=int, default=10**9)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--kinds", default="", help=f"some of {','.join(KINDS)}")
    parser.add_argument("--programs", default="", help=f"some of {','.join(WHOM)}")
    parser.add_argument("--lost", type=int, default=60, help="one in so many is a lost worker")
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    print(f"Seed {options.seed}.", flush=True)
    kinds = [kind for kind in options.kinds.split(",") if kind]
    programs = [name for name in options.programs.split(",") if name]
    result = soak(
        options.seed, options.faults, options.minutes, options.output, kinds, programs, options.lost
    )
    for row in result.table():
        print("{fault:8s} {program:8s} {outcome:24s} {count:5d}".format(**row))
    print(
        f"{sum(result.counts.values())} faults, {len(result.wrong)} of them neither recovered nor "
        f"refused; at most {result.memory:.0f} MiB a process."
    )
    return int(bool(result.wrong))


if __name__ == "__main__":
    sys.exit(main())
