r"""Trains with the compiled program of a TPU's replica itself, executed by PJRT.

    python -m tpu.execute --platform=cpu --devices=4 --depth=1000 --output_dir=runs/digits
    python -m tpu.execute --export=folder --devices=1 --dataset=mnist --depth=10000 ...

TensorFlow writes the training step of `mfcnn.training` as StableHLO, its sums over the replicas
included; jax's PJRT client compiles and executes it: on virtual CPU devices, on GPUs, on TPUs. It
takes the flags of `experiments.train` and leaves the same metrics.csv and checkpoints in
`--output_dir`: either program goes on with the other's run.

With `--export` it writes a folder instead, which trains where there is no TensorFlow, by
`python -m runner` in it; weights too large to carry are drawn there, from the seed.

Needs `pip install '.[tpu-check]'`, or another Python that has jax, given as --python.
"""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import time
from typing import Any

import keras
import numpy as np
from absl import flags, logging

from experiments import binary, train, vanilla
from mfcnn import data, files, training
from mfcnn.training.stopping import stop_on_signals
from tpu import export, launch, lowering
from tpu.runner import arrays

FLAGS = flags.FLAGS

DEFAULTS = {"strategy": "tpu"}

_POLL = 0.05  # seconds between two looks at the runner
_ENDS = ("ckpt-{}.index", "state-{}")  # of a run that is done, by its last step
_CHECK = "import importlib.metadata as m; print(m.version('jax'))"


class ExecutionError(RuntimeError):
    """The program could not be executed."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where a program is executed: PJRT's platform, number of devices, a Python that has jax."""

    platform: str = "cpu"
    devices: int = 1
    python: str = sys.executable

    def make_step(
        self, config: vanilla.Config, dataset: data.ImageData, **options: Any
    ) -> lowering.Step:
        """The step of one of its replicas."""
        form = "auto" if self.platform == "cpu" else "library"
        return lowering.make_step(
            config, dataset.image_shape, dataset.classes, self.devices, form, **options
        )

    def check(self) -> None:
        """Makes sure that its Python has jax."""
        try:
            result = subprocess.run([self.python, "-c", _CHECK], capture_output=True)
        except OSError as error:
            raise ExecutionError(f"--python={self.python} cannot be started: {error}") from error
        if result.returncode:
            raise ExecutionError(
                f"{self.python} has no jax: pip install '.[tpu-check]', or give --python, a Python "
                "that has it."
            )


def define_flags() -> None:
    """Defines the flags of the execution beside those of the main job."""
    vanilla.define_flags()
    for name, default in DEFAULTS.items():
        FLAGS.set_default(name, default)
    flags.DEFINE_enum("platform", "cpu", ["cpu", "gpu", "tpu"], "What PJRT executes it on.")
    flags.DEFINE_integer(
        "devices", 1, "Replicas, one on each device; on a CPU virtual ones.", lower_bound=1
    )
    flags.DEFINE_string("python", sys.executable, "Python that has jax.")
    flags.DEFINE_string(
        "export", None, "Write the program, its data and a runner to this folder, which is new."
    )
    flags.register_validator(
        "shift",
        lambda value: value == 0,
        "shift must be 0: the exported program trains on images as they are, experiments.train "
        "moves them",
    )


def write_folder(config: vanilla.Config, folder: pathlib.Path, machine: Machine) -> int:
    """Writes the program of a configuration for its start; the size in bytes.

    Raises:
        FileExistsError: if the folder is there.
    """
    if folder.exists():
        raise FileExistsError(f"--export={folder} is there already: give a new folder")
    vanilla.set_precision(config)
    dataset = train.load_data(config, folder.parent)
    print(train.describe(config, dataset, machine.devices), flush=True)
    rate = float(_learning_rate(config, dataset))
    step = machine.make_step(config, dataset, learning_rate=rate, filled=export.CARRIED)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    size = export.write(partial, config, dataset, step, export.first_values(step))
    partial.rename(folder)
    return size


def _learning_rate(config: vanilla.Config, dataset: data.ImageData) -> float:
    model = None
    if config["learning_rate"] == "auto" and config["optimizer"] in ("sgd", "momentum"):
        model = vanilla.make_model(config, dataset.image_shape, dataset.classes)
    rate, reason = vanilla.learning_rate(config, model, dataset)
    print(f"{config['optimizer']}, learning rate {rate:.4g} ({reason}).", flush=True)
    return rate


