"""The training step of one replica: gradient, sum over the replicas, update.

It is the same function wherever it runs: the sum over the replicas is an argument. Under a
strategy of tf.distribute that is `sum_over_replicas(strategy)`; where there is none, as in the
ahead-of-time check in `tpu/`, it is XLA's own.
"""

import math
from collections.abc import Callable

import keras
import tensorflow as tf

from mfcnn import arguments, borrowed
from mfcnn.layers._sharded import ShardedStack
from mfcnn.training.fused import FusedUpdate

__all__ = ["LOSSES", "TrainingStep", "constant_loss"]

# From a list of tensors to their sums over the replicas.
AllReduce = Callable[[list[tf.Tensor]], list[tf.Tensor]]

LOSSES = ("cross_entropy", "squared_error")


class TrainingStep:
    """One step on a replica's part of a batch.

    Args:
        model: `keras.Model` from images to logits.
        optimizer: a Keras optimizer, built over the model's variables.
        batch_size: examples of all replicas in a step. The loss is the mean over them, so that
            the replicas' gradients add up to that of the whole batch.
        loss: "cross_entropy" (softmax) or "squared_error": 1/2 |f - y|^2 with the one-hot label
            less 1 / classes as y, whose gradient flow is the linear one of the NTK.
        fused: whether the deep stack is updated inside the backward pass, see `FusedUpdate`.
        compiled: what XLA compiles: "step", all of it in one program; "gradient", all but the
            update, for CPUs and GPUs where the update communicates; "" leaves it to the caller.

    Raises:
        ValueError: for an unknown loss, a fused step that is to be compiled, or a model with
            regularizers, which its loss would leave out.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> optimizer = keras.optimizers.SGD(0.1)
        >>> optimizer.build(model.trainable_variables)
        >>> step = mfcnn.training.TrainingStep(model, optimizer, batch_size=2)
        >>> sums = tf.function(step.train)(tf.ones([2, 4]), tf.constant([0, 1]))
        >>> sums.shape  # of the loss, of right answers, of examples
        TensorShape([3])
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        batch_size: int,
        loss: str = "cross_entropy",
        fused: bool = False,
        compiled: str = "",
    ) -> None:
        arguments.choice("loss", loss, LOSSES)
        batch_size = arguments.integer("batch_size", batch_size, 1)
        fused = arguments.boolean("fused", fused)
        arguments.choice("compiled", compiled, ("", "step", "gradient"))
        if fused and compiled:
            raise ValueError(f"fused=True needs compiled=''. Received: compiled={compiled!r}")
        if model.losses:
            raise ValueError(
                "The step's loss has no part for regularizers: use weight_decay of the optimizer, "
                f"or Keras's fit. Received: model={model.name!r} with {len(model.losses)} losses "
                "of its own"
            )
        self._model = model
        self._optimizer = optimizer
        self._batch_size = batch_size
        self._fused = FusedUpdate(model, optimizer) if fused else None
        borrowed.take_summed_gradients(optimizer)
        self._compiled = compiled
        sharded = [layer for layer in model.layers if isinstance(layer, ShardedStack)]
        parts = {id(v) for layer in sharded for v in layer.trainable_variables}
        self._sharded = [id(v) in parts for v in model.trainable_variables]
        self._losses = _cross_entropy() if loss == "cross_entropy" else _squared_error

    def train(
        self, images: tf.Tensor, labels: tf.Tensor, all_reduce: AllReduce | None = None
    ) -> tf.Tensor:
        """Updates the model; for use inside a tf.function.

        Args:
            images: float32 [b, h, w, c], b the examples of this replica.
            labels: int32 [b].
            all_reduce: function from a list of tensors to their sums over the replicas; None
                for one replica.

        Returns:
            Sums of losses, of hits and of examples before the update, float32 [3].
        """
        update = self._fused_update if self._fused else self._update
        if self._compiled == "step":
            update = _compile(update)
        return update(images, labels, all_reduce)

    def test(self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Sums of losses, hits and examples, weighted by weights [b]: float32 [3]."""
        test = _compile(self._test) if self._compiled else self._test
        return test(images, labels, weights)

    # Each replica traces functions of its own: XLA takes only variables of its own device.

    def _update(
        self, images: tf.Tensor, labels: tf.Tensor, all_reduce: AllReduce | None
    ) -> tf.Tensor:
        gradient = _compile(self._gradient) if self._compiled == "gradient" else self._gradient
        gradients, sums = gradient(images, labels)
        if all_reduce:
            gradients = self._sum(gradients, all_reduce)
        self._optimizer.apply(gradients, self._model.trainable_variables)
        return sums

    def _sum(self, gradients: list[tf.Tensor], all_reduce: AllReduce) -> list[tf.Tensor]:
        """The sums over the replicas; the gradient of a sharded stack is one already."""
        sums = iter(all_reduce([g for g, own in zip(gradients, self._sharded) if not own]))
        return [g if own else next(sums) for g, own in zip(gradients, self._sharded)]

    def _gradient(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = self._model(images, training=True)
            losses = self._losses(labels, logits)
            loss = tf.reduce_sum(losses) / self._batch_size
        variables = [v.value for v in self._model.trainable_variables]
        return tape.gradient(loss, variables), _sums(losses, labels, logits)

    def _fused_update(
        self, images: tf.Tensor, labels: tf.Tensor, all_reduce: AllReduce | None
    ) -> tf.Tensor:
        if all_reduce or self._fused is None:
            raise ValueError("The fused update never has the whole gradient to sum over replicas.")
        logits = self._fused.step(
            images, lambda f: tf.reduce_sum(self._losses(labels, f)) / self._batch_size
        )
        return _sums(self._losses(labels, logits), labels, logits)

    def _test(self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        logits = self._model(images, training=False)
        return _sums(self._losses(labels, logits), labels, logits, weights)


def constant_loss(loss: str, classes: int) -> float:
    """The loss of outputs that are zero whatever the input: that of an even guess."""
    return math.log(classes) if loss == "cross_entropy" else (1 - 1 / classes) / 2


def _compile(function: Callable) -> Callable:
    return tf.function(function, autograph=False, jit_compile=True)


def _cross_entropy() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")


def _squared_error(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    classes = logits.shape[-1]
    targets = tf.one_hot(labels, classes, dtype=logits.dtype) - 1 / classes
    return tf.reduce_sum(tf.square(logits - targets), axis=-1) / 2


def _sums(
    losses: tf.Tensor, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor | None = None
) -> tf.Tensor:
    weights = tf.ones_like(losses) if weights is None else weights
    hits = tf.cast(tf.argmax(logits, -1, output_type=labels.dtype) == labels, weights.dtype)
    return tf.stack([tf.reduce_sum(weights * t) for t in (losses, hits, tf.ones_like(weights))])
