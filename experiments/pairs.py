"""A network and its linearization: the same start, the same minibatches, momentum.

They share `Run`, which trains either of them on the mean squared error of one-hot targets with
weight decay; `experiments.linearization` compares the two.
"""

import pathlib
import time

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from mfcnn import data, models
from mfcnn.training import Checkpoints, MetricsFile

__all__ = ["KINDS", "Run", "digits_side", "make", "step_cost_ratio", "train", "trajectory"]

KINDS = ("network", "linearization")


class Run:
    """Training of one model by momentum and weight decay on one-hot targets."""

    def __init__(
        self, model: keras.Model, classes: int, momentum: float, weight_decay: float
    ) -> None:
        self.model, self.classes = model, classes
        self._momentum, self._decay = momentum, weight_decay
        self.variables = [v.value for v in model.trainable_variables]
        self.velocities = [tf.Variable(tf.zeros_like(v)) for v in self.variables]
        self.step = tf.function(self._step, autograph=False)
        self.predict = tf.function(
            lambda x: model(x, training=False), autograph=False, reduce_retracing=True
        )

    def _step(self, images: tf.Tensor, labels: tf.Tensor, learning_rate: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            outputs = self.model(images, training=True)
            targets = tf.one_hot(labels, self.classes)
            loss = tf.reduce_mean(tf.square(outputs - targets))
        for v, velocity, g in zip(
            self.variables, self.velocities, tape.gradient(loss, self.variables)
        ):
            velocity.assign(self._momentum * velocity + g + self._decay * v)
            v.assign_sub(learning_rate * velocity)
        hits = tf.argmax(outputs, 1, output_type=labels.dtype) == labels
        return tf.stack([loss, tf.reduce_mean(tf.cast(hits, tf.float32))])

    def accuracy(self, images: np.ndarray, labels: np.ndarray, batch_size: int = 500) -> float:
        """The share of examples whose largest output is their class."""
        parts = range(0, len(labels), batch_size)
        hits = [
            np.argmax(self.predict(images[i : i + batch_size]), 1) == labels[i : i + batch_size]
            for i in parts
        ]
        return float(np.mean(np.concatenate(hits)))


def make(
    architecture: str, input_shape: tuple[int, ...], classes: int, width_factor: float, seed: int
) -> dict[str, keras.Model]:
    """The network and its linearization, by their names in `KINDS`."""
    build = getattr(models, architecture)
    network = build(input_shape, classes, width_factor, seed=seed)
    return dict(zip(KINDS, (network, models.linearize(network))))


def digits_side(architecture: str, dataset: str) -> int | None:
    """To what the 8 x 8 digits are enlarged for an architecture; None for other data."""
    return {"lenet": 28, "alexnet": 64}[architecture] if dataset == "digits" else None


def train(
    run: Run,
    dataset: data.ImageData,
    epochs: int,
    learning_rate: float,
    schedule: str,
    directory: pathlib.Path,
) -> list[dict[str, float]]:
    """Trains for some epochs, from the last checkpoint in the directory if there is one.

    Returns:
        The rows of training.csv: epoch, loss, train accuracy during the epoch, test accuracy.

    Raises:
        FloatingPointError: if the loss is no longer finite.
    """
    epoch, window = tf.Variable(0), tf.Variable(0.0)
    file = MetricsFile(
        directory / "training.csv", ("epoch", "loss", "running_accuracy", "test_accuracy")
    )
    checkpoints = Checkpoints(
        directory / "checkpoints", epoch, window, run.variables + run.velocities, file
    )
    checkpoints.restore()
    checkpoints.clean()
    test, steps = dataset.arrays("test"), dataset.steps_per_epoch
    for number in range(int(epoch), epochs):
        sums = tf.zeros([2])
        batches = dataset.train_batches(number * steps).take(steps)
        for index, (images, labels) in enumerate(batches, number * steps):
            share = 1 - index / (epochs * steps) if schedule == "linear" else 1.0
            sums += run.step(images, labels, tf.constant(learning_rate * share, tf.float32))
        loss, accuracy = (float(s) / steps for s in sums)
        test_accuracy = run.accuracy(*test)
        logging.info("%s epoch %d: loss %.5f test %.4f", directory, number, loss, test_accuracy)
        if not np.isfinite(loss):
            raise FloatingPointError(f"The loss is not finite in epoch {number}; lower the rate.")
        epoch.assign(number + 1)
        row = (number + 1, loss, accuracy, test_accuracy)
        file.append(dict(zip(file.fields, row)))
        checkpoints.save(number + 1)
    return file.rows()


def step_cost_ratio(runs: dict[str, Run], dataset: data.ImageData, calls: int = 20) -> float:
    """CPU time of a step of the linearization over that of the network: least of four turns."""
    (images, labels), rate = next(iter(dataset.train_batches())), tf.constant(0.0)
    seconds: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(5):  # the first turn compiles
        for kind, run in runs.items():
            start = time.process_time()
            for _ in range(calls):
                run.step(images, labels, rate)
            seconds[kind].append(time.process_time() - start)
    return min(seconds["linearization"][1:]) / min(seconds["network"][1:])


def trajectory(
    run: Run,
    dataset: data.ImageData,
    steps: int,
    learning_rate: float,
    images: np.ndarray,
    labels: np.ndarray,
) -> np.ndarray:
    """The outputs [steps + 1, n] for the right classes of n images after each step."""
    picked = np.arange(len(labels)), labels
    outputs = [run.predict(images).numpy()[picked]]
    for batch in dataset.train_batches().take(steps):
        run.step(*batch, tf.constant(learning_rate, tf.float32))
        outputs.append(run.predict(images).numpy()[picked])
    return np.array(outputs)
