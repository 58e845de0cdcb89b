"""Programs that keep results in a directory, each forked into a process of its own."""

import contextlib
import io
import os
import pathlib
import resource
import runpy
import signal
import sys
import time
import traceback
import zipfile
from collections.abc import Callable

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import h5py  # noqa: E402
import numpy as np  # noqa: E402

# Imported by the programs too, and here before any of them, once.
from experiments import architectures, common, vanilla_sweep  # noqa: E402, F401
from mfcnn import files, kernels, ownership  # noqa: E402
from mfcnn.data import sources  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
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
        self.name, self.module, self.flags = name, module, flags
        self.results, self.bad = results, bad
        self.reference, self.seconds, self.expected = None, 0.0, None

    def run(self, directory: pathlib.Path) -> None:
        """The whole program, in a process of its own."""
        if self.module is None:
            try:
                sys.exit(compute_kernel(str(directory)))
            except KeyboardInterrupt:
                sys.exit(130)
            except (
                ValueError,
                ownership.DirectoryInUseError,
                OSError,
            ) as error:  # what a user of it reads
                sys.exit(f"{type(error).__name__}: {error}")
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
        [*TINY, *"--depth=2 --steps=8 --eval_every=4 --checkpoint_every=2".split()],
        lambda directory: (rows(directory), train_weights(directory)),
        (
            "--batch_size=33 --subset=100000 --test_subset=361 --depth=0 --filters=x "
            "--dataset=cifar10 --weight_variance=1 --learning_rate=0 --strategy=tpu "
            "--strategy=multiworker --fused --resize=0 --activation=nothing --q_star=1e9"
        ).split(),
    ),
    Program(
        "sweep",
        "experiments.train_depths",
        [
            *TINY,
            "--depths=1",
            "--initializations=delta_orthogonal,orthogonal,gaussian",
            *"--steps=2 --eval_every=1 --checkpoint_every=1 --resize=8".split(),
        ],
        rows,
        (
            "--depths=1,0 --depths=a --depths= --initializations=none --batch_size=33 "
            "--subset=100000 --shard_index=1 --learning_rate=fast --strides=0,1 --resize=-3 "
            "--dataset=cifar10 --target=2"
        ).split(),
    ),
    Program(
        "figure",
        "experiments.weight_spectrum",
        "--size=6 --kernel_size=3 --channels=2,4 --dense_limit=30".split(),
        rows,
        (
            "--size=0 --size=2 --channels= --channels=2,x --preset=none --seed=-1 --nothing=1 "
            "--kernel_size=2.5 --dense_limit=-1"
        ).split(),
    ),
    Program("kernel", None, [], lambda directory: (directory / "result.npy").read_bytes(), []),
]


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
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
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
        self.seconds = time.monotonic() - self.start
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
