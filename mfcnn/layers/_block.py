"""A Keras block as a function of its state and of values for its variables."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from mfcnn import borrowed
from mfcnn.layers._loop_tools import Tensors

__all__ = ["Block", "State", "Structure"]


class Structure(NamedTuple):
    """How a block's inputs are laid out in a flat tuple of tensors.

    The loop's state is the inputs, then the masks of those that have one (as numbers 0 and 1, so
    that all of the state is floating), then the sum of the losses that blocks add in their calls.
    """

    nested: Any
    dtypes: tuple[str, ...]
    masked: tuple[bool, ...]
    adds_loss: bool = False


class State(NamedTuple):
    """What a call of a block gives."""

    outputs: list[tf.Tensor]
    masks: list[tf.Tensor | None]
    losses: list[tf.Tensor]
    values: list[tf.Tensor]


class Block:
    """A copy of a block, without weights of its own that matter.

    Args:
        block: the user's layer or model; it is made anew from its configuration.

    Raises:
        ValueError: for a block that has no configuration.
    """

    def __init__(self, block: keras.layers.Layer) -> None:
        self.original = block
        # Made without values: the variables then say by which initializer they are drawn.
        with keras.StatelessScope(initialize_variables=False):
            self.layer = self.copy(block.name)

    def copy(self, name: str) -> keras.layers.Layer:
        """The block made anew, under another name."""
        block = self.original
        try:
            return type(block).from_config({**block.get_config(), "name": name})
        except Exception as error:
            raise ValueError(
                "Repeat makes its block anew from its configuration: give the block's class a "
                f"get_config and a from_config that work. Received: block={block!r}, whose copy "
                f"fails with {type(error).__name__}: {error}"
            ) from error

    def build(self, inputs: Any) -> list[tuple[keras.Variable, Any]]:
        """Makes the variables for symbolic inputs; returns each with its initializer.

        Raises:
            ValueError: if the outputs differ from the inputs in structure, shape or dtype kind.
        """
        with keras.StatelessScope(initialize_variables=False):
            outputs = self.layer(inputs)
        shapes = [
            [tuple(x.shape) for x in keras.tree.flatten(tensors)] for tensors in (inputs, outputs)
        ]
        if shapes[0] != shapes[1] or _form(inputs) != _form(outputs):
            raise ValueError(
                "Repeat needs a block whose output has its input's structure and shape. "
                f"Received: block {self.layer.name!r} from {shapes[0]} to {shapes[1]}"
            )
        found = [(v, borrowed.initializer_of(v)) for v in self.layer.variables]
        with keras.StatelessScope():
            pass  # gives the copy's own variables values, so that Keras has nothing left to draw
        return found

    def set_trainable(self) -> None:
        """Takes regularizers and constraints off the copy: its stacks have them."""
        for variable in self.layer.variables:
            variable.regularizer = variable.constraint = None

    @contextlib.contextmanager
    def frozen(self, frozen: bool) -> Iterator[None]:
        """Within it the copy is not trainable, as normalization layers want to know."""
        if not frozen:
            yield
            return
        layers = borrowed.sublayers(self.layer)
        flags = [layer.trainable for layer in layers]
        variables = [(v, v.trainable) for v in self.layer.variables]
        self.layer.trainable = False
        try:
            yield
        finally:
            for layer, flag in zip(layers, flags):
                layer.trainable = flag
            for variable, flag in variables:
                variable.trainable = flag

    def call(
        self,
        structure: Structure,
        inputs: Sequence[tf.Tensor],
        masks: Sequence[tf.Tensor | None],
        values: Sequence[tf.Tensor],
        training: bool,
    ) -> State:
        """Calls the block with these values for its variables."""
        variables = self.layer.variables
        mapping = list(zip(variables, values))
        scope = keras.StatelessScope(mapping, collect_losses=True, initialize_variables=False)
        with scope:
            given = []
            for x, mask in zip(inputs, masks):
                x = tf.identity(x)  # a mask is attached to the tensor itself
                if mask is not None:
                    borrowed.set_mask(x, mask)
                given.append(x)
            outputs = self.layer(
                keras.tree.pack_sequence_as(structure.nested, given), training=training
            )
            found = keras.tree.flatten(outputs)
            found_masks = [borrowed.get_mask(y) for y in found]
        updated = [scope.get_current_value(v) for v in variables]
        return State(found, found_masks, list(scope.losses), updated)

    def step(
        self, structure: Structure, state: Tensors, values: Sequence[tf.Tensor], training: bool
    ) -> tuple[Tensors, list[tf.Tensor]]:
        """The next flat state, and the values that the variables then have.

        Raises:
            ValueError: if the block drops, adds or reshapes a mask.
        """
        count = len(structure.dtypes)
        inputs, rest = state[:count], list(state[count:])
        masks = [rest.pop(0) > 0.5 if masked else None for masked in structure.masked]
        result = self.call(structure, inputs, masks, values, training)
        masked = tuple(mask is not None for mask in result.masks)
        if masked != structure.masked:
            change = "drops" if sum(masked) < sum(structure.masked) else "adds"
            raise ValueError(
                f"Repeat needs a block that passes masks on as they are. Block {self.layer.name!r} "
                f"{change} one: of its inputs {list(structure.masked)} have a mask, of its outputs "
                f"{list(masked)}. Layers of your own pass masks on with supports_masking = True."
            )
        after = [tf.cast(mask, tf.float32) for mask in result.masks if mask is not None]
        outputs = [tf.cast(y, dtype) for y, dtype in zip(result.outputs, structure.dtypes)]
        if structure.adds_loss:
            losses = [tf.cast(tf.reduce_sum(loss), tf.float32) for loss in result.losses]
            after.append(tf.add_n([rest[0], *losses]))
        return (*outputs, *after), result.values


def _form(tensors: Any) -> Any:
    """A structure without its tensors; a list and a tuple of the same things are one form."""
    if isinstance(tensors, dict):
        return {name: _form(value) for name, value in tensors.items()}
    return [_form(value) for value in tensors] if isinstance(tensors, (list, tuple)) else None
