"""The training loop: compiled steps on any strategy, checkpoints, metrics, curves."""

import contextlib
import functools
import math
import os
import sys
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments, files
from mfcnn.data import ImageData
from mfcnn.run_directory import RunDirectory
from mfcnn.training.checkpoints import Checkpoints
from mfcnn.training.failure import lost_peers
from mfcnn.training.programs import Programs
from mfcnn.training.progress import Progress
from mfcnn.training.records import ConfigurationError, MetricsFile, is_whole, plot_curves
from mfcnn.training.step import LOSSES, constant_loss
from mfcnn.training.stopping import StoppedError, stop_on_signals
from mfcnn.training.strategy import agree, distribute, is_chief, largest_of_workers

__all__ = ["Trainer"]

_FIELDS = ("step", "train_loss", "train_accuracy", "test_loss", "test_accuracy")

# A loss this many times that of a constant prediction is no start from which training comes back.
_DIVERGED = 1e3
_REMEDY = (
    "the learning rate is too large for this network, or its start is deep in the chaotic phase. "
    "Lower the learning rate, or the weight variance."
)


class Trainer:
    """Trains a Keras classifier; goes on where a killed run stopped.

    After each `eval_every` steps a row is added to `metrics.csv`: loss and accuracy on the
    training batches since the row before, and on the whole test set. The rows depend on the
    configuration and the seed alone: a run that was killed and continued ends with the same file.

    Args:
        make_model: function without arguments to the built model, from images to logits.
        make_optimizer: function from the model to a Keras optimizer.
        dataset: a `mfcnn.data.ImageData`.
        output_dir: directory of the run; gets metrics.csv, curves.png, tensorboard/,
            checkpoints/ and model.keras.
        strategy: a `tf.distribute.Strategy`.
        jit_compile: whether XLA compiles the step.
        fused: whether the deep stack is updated inside the backward pass, see `FusedUpdate`; one
            replica, uncompiled.
        eval_every: steps between two rows.
        checkpoint_every: steps between two checkpoints.
        steps_per_execution: steps in one call of the compiled program.
        eval_batch_size: global batch size of the evaluation; that of training if not given.
        title: of the curves.
        verbose: whether to show progress.
        loss: "cross_entropy" (softmax) or "squared_error": 1/2 |f - y|^2 with the one-hot label
            less 1 / classes as y, whose gradient flow is the linear one of the NTK.
        artifacts: whether curves.png, tensorboard/ and model.keras are written.

    Raises:
        ValueError: for an argument out of its range, a batch that the replicas do not divide, or a
            fused step that is to be compiled or has several replicas.
        PeerLostError: if another worker or a host of a TPU left while the model was made.

    Example:
        >>> import tempfile
        >>> trainer = mfcnn.training.Trainer(
        ...     lambda: mfcnn.models.vanilla_cnn((8, 8, 1), depth=3, filters=4, classes=10),
        ...     lambda model: keras.optimizers.Adam(1e-3),
        ...     mfcnn.data.load("digits", batch_size=16, subset=32, test_subset=16),
        ...     tempfile.mkdtemp(),
        ...     artifacts=False,
        ...     verbose=False,
        ... )
        >>> loss, accuracy = trainer.evaluate()
        >>> 0 <= accuracy <= 1
        True
    """

    def __init__(
        self,
        make_model: Callable[[], keras.Model],
        make_optimizer: Callable[[keras.Model], keras.optimizers.Optimizer],
        dataset: ImageData,
        output_dir: os.PathLike | str,
        strategy: tf.distribute.Strategy | None = None,
        jit_compile: bool = False,
        fused: bool = False,
        eval_every: int = 100,
        checkpoint_every: int | None = None,
        steps_per_execution: int = 10,
        eval_batch_size: int | None = None,
        title: str = "",
        verbose: bool = True,
        loss: str = "cross_entropy",
        artifacts: bool = True,
    ) -> None:
        if not isinstance(dataset, ImageData):
            raise arguments.ArgumentTypeError(
                f"dataset must be a mfcnn.data.ImageData. Received: dataset={dataset!r}"
            )
        self.dataset = dataset
        self.strategy = strategy or tf.distribute.get_strategy()
        self._is_chief = is_chief(self.strategy)
        self._largest_of_workers = largest_of_workers(self.strategy)
        self.eval_every = arguments.integer("eval_every", eval_every, 1)
        self.checkpoint_every = _count("checkpoint_every", checkpoint_every, self.eval_every)
        self.steps_per_execution = arguments.integer("steps_per_execution", steps_per_execution, 1)
        self.eval_batch_size = _count("eval_batch_size", eval_batch_size, dataset.batch_size)
        jit_compile = arguments.boolean("jit_compile", jit_compile)
        fused = arguments.boolean("fused", fused)
        self.verbose = arguments.boolean("verbose", verbose) and self._is_chief
        self.artifacts = arguments.boolean("artifacts", artifacts) and self._is_chief
        self._loss = arguments.choice("loss", loss, LOSSES)
        self._check_replicas(jit_compile, fused)
        with lost_peers(self.strategy):
            of_step = dataset.batch_size, self._loss, fused, jit_compile
            self._programs = Programs(self.strategy, make_model, make_optimizer, *of_step)
        self.model, self.optimizer = self._programs.model, self._programs.optimizer
        self.step = tf.Variable(0, dtype=tf.int64, name="step")
        # Sums of loss, hits and examples since the last row.
        self.window = tf.Variable(tf.zeros([3], tf.float64), name="window")
        self._open(output_dir, title)

    def _check_replicas(self, jit_compile: bool, fused: bool) -> None:
        replicas = self.strategy.num_replicas_in_sync
        for name, size in (
            ("batch_size", self.dataset.batch_size),
            ("eval_batch_size", self.eval_batch_size),
        ):
            if size % replicas:
                raise ValueError(
                    f"{name} must be a multiple of the {replicas} replicas. Received: {size}"
                )
        if fused and (jit_compile or replicas > 1):
            raise ValueError(
                "fused=True needs jit_compile=False and one replica. Received: "
                f"jit_compile={jit_compile}, {replicas} replicas"
            )

    def _open(self, output_dir: os.PathLike | str, title: str) -> None:
        self.output_dir = arguments.path("output_dir", output_dir)
        self.title = arguments.text("title", title)
        self.metrics = MetricsFile(self.output_dir / "metrics.csv", _FIELDS)
        self.checkpoints = Checkpoints(
            self.output_dir / "checkpoints",
            self.step,
            self.window,
            [v.value for v in self._programs.variables],
            self.metrics,
        )
        self._not_finite_at: int | None = None

    def restart(
        self,
        make_model: Callable[[], keras.Model],
        make_optimizer: Callable[[keras.Model], keras.optimizers.Optimizer],
        output_dir: os.PathLike | str,
        title: str = "",
    ) -> None:
        """Begins another run with the compiled programs of this one.

        Only values are taken from the new model and optimizer: weights, slots, learning rate.

        Args:
            make_model: as for the class; the same architecture from other initializers.
            make_optimizer: as for the class; the same optimizer at any learning rate.
            output_dir: directory of the new run.
            title: of its curves.

        Raises:
            ValueError: if model or optimizer differ in what is compiled into the programs.
        """
        with lost_peers(self.strategy):
            self._programs.take_values(make_model, make_optimizer)
        self.step.assign(0)
        self.window.assign(tf.zeros([3], tf.float64))
        self._open(output_dir, title)

    def run(self, steps: int) -> dict[str, float]:
        """Trains up to `steps` steps in all, from the last checkpoint if there is one.

        SIGTERM and Ctrl-C are noted meanwhile, in the main thread: the state is saved after the
        call of the compiled program that is at work.

        Args:
            steps: in all, at least 1.

        Returns:
            The last row of metrics.csv as a dict.

        Raises:
            FloatingPointError: if loss or weights are no longer finite; the row says at which
                step, and the checkpoints are of steps before.
            StoppedError: if a signal came; the same run goes on from its checkpoint.
            PeerLostError: if another worker or a host of a TPU left.
            ConfigurationError: if the workers do not find the same checkpoint.
            DirectoryInUseError: if another process trains there.
            DamagedFileError: if no checkpoint of those that are there can be read.
        """
        arguments.integer("steps", steps, 1)
        owned = RunDirectory(self.output_dir) if self._is_chief else contextlib.nullcontext()
        with lost_peers(self.strategy), owned:
            return self._run(steps)

    def _run(self, steps: int) -> dict[str, float]:
        found = self.checkpoints.restore()
        start = int(self.step)
        if not agree(self.strategy, start):
            raise ConfigurationError(
                f"The workers found checkpoints of different steps, this one {start}, in "
                f"output_dir={str(self.output_dir)!r}: it must be storage that all hosts share."
            )
        if self._is_chief:
            for name in self.checkpoints.damaged:
                self._say(f"The checkpoint {name} is damaged; it is kept as damaged-{name}.")
            self.checkpoints.clean()
            if found:
                self._say(f"Going on from step {start} ({found}).")
        if start < steps:
            self._train(start, steps)
        if self.artifacts and (start < steps or not is_whole(self.output_dir / "model.keras")):
            files.write_atomically(self.output_dir / "model.keras", self.model.save)
        agree(self.strategy, steps)  # All wait until the chief has written its files.
        rows = self.metrics.rows()
        if self.artifacts:
            plot_curves(rows, self.output_dir / "curves.png", title=self.title)
        return rows[-1]

    def _say(self, words: str) -> None:
        if self.verbose:
            print(words, flush=True)

    def _train(self, start: int, steps: int) -> None:
        train_batches = functools.partial(self.dataset.train_batches, start)
        batches = iter(distribute(self.strategy, train_batches))
        writer = tf.summary.create_noop_writer()
        if self.artifacts:
            writer = tf.summary.create_file_writer(str(self.output_dir / "tensorboard"))
        progress, step = Progress(steps, self.verbose), start
        with stop_on_signals() as request, contextlib.closing(progress):
            while step < steps:
                stop = min(steps, *(_next_multiple(step, every) for every in self._every()))
                self.window.assign_add(self._programs.train(batches, tf.constant(stop - step)))
                step = stop
                self.step.assign(step)
                progress.update(step, self.dataset.batch_size, *_means(self.window.numpy()))
                if step % self.eval_every == 0 or step == steps:
                    self._report(writer, step, progress)
                stopped = self._largest_of_workers(request.signum)
                if step % self.checkpoint_every == 0 or step == steps or stopped:
                    self._save(step)
                if (stopped or step == steps) and self._not_finite_at is not None:
                    raise self._not_finite(step)
                if stopped and step < steps:
                    raise StoppedError(stopped, step)

    def _every(self) -> tuple[int, ...]:
        return self.steps_per_execution, self.eval_every, self.checkpoint_every

    def _report(self, writer: tf.summary.SummaryWriter, step: int, progress: Progress) -> None:
        train_loss, train_accuracy = _means(self.window.numpy())
        self.window.assign(tf.zeros([3], tf.float64))
        test_loss, test_accuracy = self.evaluate()
        row = dict(zip(_FIELDS, (step, train_loss, train_accuracy, test_loss, test_accuracy)))
        if self._is_chief:
            self.metrics.append(row)
        with writer.as_default(step):
            for name in _FIELDS[1:]:
                tf.summary.scalar(name, row[name])
            tf.summary.scalar("images_per_second", progress.rate)
        writer.flush()
        progress.report(row)
        if not math.isfinite(train_loss) or self._not_finite_at is not None:
            raise self._not_finite(step)
        chance = constant_loss(self._loss, self.dataset.classes)
        if self.verbose and train_loss > _DIVERGED * chance:
            sys.stderr.write(
                f"The loss {train_loss:.3g} at step {step} is finite, but the training has "
                f"diverged (a constant prediction has {chance:.3g}): {_REMEDY}\n"
            )

    def _not_finite(self, step: int) -> FloatingPointError:
        seen = self._not_finite_at or step
        words = f" (seen at step {seen})" if seen != step else ""
        return FloatingPointError(f"The loss is no longer finite at step {step}{words}: {_REMEDY}")

    def _save(self, step: int) -> None:
        """Writes a checkpoint, of finite values only: else the next row ends the run."""
        sums = self.window.numpy()
        if not (np.all(np.isfinite(sums)) and self._programs.weights_are_finite()):
            self._not_finite_at = self._not_finite_at or step
        elif self._is_chief:
            self.checkpoints.save(step)

    def evaluate(self) -> tuple[float, float]:
        """(loss, accuracy) on the whole test set."""
        test_batches = functools.partial(self.dataset.test_batches, self.eval_batch_size)
        batches = distribute(self.strategy, test_batches)
        return _means(sum(self._programs.test(batch).numpy() for batch in batches))


def _count(name: str, value: int | None, default: int) -> int:
    return default if value is None else arguments.integer(name, value, 1)


def _means(sums: np.ndarray) -> tuple[float, float]:
    loss, hits, count = np.asarray(sums, np.float64)
    return float(loss / count), float(hits / count)


def _next_multiple(step: int, every: int) -> int:
    return (step // every + 1) * every
