"""A model on a strategy, and the compiled programs that train and test it."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from mfcnn import arguments
from mfcnn.training.reduction import sum_over_replicas
from mfcnn.training.step import TrainingStep
from mfcnn.training.strategy import scope_of

__all__ = ["Programs"]

MakeModel = Callable[[], keras.Model]
MakeOptimizer = Callable[[keras.Model], keras.optimizers.Optimizer]


class Programs:
    """Many training steps in one call, one batch of the test, a look at the weights.

    Args:
        strategy: where they run.
        make_model: function without arguments to the built model.
        make_optimizer: function from the model to a Keras optimizer.
        batch_size: examples of all replicas in a step.
        loss: one of `LOSSES`.
        fused: whether the deep stack is updated inside the backward pass.
        jit_compile: whether XLA compiles the step.

    Attributes:
        model: the model.
        optimizer: the optimizer, built over the model's variables.
        variables: those of both.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        make_model: MakeModel,
        make_optimizer: MakeOptimizer,
        batch_size: int,
        loss: str,
        fused: bool,
        jit_compile: bool,
    ) -> None:
        self._strategy = strategy
        self.model, self.optimizer = self._make(make_model, make_optimizer)
        self.variables = self.model.variables + self.optimizer.variables
        compiled = _compiled_part(strategy) if jit_compile else ""
        self._step = TrainingStep(self.model, self.optimizer, batch_size, loss, fused, compiled)

    def _make(
        self, make_model: MakeModel, make_optimizer: MakeOptimizer
    ) -> tuple[keras.Model, keras.optimizers.Optimizer]:
        with scope_of(self._strategy):
            model = arguments.function("make_model", make_model)()
            optimizer = arguments.function("make_optimizer", make_optimizer)(model)
            optimizer.build(model.trainable_variables)
        return model, optimizer

    def take_values(self, make_model: MakeModel, make_optimizer: MakeOptimizer) -> None:
        """Takes weights, slots and learning rate of a new model and optimizer.

        Raises:
            ValueError: if they differ in what is compiled into the programs.
        """
        model, optimizer = self._make(make_model, make_optimizer)
        for kind, old, new in (
            ("model", _compiled_config(self.model), _compiled_config(model)),
            ("optimizer", _compiled_config(self.optimizer), _compiled_config(optimizer)),
        ):
            if old != new:
                raise ValueError(
                    f"restart needs the {kind} of the first run but for values of variables; make "
                    f"a new Trainer. Received: {new}, the first run has {old}"
                )
        for variable, new in zip(self.variables, model.variables + optimizer.variables):
            variable.assign(new)

    @tf.function(autograph=False)
    def train(self, batches: Iterator, count: tf.Tensor) -> tf.Tensor:
        """Makes `count` steps; sums of losses, hits and examples on the way, float64 [3]."""
        all_reduce = sum_over_replicas(self._strategy)
        replica_step = functools.partial(self._step.train, all_reduce=all_reduce)

        def body(index: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            sums = self._strategy.run(replica_step, args=next(batches))
            sums = self._strategy.reduce("SUM", sums, axis=None)
            return index + 1, total + tf.cast(sums, tf.float64)

        total = tf.zeros([3], tf.float64)
        return tf.while_loop(lambda i, _: i < count, body, (0, total))[1]

    @tf.function(autograph=False)
    def test(self, batch: tuple) -> tf.Tensor:
        """Sums of losses, hits and examples of (images, labels, weights), float64 [3]."""
        sums = self._strategy.run(self._step.test, args=batch)
        return tf.cast(self._strategy.reduce("SUM", sums, axis=None), tf.float64)

    @tf.function(autograph=False)
    def weights_are_finite(self) -> tf.Tensor:
        """Whether all variables are."""
        floats = [v.value for v in self.variables if v.dtype.startswith(("float", "bfloat"))]
        return tf.reduce_all([_is_finite(v) for v in floats])


def _compiled_part(strategy: tf.distribute.Strategy) -> str:
    """What XLA is to compile; on a TPU it compiles all that a strategy runs anyway."""
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return ""
    return "step" if strategy.num_replicas_in_sync == 1 else "gradient"


def _compiled_config(part: Any) -> Any:
    """The configuration of a model or optimizer without what only decides values of variables."""

    def strip(config: Any) -> Any:
        if isinstance(config, dict):
            return {
                key: strip(value)
                for key, value in config.items()
                if not key.endswith("initializer") and key not in ("learning_rate", "seed", "name")
            }
        return [strip(value) for value in config] if isinstance(config, list | tuple) else config

    return strip(part.get_config())


def _is_finite(variable: tf.Variable) -> tf.Tensor:
    if variable.shape.num_elements() < 2**22:
        return tf.reduce_all(tf.math.is_finite(variable))
    # A deep stack layer by layer: no second array of its size.
    return tf.while_loop(
        lambda i, fine: fine & (i < variable.shape[0]),
        lambda i, _: (i + 1, tf.reduce_all(tf.math.is_finite(tf.gather(variable, i)))),
        (0, True),
    )[1]
