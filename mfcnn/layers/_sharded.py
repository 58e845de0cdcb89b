"""A deep stack of which each replica holds a part of every layer.

Each replica has [depth, parameters / replicas] of the weights, and so of the optimizer's slots and
of the gradient. A layer is gathered when it is its turn, and let go after it; its gradient is
summed and scattered at once, so that each replica gets the sum for its own part.
"""

import math
from typing import Any

import keras
import tensorflow as tf

from mfcnn import arguments, borrowed
from mfcnn.layers._deep import DeepConvolution, DeepDense
from mfcnn.layers._loop_tools import Tensors

__all__ = ["ShardedStack", "shard_stacks"]


class ShardedStack(keras.layers.Layer):
    """A `DeepConvolution` or `DeepDense` whose weights are spread over the replicas.

    For programs that XLA compiles, one for each replica. The weights of a layer, kernel then bias,
    are one vector, filled up with zeros to a multiple of the replicas and cut into equal parts.

    Args:
        deep: the built stack, without constraints and regularizers.
        replicas: number of replicas.
    """

    def __init__(self, deep: DeepConvolution | DeepDense, replicas: int) -> None:
        super().__init__(name=deep.name, dtype=deep.dtype_policy)
        self.depth, self.replicas = deep.depth, arguments.integer("replicas", replicas, 1)
        weights = list(deep.weights)
        if any(weight.constraint or weight.regularizer for weight in weights):
            raise ValueError(
                "A sharded stack has no constraints and no regularizers: they see whole layers. "
                f"Received: deep={deep.name!r} with one on its weights"
            )
        self.shapes = [tuple(weight.shape[1:]) for weight in weights]
        self.names = [weight.name for weight in weights]
        # Never built: it says how a layer computes, and holds nothing.
        self._loop_for = type(deep).from_config(deep.get_config()).loop_for

    @property
    def width(self) -> int:
        """Numbers of one layer that a replica holds."""
        return -(-sum(math.prod(shape) for shape in self.shapes) // self.replicas)

    def build(self, input_shape: Any) -> None:
        """Makes this replica's part [depth, width] of all layers."""
        self.shard = self.add_weight(
            shape=(self.depth, self.width), initializer="zeros", name="shard", autocast=False
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Applies the stack; the shape stays."""
        shard = tf.convert_to_tensor(self.shard.value)
        return self._loop_for(x, self._whole)((x,), (shard,))[0]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shape."""
        return input_shape

    def _whole(self, own: Tensors) -> Tensors:
        """One layer's weights from the parts of all replicas."""
        sizes = [math.prod(shape) for shape in self.shapes]
        (shard,) = own
        vector = _gather(shard, self.replicas)[: sum(sizes)]
        parts = tf.split(vector, sizes)
        return tuple(tf.reshape(part, shape) for part, shape in zip(parts, self.shapes))


def shard_stacks(model: keras.Model, replicas: int) -> keras.Model:
    """A model of the same layers with its deep stacks spread over the replicas, zeros in them.

    Raises:
        ValueError: for a model without a deep stack, or with constraints on one.
    """
    found = [x for x in model.layers if isinstance(x, (DeepConvolution, DeepDense))]
    if not found:
        raise ValueError(
            "Sharding needs a model with a DeepConvolution or DeepDense. "
            f"Received: {model.name!r} with none"
        )

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer in found:
            return ShardedStack(layer, replicas)
        return type(layer).from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=clone)


def _gather(part: tf.Tensor, replicas: int) -> tf.Tensor:
    """[replicas * width], the parts [width] of all replicas one after the other."""
    if replicas == 1:
        return part

    @tf.custom_gradient
    def gather(part):  # type: ignore[no-untyped-def]
        mine = tf.equal(tf.range(replicas), borrowed.xla_replica_id())
        rows = tf.where(mine[:, None], part[None], tf.zeros([], part.dtype))
        whole = borrowed.xla_all_reduce(rows, _groups(replicas), "Add", "CrossReplica")
        return tf.reshape(whole, [-1]), lambda d_whole: _scatter(d_whole, replicas)

    return gather(part)


def _scatter(whole: tf.Tensor, replicas: int) -> tf.Tensor:
    """This replica's part of the sum over the replicas."""

    @tf.custom_gradient
    def scatter(whole):  # type: ignore[no-untyped-def]
        part = borrowed.xla_reduce_scatter(whole, _groups(replicas), tf.constant(0), "Add")
        return part, lambda d_part: _gather(d_part, replicas)

    return scatter(whole)


def _groups(replicas: int) -> tf.Tensor:
    return tf.constant([list(range(replicas))], tf.int32)
