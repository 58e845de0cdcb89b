"""What the looped layers share: options, stacked weights, files in pieces, unrolling."""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments, borrowed, initializers
from mfcnn.layers._loop import DeepLoop
from mfcnn.layers._memory import (
    DEFAULT_BUDGET,
    check_budget,
    check_levels,
    choose_checkpoint_levels,
)

__all__ = ["StackedLayer"]

# Elements of a stack that Keras saves in one piece, for which it holds several copies in memory.
_PIECE = 2**26


class StackedLayer(keras.layers.Layer):
    """A block repeated `depth` times in one loop, its weights stacked to [depth, ...].

    Args:
        depth: number of layers, at least 1.
        checkpoint_levels: 0 keeps every pre-activation for the backward pass, 1 of the order
            sqrt(depth), 2 of the order cbrt(depth). None takes the first of these that fits in
            memory_budget.
        memory_budget: bytes for kept pre-activations where checkpoint_levels is None.
        jit_compile: whether XLA compiles the two loops, also where the caller is not compiled.
        unroll: layers in one turn of the loops, for devices where a turn itself costs much.
        **kwargs: those of the next class.

    Raises:
        ValueError: for a depth or an unroll that is no integer of at least 1, or other
            checkpoint_levels.
    """

    def __init__(
        self,
        depth: int,
        checkpoint_levels: int | None = None,
        memory_budget: float = DEFAULT_BUDGET,
        jit_compile: bool = False,
        unroll: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.depth = arguments.depth(depth)
        self.checkpoint_levels = check_levels(checkpoint_levels)
        self.memory_budget = check_budget(memory_budget)
        self.jit_compile = arguments.boolean("jit_compile", jit_compile)
        self.unroll_layers = arguments.integer("unroll", unroll, 1)
        self._loops: dict[Any, DeepLoop] = {}
        self._scales: list[float] = []

    def _add_stack(
        self,
        name: str,
        shape: Sequence[int],
        initializer: Callable[..., Any],
        scale: float = 1.0,
        regularizer: Any = None,
        constraint: Any = None,
        **options: Any,
    ) -> keras.Variable:
        """A variable [depth, *shape], which times `scale` holds the layers' own weights."""

        def draw(stacked_shape: Sequence[int], dtype: Any = None) -> tf.Tensor:
            if not tf.as_dtype(dtype).is_floating:
                drawn = [initializer(tuple(shape), dtype=dtype) for _ in range(self.depth)]
                return tf.stack(drawn)
            drawn = initializers.stack_initializer(initializer, self.depth, tuple(shape), dtype)
            return drawn if scale == 1 else drawn / scale

        self._scales.append(scale)
        # Not cast as a whole under a mixed precision policy: the loop casts layer by layer.
        return self.add_weight(
            shape=(self.depth, *shape),
            initializer=draw,
            name=name,
            autocast=False,
            regularizer=regularizer and _LayerRegularizer(regularizer, scale),
            constraint=constraint and _LayerConstraint(constraint, scale),
            **options,
        )

    def _levels(self, state: Sequence[tf.Tensor]) -> int:
        """Levels of checkpoints for this state: as asked for, or by memory."""
        if self.checkpoint_levels is not None:
            return self.checkpoint_levels
        sizes = [x.shape.num_elements() for x in state]
        if None in sizes:
            return 1  # a batch of unknown size: the square root of the depth is never far off
        size = sum(size * x.dtype.size for size, x in zip(sizes, state))
        return choose_checkpoint_levels(self.depth, size, self.memory_budget)

    def _loop(self, key: Any, levels: int, make: Callable[..., DeepLoop]) -> DeepLoop:
        """The loop of a key, made once: a loop keeps its traces, and XLA's are others."""
        key = (key, levels, borrowed.compiled_by_xla())
        if key not in self._loops:
            self._loops[key] = make(
                checkpoint_levels=levels, jit_compile=self.jit_compile, unroll=self.unroll_layers
            )
        return self._loops[key]

    @property
    def stacked_variables(self) -> tuple[tf.Variable, ...]:
        """The tf.Variables [depth, ...] of all stacked weights, in the order of `weights`."""
        return tuple(weight.value for weight in self.weights)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shape."""
        return input_shape

    def _stock_block(self, name: str) -> keras.layers.Layer:
        """One block without a loop, its weights in the order of `get_layer_weights`."""
        raise NotImplementedError

    def unroll(self) -> keras.Model:
        """The same network as a Keras model of `depth` stock blocks, weights copied.

        For other tools, and for depths that Keras can hold: about 900 layers.

        Returns:
            A `keras.Model`; a `keras.Sequential` where the state is one tensor.

        Raises:
            ValueError: for a layer that is not built, or too deep for Keras.
        """
        if not self.built:
            raise ValueError(
                f"{type(self).__name__}.unroll() copies weights: call the layer on an input first."
            )
        if self.depth >= sys.getrecursionlimit():
            raise ValueError(self._too_deep())
        blocks = [self._stock_block(f"{self.name}_{layer}") for layer in range(self.depth)]
        try:
            model = self._chain(blocks)
        except RecursionError:
            raise ValueError(self._too_deep()) from None
        for index, block in enumerate(blocks):
            self._copy_layer(index, block)
        return model

    def _copy_layer(self, layer: int, block: keras.layers.Layer) -> None:
        block.set_weights(self.get_layer_weights(layer))

    @property
    def _layer_weights(self) -> list[keras.Variable]:
        """The stacks in the order of one block's weights."""
        return self.weights

    def _chain(self, blocks: list[keras.layers.Layer]) -> keras.Model:
        return keras.Sequential([keras.Input(self._input_shape[1:]), *blocks])

    def _too_deep(self) -> str:
        limit = sys.getrecursionlimit()
        return (
            "unroll() makes a Keras model, which recurses into its layers: with Python's recursion "
            f"limit of {limit} it holds some {limit - 100} of them. Keep the looped layer, which "
            "has no limit, or raise the limit by sys.setrecursionlimit. "
            f"Received: depth={self.depth}"
        )

    def get_layer_weights(self, layer: int) -> list[np.ndarray]:
        """The weights of one layer as NumPy arrays, in the order of `weights`.

        Args:
            layer: its index, from 0 at the input; negative from the end.

        Returns:
            Arrays of the shapes of one block's weights.

        Raises:
            ValueError: if there is no such layer.
        """
        layer = self._layer_index(layer)
        return [
            keras.ops.convert_to_numpy(w.value[layer] * tf.constant(scale, w.dtype))
            if scale != 1
            else keras.ops.convert_to_numpy(w.value[layer])
            for w, scale in zip(self._layer_weights, self._scales)
        ]

    def set_layer_weights(self, layer: int, values: Sequence[Any]) -> None:
        """Sets the weights of one layer from arrays, in `get_layer_weights`'s order.

        Args:
            layer: its index, from 0 at the input; negative from the end.
            values: arrays of the shapes of one block's weights.

        Raises:
            ValueError: if the number of arrays or a shape differs, or there is no such layer.
        """
        layer = self._layer_index(layer)
        shapes = [tuple(w.shape[1:]) for w in self._layer_weights]
        if [tuple(np.shape(v)) for v in values] != shapes:
            raise ValueError(
                f"values must have the shapes {shapes}. Received: {[np.shape(v) for v in values]}"
            )
        for weight, value, scale in zip(self._layer_weights, values, self._scales):
            value = tf.cast(value, weight.dtype)
            weight.value[layer].assign(value / scale if scale != 1 else value)

    def _layer_index(self, layer: Any) -> int:
        layer = arguments.integer("layer", layer)
        if not -self.depth <= layer < self.depth:
            raise ValueError(f"layer must be below depth={self.depth}. Received: layer={layer}")
        return layer % self.depth

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refuses: the layer that repeats blocks with LoRA is `Repeat`.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no enable_lora. Repeat a block that has it: "
            "mfcnn.layers.Repeat(keras.layers.Dense(units, activation='tanh', lora_rank=4), depth)"
        )

    def save_own_variables(self, store: Any) -> None:
        """Saves the stacks, large ones layers by layers: no second copy of one is made."""
        for index, weight in enumerate(self.weights):
            pieces = self._pieces(weight)
            if len(pieces) == 1:
                store[str(index)] = weight
                continue
            for layers in pieces:
                store[f"{index}_{layers[0]}"] = weight.value.sparse_read(tf.constant(layers))

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved."""
        if all(str(index) in store.keys() for index in range(len(self.weights))):
            super().load_own_variables(store)
            return
        for index, weight in enumerate(self.weights):
            if str(index) in store.keys():
                weight.assign(store[str(index)])
                continue
            for layers in self._pieces(weight):
                values = tf.convert_to_tensor(store[f"{index}_{layers[0]}"], weight.value.dtype)
                weight.value.scatter_update(tf.IndexedSlices(values, tf.constant(layers)))

    def _pieces(self, weight: keras.Variable) -> list[list[int]]:
        """The layers of each piece in which a stack is saved: lists of indices."""
        size = max(_PIECE // math.prod(weight.shape[1:]), 1)
        return [
            list(range(start, min(start + size, self.depth)))
            for start in range(0, self.depth, size)
        ]

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "depth": self.depth,
            "checkpoint_levels": self.checkpoint_levels,
            "memory_budget": self.memory_budget,
            "jit_compile": self.jit_compile,
            "unroll": self.unroll_layers,
        }


class _LayerRegularizer(keras.regularizers.Regularizer):
    """The sum of a regularizer over the layers of a stack."""

    def __init__(self, regularizer: Callable[[tf.Tensor], tf.Tensor], scale: float) -> None:
        self._regularizer = regularizer
        self._scale = scale

    def __call__(self, stack: Any) -> tf.Tensor:
        weights = tf.convert_to_tensor(stack)
        if self._scale != 1:
            weights *= tf.constant(self._scale, weights.dtype)
        if type(self._regularizer) in (
            keras.regularizers.L1,
            keras.regularizers.L2,
            keras.regularizers.L1L2,
        ):
            return self._regularizer(weights)  # sums over all entries
        losses = tf.map_fn(self._regularizer, weights, fn_output_signature=weights.dtype)
        return tf.reduce_sum(losses)


class _LayerConstraint(keras.constraints.Constraint):
    """A constraint on each layer of a stack by itself."""

    def __init__(self, constraint: Callable[[tf.Tensor], tf.Tensor], scale: float) -> None:
        self._constraint = constraint
        self._scale = scale

    def __call__(self, stack: Any) -> tf.Tensor:
        weights = tf.convert_to_tensor(stack)
        scale = tf.constant(self._scale, weights.dtype)
        return tf.map_fn(
            lambda w: tf.cast(self._constraint(w * scale), weights.dtype) / scale, weights
        )
