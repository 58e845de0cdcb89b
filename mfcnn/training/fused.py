"""A training step that updates each layer of a deep stack inside the backward pass.

The gradient of the stack never exists: beside weights and momentum a step holds activations at
the checkpoints only. The result is that of the plain step, to rounding.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from mfcnn.layers import DeepConvolution, DeepDense

__all__ = ["FusedUpdate"]


class FusedUpdate:
    """Splits a model at its deep stack and makes the step's gradient and update.

    Args:
        model: a functional `keras.Model` with one DeepConvolution or DeepDense that every path
            from input to output goes through.
        optimizer: a built `keras.optimizers.SGD` over the model's variables, momentum or not,
            without nesterov, weight decay, clipping or averages. Its own learning rate and
            momentum slots are used, so that checkpoints and schedules work as ever.

    Raises:
        ValueError: for another optimizer, or a model without exactly one deep stack.

    Example:
        >>> model = mfcnn.models.vanilla_cnn((8, 8, 1), depth=5, filters=4, classes=10)
        >>> optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        >>> optimizer.build(model.trainable_variables)
        >>> update = mfcnn.training.FusedUpdate(model, optimizer)
        >>> step = tf.function(lambda x: update.step(x, lambda logits: tf.reduce_sum(logits**2)))
        >>> step(tf.zeros([2, 8, 8, 1])).shape
        TensorShape([2, 10])
    """

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        stacks = [x for x in model.layers if isinstance(x, (DeepConvolution, DeepDense))]
        if len(stacks) != 1:
            raise ValueError(
                "The fused update needs a model with one DeepConvolution or DeepDense. "
                f"Received: {model.name!r} with {len(stacks)}"
            )
        plain = type(optimizer) is keras.optimizers.SGD and not optimizer.nesterov
        extras = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "use_ema")
        if not plain or any(getattr(optimizer, name) for name in extras):
            raise ValueError(
                "The fused update knows keras.optimizers.SGD with or without momentum, and no "
                f"nesterov, weight decay, clipping or averages. Received: {optimizer!r}"
            )
        if any(v.constraint for v in model.trainable_variables):
            raise ValueError(
                "The fused update applies no constraints. "
                f"Received: model={model.name!r} with a constraint on its weights"
            )
        (self._deep,) = stacks
        self._optimizer = optimizer
        self._before = keras.Model(model.inputs, self._deep.input)
        self._after = keras.Model(self._deep.output, model.outputs[0])
        deep = {id(v) for v in self._deep.trainable_variables}
        self._others = [v for v in model.trainable_variables if id(v) not in deep]
        # Empty without momentum.
        slots = zip(model.trainable_variables, optimizer.momentums)
        self._slots = {id(v): slot.value for v, slot in slots}

    def step(
        self, images: tf.Tensor, loss_of_logits: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """One update; for use inside a tf.function.

        Args:
            images: the model's input.
            loss_of_logits: function from the model's output to the scalar loss.

        Returns:
            The model's output before the update.
        """
        deep, optimizer = self._deep, self._optimizer
        variables = deep.stacked_variables
        with tf.GradientTape() as before:
            x = self._before(images, training=True)
        loop = deep.loop_for(x)
        output, kept = loop.forward((x,), variables)
        with tf.GradientTape(persistent=True) as after:
            after.watch(output)
            logits = self._after(output[0], training=True)
            loss = loss_of_logits(logits)
        d_output = after.gradient(loss, output)
        d_after = after.gradient(loss, [v.value for v in self._after.trainable_variables])
        rate = tf.cast(optimizer.learning_rate, tf.float32)
        d_x = loop.backward((x,), variables, d_output, kept, self._update(variables, rate))
        d_before = before.gradient(x, [v.value for v in self._before.trainable_variables], d_x[0])
        self._apply_others(d_before, d_after, rate)
        return logits

    def _update(self, variables: Sequence[tf.Variable], rate: tf.Tensor) -> Callable:
        momentum = self._optimizer.momentum
        slots = [self._slots.get(id(v)) for v in self._deep.trainable_variables]

        def update(layer: tf.Tensor, gradients: Sequence[tf.Tensor]) -> None:
            for variable, slot, gradient in zip(variables, slots, gradients):
                delta = -tf.cast(rate, gradient.dtype) * gradient
                if slot is not None:
                    delta += momentum * tf.gather(slot, layer)
                    slot.scatter_update(tf.IndexedSlices(delta[None], layer[None]))
                variable.scatter_add(tf.IndexedSlices(delta[None], layer[None]))

        return lambda layer, gradients: update(tf.convert_to_tensor(layer), gradients)

    def _apply_others(
        self, d_before: list[tf.Tensor], d_after: list[tf.Tensor], rate: tf.Tensor
    ) -> None:
        gradients = {
            id(v): g
            for v, g in zip(
                self._before.trainable_variables + self._after.trainable_variables,
                d_before + d_after,
            )
        }
        momentum = self._optimizer.momentum
        for variable in self._others:
            delta = -tf.cast(rate, variable.dtype) * gradients[id(variable)]
            if momentum:
                slot = self._slots[id(variable)]
                delta += momentum * slot
                slot.assign(delta)
            variable.value.assign_add(delta)
        self._optimizer.iterations.value.assign_add(1)
