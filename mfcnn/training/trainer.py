"""The training loop: compiled steps on any strategy, checkpoints, metrics, curves."""

import functools
import math
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf

from mfcnn.training.failure import lost_peers
from mfcnn.training.records import ConfigurationError, MetricsFile, plot_curves
from mfcnn.training.reduction import sum_over_replicas
from mfcnn.training.step import TrainingStep
from mfcnn.training.strategy import agree, distribute, is_chief, scope_of

__all__ = ["Trainer"]

_FIELDS = ("step", "train_loss", "train_accuracy", "test_loss", "test_accuracy")


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
    """

    def __init__(
        self,
        make_model,
        make_optimizer,
        dataset,
        output_dir,
        strategy=None,
        jit_compile=False,
        fused=False,
        eval_every=100,
        checkpoint_every=None,
        steps_per_execution=10,
        eval_batch_size=None,
        title="",
        verbose=True,
        loss="cross_entropy",
        artifacts=True,
    ):
        self.dataset = dataset
        self.strategy = strategy or tf.distribute.get_strategy()
        replicas = self.strategy.num_replicas_in_sync
        for name, size in (
            ("batch_size", dataset.batch_size),
            ("eval_batch_size", eval_batch_size),
        ):
            if size is not None and size % replicas:
                raise ValueError(
                    f"{name} must be a multiple of the {replicas} replicas. Received: {size}"
                )
        self._is_chief = is_chief(self.strategy)
        if fused and (jit_compile or replicas > 1):
            raise ValueError(
                "fused=True needs jit_compile=False and one replica. Received: "
                f"jit_compile={jit_compile}, {replicas} replicas"
            )
        self.eval_every = eval_every
        self.checkpoint_every = checkpoint_every or eval_every
        self.steps_per_execution = steps_per_execution
        self.eval_batch_size = eval_batch_size or dataset.batch_size
        self.verbose = verbose and self._is_chief
        self.artifacts = artifacts and self._is_chief
        with scope_of(self.strategy):
            self.model = make_model()
            self.optimizer = make_optimizer(self.model)
            self.optimizer.build(self.model.trainable_variables)
        self._program = TrainingStep(
            self.model,
            self.optimizer,
            dataset.batch_size,
            loss,
            fused,
            _compiled_part(self.strategy) if jit_compile else "",
        )
        self.step = tf.Variable(0, dtype=tf.int64, name="step")
        # Sums of loss, hits and examples since the last row.
        self.window = tf.Variable(tf.zeros([3], tf.float64), name="window")
        self._variables = self.model.variables + self.optimizer.variables
        self._open(output_dir, title)

    def _open(self, output_dir, title):
        self.output_dir = output_dir = pathlib.Path(output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        self.title = title
        checkpoint = tf.train.Checkpoint(
            step=self.step, window=self.window, variables=[v.value for v in self._variables]
        )
        self._manager = tf.train.CheckpointManager(
            checkpoint, str(output_dir / "checkpoints"), max_to_keep=2
        )
        self.metrics = MetricsFile(output_dir / "metrics.csv", _FIELDS)

    def restart(self, make_model, make_optimizer, output_dir, title=""):
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
        with scope_of(self.strategy):
            model = make_model()
            optimizer = make_optimizer(model)
            optimizer.build(model.trainable_variables)
        for kind, old, new in (
            ("model", _compiled_config(self.model), _compiled_config(model)),
            ("optimizer", _compiled_config(self.optimizer), _compiled_config(optimizer)),
        ):
            if old != new:
                raise ValueError(
                    f"restart needs the {kind} of the first run but for values of variables; make "
                    f"a new Trainer. Received: {new}, the first run has {old}"
                )
        for variable, new in zip(self._variables, model.variables + optimizer.variables):
            variable.assign(new)
        self.step.assign(0)
        self.window.assign(tf.zeros([3], tf.float64))
        self._open(output_dir, title)

    def run(self, steps):
        """Trains up to `steps` steps in all, from the last checkpoint if there is one.

        Returns:
            The last row of metrics.csv as a dict.

        Raises:
            FloatingPointError: if the loss is no longer finite; the row says at which step.
            PeerLostError: if another worker or a host of a TPU left.
            ConfigurationError: if the workers do not find the same checkpoint.
        """
        with lost_peers(self.strategy):
            return self._run(steps)

    def _run(self, steps):
        if self._manager.restore_or_initialize() and self.verbose:
            print(f"Going on from step {int(self.step)} ({self._manager.latest_checkpoint}).")
        start = int(self.step)
        if not agree(self.strategy, start):
            raise ConfigurationError(
                f"The workers found checkpoints of different steps, this one {start}, in "
                f"output_dir={str(self.output_dir)!r}: it must be storage that all hosts share."
            )
        if self._is_chief:
            self.metrics.keep_until(start)
        if start < steps:
            self._train(start, steps)
            if self.artifacts:
                self.model.save(self.output_dir / "model.keras")
        agree(self.strategy, steps)  # All wait until the chief has written its files.
        rows = self.metrics.rows()
        if self.artifacts:
            plot_curves(rows, self.output_dir / "curves.png", title=self.title)
        return rows[-1]

    def _train(self, start, steps):
        train_batches = functools.partial(self.dataset.train_batches, start)
        batches = iter(distribute(self.strategy, train_batches))
        writer = tf.summary.create_noop_writer()
        if self.artifacts:
            writer = tf.summary.create_file_writer(str(self.output_dir / "tensorboard"))
        progress = keras.utils.Progbar(
            steps, verbose=int(self.verbose), stateful_metrics=("loss", "accuracy", "images/s")
        )
        # Compilation, in the first call, is not counted in images/s.
        step, clock, timed_from = start, None, start
        while step < steps:
            stop = min(
                _next_multiple(step, e)
                for e in (self.steps_per_execution, self.eval_every, self.checkpoint_every)
            )
            stop = min(stop, steps)
            self.window.assign_add(self._train_steps(batches, tf.constant(stop - step)))
            step = stop
            self.step.assign(step)
            rate = _rate(clock, (step - timed_from) * self.dataset.batch_size)
            if clock is None:
                clock, timed_from = time.time(), step
            loss, accuracy = _means(self.window.numpy())
            progress.update(
                step, [("loss", loss), ("accuracy", accuracy), ("images/s", rate)], finalize=False
            )
            if step % self.eval_every == 0 or step == steps:
                self._report(writer, step, rate)
            if self._is_chief and (step % self.checkpoint_every == 0 or step == steps):
                self._manager.save(checkpoint_number=step)
        if self.verbose:
            print()

    def _report(self, writer, step, rate):
        train_loss, train_accuracy = _means(self.window.numpy())
        self.window.assign(tf.zeros([3], tf.float64))
        test_loss, test_accuracy = self.evaluate()
        row = dict(zip(_FIELDS, (step, train_loss, train_accuracy, test_loss, test_accuracy)))
        if self._is_chief:
            self.metrics.append(row)
        with writer.as_default(step):
            for name in _FIELDS[1:]:
                tf.summary.scalar(name, row[name])
            tf.summary.scalar("images_per_second", rate)
        writer.flush()
        if self.verbose:
            print(f" - test loss {test_loss:.4f}, test accuracy {test_accuracy:.4f}", flush=True)
        if not math.isfinite(train_loss):
            raise FloatingPointError(
                f"The loss is no longer finite at step {step}: the learning rate is too large for "
                "this network, or its start is deep in the chaotic phase."
            )

    def evaluate(self):
        """(loss, accuracy) on the whole test set."""
        test_batches = functools.partial(self.dataset.test_batches, self.eval_batch_size)
        batches = distribute(self.strategy, test_batches)
        return _means(sum(self._test_step(batch).numpy() for batch in batches))

    @tf.function(autograph=False)
    def _train_steps(self, batches, count):
        all_reduce = sum_over_replicas(self.strategy)
        replica_step = functools.partial(self._program.train, all_reduce=all_reduce)

        def body(index, total):
            sums = self.strategy.run(replica_step, args=next(batches))
            sums = self.strategy.reduce("SUM", sums, axis=None)
            return index + 1, total + tf.cast(sums, tf.float64)

        total = tf.zeros([3], tf.float64)
        return tf.while_loop(lambda i, _: i < count, body, (0, total))[1]

    @tf.function(autograph=False)
    def _test_step(self, batch):
        sums = self.strategy.run(self._program.test, args=batch)
        return tf.cast(self.strategy.reduce("SUM", sums, axis=None), tf.float64)


def _compiled_part(strategy):
    """What XLA is to compile; on a TPU it compiles all that a strategy runs anyway."""
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return ""
    return "step" if strategy.num_replicas_in_sync == 1 else "gradient"


def _compiled_config(part):
    """The configuration of a model or optimizer without what only decides values of variables."""

    def strip(config):
        if isinstance(config, dict):
            return {
                key: strip(value)
                for key, value in config.items()
                if not key.endswith("initializer") and key not in ("learning_rate", "seed", "name")
            }
        return [strip(value) for value in config] if isinstance(config, list | tuple) else config

    return strip(part.get_config())


def _means(sums):
    loss, hits, count = np.asarray(sums, np.float64)
    return float(loss / count), float(hits / count)


def _rate(clock, images):
    return images / max(time.time() - clock, 1e-9) if clock else 0.0


def _next_multiple(step, every):
    return (step // every + 1) * every