def run(config: dict[str, Any], output_dir: str, machine: Machine) -> dict[str, float]:
    """Trains as a configuration says and returns the last row of metrics."""
    if config["batch_size"] % machine.devices:
        raise ValueError(
            f"batch_size must be a multiple of the {machine.devices} devices. "
            f"Received: batch_size={config['batch_size']}"
        )
    saved = pathlib.Path(output_dir, "checkpoints")
    if not any((saved / name.format(config["steps"])).exists() for name in _ENDS):
        machine.check()
    with train.run_directory_of(config, output_dir) as directory:
        vanilla.set_precision(config)
        dataset = train.load_data(config, directory.path)
        print(train.describe(config, dataset, machine.devices), flush=True)
        trainer = train.make_trainer(config, dataset, directory.path)
        trainer.checkpoints.restore()
        trainer.checkpoints.clean()
        _take_saved(trainer)  # of a runner that was killed with its caller
        if int(trainer.step) < config["steps"]:
            _execute(config, dataset, trainer, machine)
        return trainer.run(config["steps"])


def _execute(
    config: vanilla.Config, dataset: data.ImageData, trainer: training.Trainer, machine: Machine
) -> None:
    """Trains from the trainer's state to the last step, and takes it back."""
    directory = trainer.output_dir
    files.about_to_write(directory / "metrics.csv")
    folder = directory / "program"
    shutil.rmtree(folder, ignore_errors=True)
    variables = lowering.by_path(trainer.model, trainer.optimizer)
    step = machine.make_step(config, dataset, learning_rate=_first_rate(trainer.optimizer))
    export.write(
        folder,
        config,
        dataset,
        step,
        {path: variable.numpy() for path, variable in variables.items()},
        int(trainer.step),
        tuple(trainer.window.numpy()),
        trainer.metrics.text(),
    )
    try:
        signum, status = _run_child(folder, directory, machine)
    finally:
        _take_saved(trainer)
        shutil.rmtree(folder, ignore_errors=True)
        (directory / ".runner.lock").unlink(missing_ok=True)
    if signum:
        raise training.StoppedError(signum, int(trainer.step))
    if status:
        raise ExecutionError(f"The runner ended with status {status}; its last lines say why.")


def _first_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """The learning rate, of a schedule the one that it starts from: a constant of the program."""
    rate = optimizer.get_config()["learning_rate"]
    return float(rate["config"]["initial_learning_rate"] if isinstance(rate, dict) else rate)


def _run_child(folder: pathlib.Path, directory: pathlib.Path, machine: Machine) -> tuple[int, int]:
    """(signal that came or 0, exit status); the runner ends with this process."""
    arguments = ["--platform", machine.platform, "--output_dir", str(directory.resolve())]
    with stop_on_signals() as request:
        process = subprocess.Popen(
            [shutil.which(machine.python) or machine.python, "-m", "runner", *arguments],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            start_new_session=True,
            preexec_fn=launch.die_with(os.getpid()),
        )
        passed_on = 0
        while process.poll() is None:
            if request.signum and not passed_on:
                passed_on = request.signum
                process.send_signal(passed_on)
            time.sleep(_POLL)
        return request.signum, process.returncode


def _take_saved(trainer: training.Trainer) -> None:
    """Makes the runner's newest checkpoint, if it is of a later step, one of the trainer's."""
    saved = arrays.Checkpoints(trainer.output_dir / "checkpoints")
    found = saved.newest()
    if found is None:
        return
    step, values, extra = found
    if step > int(trainer.step):
        for path, variable in lowering.by_path(trainer.model, trainer.optimizer).items():
            variable.assign(values[path])
        trainer.step.assign(step)
        trainer.window.assign(np.asarray(extra["window"], np.float64))
        trainer.metrics.write(extra["rows"])
        trainer.checkpoints.save(step)
    saved.remove()


def main(_: list[str]) -> None:
    """Executes, or exports, the flags' configuration."""
    logging.set_verbosity(logging.WARNING)
    config = vanilla.configuration()
    machine = Machine(FLAGS.platform, FLAGS.devices, FLAGS.python)
    if FLAGS.export is None:
        train.report(run(config, FLAGS.output_dir, machine))
        return
    size = write_folder(config, pathlib.Path(FLAGS.export), machine)
    print(
        f"{FLAGS.export}: {size / 1e6:.1f} MB. There, with jax and NumPy alone:\n"
        f"    python -m runner --platform={FLAGS.platform}"
    )


if __name__ == "__main__":
    binary.start(define_flags, main)
