"""A network and its linearization: the same start, the same minibatches, momentum.

They share `Run`, which trains either of them, or the logistic regression beside them, by momentum
with weight decay; `experiments.linearization` compares them.
"""

import pathlib
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from mfcnn import data, models
from mfcnn.training import Checkpoints, MetricsFile

__all__ = [
    "KINDS",
    "LOSSES",
    "SCHEDULES",
    "Run",
    "logistic_regression",
    "make",
    "side",
    "step_cost_ratio",
    "train",
    "trajectory",
]

KINDS = ("network", "linearization")


def _squares(outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    return tf.square(outputs - targets)


# Losses of a batch: of squares the mean over the outputs (as PyTorch's) or their sum (as the
# paper's equation 3 has it, whose gradient is `classes` times as large).
LOSSES: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "mean_squared_error": lambda *pair: tf.reduce_mean(_squares(*pair)),
    "summed_squared_error": lambda *pair: tf.reduce_mean(tf.reduce_sum(_squares(*pair), 1)),
    "cross_entropy": lambda outputs, targets: tf.reduce_mean(
        tf.nn.softmax_cross_entropy_with_logits(targets, outputs)
    ),
}

# Factors on the learning rate, by the part of the training that is done and by the epoch.
SCHEDULES: dict[str, Callable[[float, int], float]] = {
    "linear": lambda done, epoch: 1 - done,
    "constant": lambda done, epoch: 1.0,
    "step": lambda done, epoch: 0.1 ** (epoch // 30),
}


class Run:
    """Training of one model by momentum and weight decay on one-hot targets.

    The decay is added to the gradient, as PyTorch's: of a linearization it pulls u to zero.
    """

    def __init__(
        self,
        model: keras.Model,
        classes: int,
        momentum: float,
        weight_decay: float,
        loss: str = "mean_squared_error",
    ) -> None:
        self.model, self.classes, self._loss = model, classes, LOSSES[loss]
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
            loss = self._loss(outputs, targets)
        for v, velocity, g in zip(
            self.variables, self.velocities, tape.gradient(loss, self.variables)
        ):
            velocity.assign(self._momentum * velocity + g + self._decay * v)
            v.assign_sub(learning_rate * velocity)
        hits = tf.argmax(outputs, 1, output_type=labels.dtype) == labels
        return tf.stack([loss, tf.reduce_mean(tf.cast(hits, tf.float32))])

    def accuracy(self, batches: tf.data.Dataset) -> float:
        """The share of examples whose largest output is their class.

        Args:
            batches: of (images, labels) or (images, labels, weights), a weight of 0 for a filler.
        """
        hits = total = 0.0
        for images, labels, *weights in batches:
            counted = weights[0].numpy() if weights else np.ones(len(labels))
            found = np.argmax(self.predict(images), 1)
            hits, total = hits + counted @ (found == labels.numpy()), total + counted.sum()
        return float(hits / total)


def make(
    architecture: str,
    input_shape: tuple[int, ...],
    classes: int,
    width_factor: float,
    seed: int,
    weights: pathlib.Path | None = None,
) -> dict[str, keras.Model]:
    """The network and its linearization, by their names in `KINDS`.

    Args:
        architecture: "lenet" or "alexnet".
        input_shape: (height, width, channels).
        classes: number of outputs.
        width_factor: on all widths.
        seed: of the start.
        weights: a file of trained weights, about which the network is linearized, or None.
    """
    network = getattr(models, architecture)(input_shape, classes, width_factor, seed=seed)
    if weights is not None:
        network.load_weights(weights)
    return dict(zip(KINDS, (network, models.linearize(network))))


def logistic_regression(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """A linear model on pixels, from zero."""
    readout = keras.layers.Dense(classes, kernel_initializer="zeros")
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(), readout])


def side(architecture: str, dataset: str) -> int | None:
    """To what smaller images are enlarged for an architecture; None where they are large enough."""
    if architecture == "alexnet":
        return None if dataset == "imagenet_snakes" else 64
    return 28 if dataset == "digits" else None


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
    test, steps = dataset.test_batches(500), dataset.steps_per_epoch
    for number in range(int(epoch), epochs):
        sums = tf.zeros([2])
        batches = dataset.train_batches(number * steps).take(steps)
        for index, (images, labels) in enumerate(batches, number * steps):
            share = SCHEDULES[schedule](index / (epochs * steps), number)
            sums += run.step(images, labels, tf.constant(learning_rate * share, tf.float32))
        loss, accuracy = (float(s) / steps for s in sums)
        test_accuracy = run.accuracy(test)
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
