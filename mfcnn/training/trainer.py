"""The training loop: compiled steps on any strategy, checkpoints, metrics, curves."""

import functools
import math
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf

from mfcnn.training.fused import FusedUpdate
from mfcnn.training.records import MetricsFile, plot_curves
from mfcnn.training.strategy import scope_of

__all__ = ["Trainer"]

_FIELDS = ("step", "train_loss", "train_accuracy", "test_loss", "test_accuracy")


class Trainer:
    """Trains a Keras model by softmax cross entropy; goes on where a killed run stopped.

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
    ):
        self.dataset = dataset
        self.output_dir = output_dir = pathlib.Path(output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        self.strategy = strategy or tf.distribute.get_strategy()
        if fused and (jit_compile or self.strategy.num_replicas_in_sync > 1):
            raise ValueError(
                "fused=True needs jit_compile=False and one replica. Received: "
                f"jit_compile={jit_compile}, {self.strategy.num_replicas_in_sync} replicas"
            )
        self.jit_compile = jit_compile
        self.eval_every = eval_every
        self.checkpoint_every = checkpoint_every or eval_every
        self.steps_per_execution = steps_per_execution
        self.eval_batch_size = eval_batch_size or dataset.batch_size
        self.title = title
        self.verbose = verbose
        with scope_of(self.strategy):
            self.model = make_model()
            self.optimizer = make_optimizer(self.model)
            self.optimizer.build(self.model.trainable_variables)
        self._fused = FusedUpdate(self.model, self.optimizer) if fused else None
        self.step = tf.Variable(0, dtype=tf.int64, name="step")
        # Sums of loss, hits and examples since the last row.
        self.window = tf.Variable(tf.zeros([3], tf.float64), name="window")
        variables = self.model.variables + self.optimizer.variables
        checkpoint = tf.train.Checkpoint(
            step=self.step, window=self.window, variables=[v.value for v in variables]
        )
        self._manager = tf.train.CheckpointManager(
            checkpoint, str(output_dir / "checkpoints"), max_to_keep=2
        )
        self.metrics = MetricsFile(output_dir / "metrics.csv", _FIELDS)
        self._loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")

    def run(self, steps):
        """Trains up to `steps` steps in all, from the last checkpoint if there is one.

        Returns:
            The last row of metrics.csv as a dict.

        Raises:
            FloatingPointError: if the loss is no longer finite; the row says at which step.
        """
        if self._manager.restore_or_initialize() and self.verbose:
            print(f"Going on from step {int(self.step)} ({self._manager.latest_checkpoint}).")
        start = int(self.step)
        self.metrics.keep_until(start)
        if start < steps:
            self._train(start, steps)
            self.model.save(self.output_dir / "model.keras")
        self._plot()
        return self.metrics.rows()[-1]

    def _train(self, start, steps):
        batches = iter(
            self.strategy.distribute_datasets_from_function(
                functools.partial(self.dataset.train_batches, start)
            )
        )
        writer = tf.summary.create_file_writer(str(self.output_dir / "tensorboard"))
        progress = keras.utils.Progbar(
            steps, verbose=int(self.verbose), stateful_metrics=("loss", "accuracy", "images/s")
        )
        # Compilation, in the first call, is not counted in images/s.
        step, clock, timed_from = start, None, start
        while step < steps:
            stop = min(_next_multiple(step, e) for e in (
                self.steps_per_execution, self.eval_every, self.checkpoint_every
            ))  # fmt: skip
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
            if step % self.checkpoint_every == 0 or step == steps:
                self._manager.save(checkpoint_number=step)
        if self.verbose:
            print()

    def _report(self, writer, step, rate):
        train_loss, train_accuracy = _means(self.window.numpy())
        self.window.assign(tf.zeros([3], tf.float64))
        test_loss, test_accuracy = self.evaluate()
        row = dict(zip(_FIELDS, (step, train_loss, train_accuracy, test_loss, test_accuracy)))
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
        batches = self.strategy.distribute_datasets_from_function(
            functools.partial(self.dataset.test_batches, self.eval_batch_size)
        )
        return _means(sum(self._test_step(batch).numpy() for batch in batches))

    def _plot(self):
        rows = self.metrics.rows()
        plot_curves(rows, self.output_dir / "curves.png", title=self.title)

    # The compiled programs. With several replicas the gradient is compiled and the update, which
    # communicates, is not: XLA takes no cross-device ops but those of a TPU.

    @tf.function(autograph=False)
    def _train_steps(self, batches, count):
        def body(index, total):
            sums = self.strategy.run(self._replica_step, args=next(batches))
            sums = self.strategy.reduce("SUM", sums, axis=None)
            return index + 1, total + tf.cast(sums, tf.float64)

        total = tf.zeros([3], tf.float64)
        return tf.while_loop(lambda i, _: i < count, body, (0, total))[1]

    @tf.function(autograph=False)
    def _test_step(self, batch):
        sums = self.strategy.run(self._compiled(self._replica_test), args=batch)
        return tf.cast(self.strategy.reduce("SUM", sums, axis=None), tf.float64)

    def _replica_step(self, images, labels):
        if self.strategy.num_replicas_in_sync == 1:
            return self._compiled(self._gradient_and_update)(images, labels)
        gradients, sums = self._compiled(self._gradient)(images, labels)
        gradients = tf.distribute.get_replica_context().all_reduce("SUM", gradients)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return sums

    def _gradient_and_update(self, images, labels):
        if self._fused is not None:
            logits = self._fused.step(
                images, lambda f: tf.reduce_sum(self._loss(labels, f)) / self.dataset.batch_size
            )
            losses = self._loss(labels, logits)
            return _sums(losses, labels, logits, tf.ones_like(losses))
        gradients, sums = self._gradient(images, labels)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return sums

    def _gradient(self, images, labels):
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            losses = self._loss(labels, logits)
            loss = tf.reduce_sum(losses) / self.dataset.batch_size
        variables = [v.value for v in self.model.trainable_variables]
        return tape.gradient(loss, variables), _sums(losses, labels, logits, tf.ones_like(losses))

    def _replica_test(self, images, labels, weights):
        logits = self.model(images, training=False)
        return _sums(self._loss(labels, logits), labels, logits, weights)

    def _compiled(self, function):
        return tf.function(function, autograph=False, jit_compile=self.jit_compile or None)


def _sums(losses, labels, logits, weights):
    hits = tf.cast(tf.argmax(logits, -1, output_type=labels.dtype) == labels, weights.dtype)
    return tf.stack([tf.reduce_sum(weights * t) for t in (losses, hits, tf.ones_like(weights))])


def _means(sums):
    loss, hits, count = np.asarray(sums, np.float64)
    return float(loss / count), float(hits / count)


def _rate(clock, images):
    return images / max(time.time() - clock, 1e-9) if clock else 0.0


def _next_multiple(step, every):
    return (step // every + 1) * every
