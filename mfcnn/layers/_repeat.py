"""Any Keras block, repeated to any depth in one compiled loop."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments, borrowed
from mfcnn.layers._block import Block, Structure
from mfcnn.layers._loop import DeepLoop
from mfcnn.layers._loop_tools import Tensors
from mfcnn.layers._memory import DEFAULT_BUDGET, PROGRAM, StackMemory, kept_activations
from mfcnn.layers._stack import StackedLayer

__all__ = ["Repeat"]


class _Plan(NamedTuple):
    """What a call does, found by one trace of the block.

    Attributes:
        structure: of the state.
        trained: indices of the variables with a gradient.
        others: of those without; together they are all.
        updated: of those that the forward pass gives new values.
        intermediates: bytes of all tensors of one block's forward pass; None where unknown.
    """

    structure: Structure
    trained: tuple[int, ...]
    others: tuple[int, ...]
    updated: tuple[int, ...]
    intermediates: int | None


class _Holder:
    """Keeps Keras from tracking what it holds as the layer's own."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.stacks: list[keras.Variable] = []
        self.plans: dict[Any, _Plan] = {}


@keras.saving.register_keras_serializable(package="mfcnn")
class Repeat(StackedLayer):
    """`depth` blocks, one after another, each with weights of its own, as one compiled loop.

    The block is any Keras layer or model whose output has its input's shape: residual and
    transformer blocks, convolutions with BatchNormalization, blocks with dropout. Its weights are
    stacked to [depth, ...] and drawn by the block's own initializers, independently for each layer.
    Building, tracing and compiling take as long for 10,000 blocks as for ten, and the backward
    pass recomputes activations from checkpoints.

    Moving statistics are kept by layer; dropout draws anew for each layer and call, and the
    backward pass sees the same draws. Masks are passed on from block to block. Weights that are
    frozen in the block stay frozen; regularizers and constraints act on each layer by itself.
    The block given is a pattern: it is copied, and its own weights are not used.

    Args:
        block: a `keras.layers.Layer` or `keras.Model` that can be made anew from its
            configuration. Its inputs may be a structure of floating tensors.
        depth: number of blocks, at least 1.
        checkpoint_levels: 0 keeps the state between all blocks for the backward pass, 1 of the
            order sqrt(depth) of them, 2 of the order cbrt(depth). None takes the first of these
            that fits in memory_budget.
        memory_budget: bytes for kept states where checkpoint_levels is None.
        jit_compile: whether XLA compiles the two loops, also where the caller is not compiled.
        unroll: blocks in one turn of the loops, for devices where a turn itself costs much.
        **kwargs: those of `keras.layers.Layer`; the dtype policy is the block's unless given.

    Input shape:
        That of the block.

    Output shape:
        The input's.

    Raises:
        ValueError: for a block that is no layer or cannot be copied, a depth below 1, an output
            that differs from the input in structure or shape, an input that is not floating, a
            block that drops a mask.

    Example:
        >>> inputs = keras.Input((16,))
        >>> x = keras.layers.LayerNormalization()(inputs)
        >>> x = keras.layers.Dense(16, activation="gelu")(x)
        >>> block = keras.Model(inputs, keras.layers.Add()([inputs, x]))
        >>> model = keras.Sequential([keras.Input((16,)), mfcnn.layers.Repeat(block, 1000)])
        >>> model.count_params()
        304000
        >>> model(tf.zeros([4, 16])).shape
        TensorShape([4, 16])
    """

    def __init__(
        self,
        block: keras.layers.Layer,
        depth: int,
        checkpoint_levels: int | None = None,
        memory_budget: float = DEFAULT_BUDGET,
        jit_compile: bool = False,
        unroll: int = 1,
        **kwargs: Any,
    ) -> None:
        if not isinstance(block, keras.layers.Layer):
            raise arguments.ArgumentTypeError(
                f"block must be a keras.layers.Layer or a keras.Model. Received: block={block!r}"
            )
        kwargs.setdefault("dtype", _policy_of(block))
        super().__init__(
            depth=depth,
            checkpoint_levels=checkpoint_levels,
            memory_budget=memory_budget,
            jit_compile=jit_compile,
            unroll=unroll,
            **kwargs,
        )
        self.supports_masking = True
        self._held = _Holder(Block(block))

    def build(self, input_shape: Any) -> None:
        """Makes the stacked weights by the block's own initializers."""
        shapes = _shape_structure(input_shape)
        self._nested_shape = shapes
        inputs = _map_shapes(lambda s: keras.KerasTensor(s, dtype=self.compute_dtype), shapes)
        held = self._held
        for variable, initializer in held.block.build(inputs):
            is_seed = variable.name == "seed_generator_state"
            name = variable.path.replace("/", "_")
            held.stacks.append(
                self._add_stack(
                    name,
                    variable.shape,
                    _own_seeds(initializer) if is_seed else initializer,
                    regularizer=variable.regularizer,
                    constraint=variable.constraint,
                    dtype=variable.dtype,
                    trainable=variable.trainable,
                    aggregation=variable.aggregation,
                )
            )
        held.block.set_trainable()

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Applies the blocks."""
        flat = keras.tree.flatten(inputs)
        masks = keras.tree.flatten(mask) if mask is not None else [None] * len(flat)
        # Keras leaves None out of flat structures of masks; those attached to tensors count then.
        if len(masks) != len(flat):
            masks = [borrowed.get_mask(x) for x in flat]
        training = _python_bool(training)
        plan = self._plan(inputs, flat, masks, training)
        held, structure = self._held, plan.structure
        state = [tf.cast(x, dtype) for x, dtype in zip(flat, structure.dtypes)]
        state += [tf.cast(m, tf.float32) for m in masks if m is not None]
        state += [tf.zeros([])] * structure.adds_loss
        values = [tf.convert_to_tensor(v.value) for v in held.stacks]
        parameters = [values[i] for i in (*plan.trained, *plan.others)]
        if not parameters:
            parameters = [tf.range(self.depth)]  # a stack without weights still has a depth
        results = self._loop_of(plan, state, training)(tuple(state), tuple(parameters))
        for index, value in zip(plan.updated, results[len(state) :]):
            held.stacks[index].assign(value)
        outputs = [tf.cast(y, self.compute_dtype) for y in results[: len(flat)]]
        if structure.adds_loss:
            self.add_loss(results[len(state) - 1])
        after = iter(results[len(flat) :])
        for y, masked in zip(outputs, structure.masked):
            if masked:
                borrowed.set_mask(y, next(after) > 0.5)
        return keras.tree.pack_sequence_as(structure.nested, outputs)

    def _plan(self, inputs: Any, flat: list[Any], masks: list[Any], training: bool) -> _Plan:
        """The plan for inputs of this form, found by one trace of the block."""
        trained = tuple(
            i for i, v in enumerate(self._held.stacks) if v.trainable and v.dtype.find("float") >= 0
        )
        nested = keras.tree.map_structure(lambda x: None, inputs)
        shapes = tuple((tuple(x.shape), x.dtype.name) for x in flat)
        masked = tuple(m is not None for m in masks)
        key = (str(nested), shapes, masked, training, trained, self.trainable)
        if key not in self._held.plans:
            for x in flat:
                if not x.dtype.is_floating:
                    raise ValueError(
                        "Repeat needs floating inputs: what is counted, as tokens are, is embedded "
                        f"before. Received: an input of dtype {x.dtype.name}"
                    )
            structure = Structure(inputs, tuple(x.dtype.name for x in flat), masked)
            self._held.plans[key] = self._trace(structure, flat, masks, training, trained)
        return self._held.plans[key]

    def _trace(
        self,
        structure: Structure,
        flat: Sequence[tf.Tensor],
        masks: Sequence[Any],
        training: bool,
        trained: tuple[int, ...],
    ) -> _Plan:
        """Calls the block once in a graph of its own, to see what it does."""
        block = self._held.block
        found: dict[str, Any] = {}
        structure = structure._replace(nested=keras.tree.map_structure(lambda x: 0, structure[0]))

        def once(inputs: Any, masks: Any, values: Any) -> Any:
            with block.frozen(not self.trainable):
                result = block.call(structure, inputs, masks, values, training)
            found["losses"] = bool(result.losses)
            found["dtypes"] = tuple(y.dtype.name for y in result.outputs)
            found["updated"] = tuple(
                i for i, (new, old) in enumerate(zip(result.values, values)) if new is not old
            )
            return result.outputs

        specs = [tf.TensorSpec(x.shape, x.dtype) for x in flat]
        mask_specs = [None if m is None else tf.TensorSpec(m.shape, tf.bool) for m in masks]
        values = [tf.TensorSpec(v.shape[1:], v.dtype) for v in self._held.stacks]
        traced = tf.function(once, autograph=False).get_concrete_function(specs, mask_specs, values)
        sizes = [
            t.shape.num_elements() and t.shape.num_elements() * t.dtype.size
            for operation in traced.graph.get_operations()
            for t in operation.outputs
            if t.dtype.is_floating
        ]
        return _Plan(
            structure._replace(dtypes=found["dtypes"], adds_loss=found["losses"]),
            trained,
            tuple(i for i in range(len(values)) if i not in trained),
            found["updated"],
            None if None in sizes else sum(sizes),
        )

    def _loop_of(self, plan: _Plan, state: Sequence[tf.Tensor], training: bool) -> DeepLoop:
        block, order = self._held.block, np.argsort((*plan.trained, *plan.others), kind="stable")
        frozen = not self.trainable

        def step(state: Tensors, own: Tensors) -> tuple[Tensors, Tensors]:
            values = [own[i] for i in order]
            with block.frozen(frozen):
                after, updated = block.step(plan.structure, state, values, training)
            return after, tuple(updated[i] for i in plan.updated)

        def make(**options: Any) -> DeepLoop:
            return DeepLoop(
                lambda state, own: step(state, own)[0],
                lambda z: z,
                len(state),
                constants=len(plan.others) if order.size else 1,
                recording=step,
                **options,
            )

        key = (str(plan.structure), plan.trained, plan.updated, training, frozen)
        return self._loop(key, self._levels(state), make)

    @property
    def block(self) -> keras.layers.Layer:
        """The block as it was given; its weights are not those of this layer."""
        return self._held.block.original

    @property
    def _layer_weights(self) -> list[keras.Variable]:
        seeds = [v.path for v in self._held.block.layer.variables]
        weights = {v.path for v in self._held.block.layer.weights}
        return [s for s, path in zip(self._held.stacks, seeds) if path in weights]

    def _stock_block(self, name: str) -> keras.layers.Layer:
        return self._held.block.copy(name)

    def _chain(self, blocks: list[keras.layers.Layer]) -> keras.Model:
        inputs = x = _map_shapes(
            lambda s: keras.Input(s[1:], dtype=self.compute_dtype), self._nested_shape
        )
        for block in blocks:
            x = block(x)
        return keras.Model(inputs, x)

    def _copy_layer(self, layer: int, block: keras.layers.Layer) -> None:
        for stack, variable in zip(self._held.stacks, block.variables):
            variable.assign(stack.value[layer])

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """The input's mask: blocks pass it on."""
        return previous_mask

    def memory(self, inputs: Any, slots: int = 2, training: bool = True) -> StackMemory:
        """Predicts the memory of forward, backward and update for a batch.

        Args:
            inputs: a batch, or tensors of its shape.
            slots: optimizer variables for each trained weight: sgd 0, momentum 1, adam 2.
            training: whether blocks run in training mode.

        Returns:
            A `StackMemory` in bytes.

        Raises:
            ValueError: for an input of unknown size, or slots that are no integer of at least 0.

        Example:
            >>> layer = mfcnn.layers.Repeat(keras.layers.Dense(8, "tanh"), 100)
            >>> layer.memory(np.zeros([32, 8], "float32")).parameters
            28800
        """
        slots = arguments.integer("slots", slots, 0)
        inputs = keras.tree.map_structure(tf.convert_to_tensor, inputs)
        if not self.built:
            self.build(keras.tree.map_structure(lambda x: tuple(x.shape), inputs))
        flat = [tf.cast(x, self.compute_dtype) for x in keras.tree.flatten(inputs)]
        masks = [borrowed.get_mask(x) for x in keras.tree.flatten(inputs)]
        plan = self._plan(inputs, flat, masks, training)
        if plan.intermediates is None:
            raise ValueError("memory needs inputs of known shape.")
        state = sum(x.shape.num_elements() * x.dtype.size for x in flat)
        stacks = self._held.stacks
        sizes = [int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in stacks]
        trained = sum(sizes[i] for i in plan.trained)
        return StackMemory(
            parameters=sum(sizes),
            slots=slots * trained,
            # Gathered layer by layer, and copied to one tensor unless XLA writes in place.
            gradients=trained * (1 if self.jit_compile else 2),
            # The states kept, and one block's tensors with their cotangents.
            activations=kept_activations(self.depth, self._levels(flat)) * state
            + 2 * plan.intermediates,
            program=PROGRAM,
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "block": keras.saving.serialize_keras_object(self.block)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Repeat":
        """Makes the layer that `get_config` described."""
        config = dict(config)
        if isinstance(config["block"], dict):
            config["block"] = keras.saving.deserialize_keras_object(config["block"])
        return cls(**config)


def _policy_of(block: keras.layers.Layer) -> Any:
    """The block's policy; a model does not know that of its layers, but its outputs' dtype."""
    outputs = keras.tree.flatten(getattr(block, "outputs", None) or [])
    dtype = outputs[0].dtype if outputs else block.compute_dtype
    return block.dtype_policy if dtype == block.compute_dtype else dtype


def _own_seeds(initializer: Callable[..., Any]) -> Callable[..., Any]:
    """Seeds of dropout and the like: [seed, 0], another seed for each layer.

    From the block's seed, so that a block with a seed gives the same layers again.
    """
    sequence: np.random.SeedSequence | None = None

    def draw(shape: Sequence[int], dtype: Any = None) -> tf.Tensor:
        nonlocal sequence
        if sequence is None:
            block_seed = np.asarray(initializer(shape, dtype=dtype)).ravel()[0]
            sequence = np.random.SeedSequence(int(block_seed) % 2**32)
        own = sequence.spawn(1)[0].generate_state(1)[0] % 2**31
        return tf.cast([own, 0], dtype)

    return draw


def _shape_structure(input_shape: Any) -> Any:
    """Tuples of sizes, in the structure of the inputs."""
    if isinstance(input_shape, dict):
        return {key: _shape_structure(value) for key, value in input_shape.items()}
    if all(size is None or isinstance(size, (int, np.integer)) for size in input_shape):
        return tuple(input_shape)
    return [_shape_structure(shape) for shape in input_shape]


def _python_bool(training: Any) -> bool:
    """The call's mode, which decides what is compiled, as Keras's own layers have it."""
    if tf.is_tensor(training) and not hasattr(training, "numpy"):
        raise ValueError(
            "training must be a Python boolean inside a compiled function: what it decides is "
            f"compiled. Use tf.cond over two calls. Received: training={training}"
        )
    return bool(training)


def _map_shapes(function: Callable[[tuple[int | None, ...]], Any], shapes: Any) -> Any:
    if isinstance(shapes, dict):
        return {key: _map_shapes(function, value) for key, value in shapes.items()}
    if isinstance(shapes, list):
        return [_map_shapes(function, shape) for shape in shapes]
    return function(shapes)
