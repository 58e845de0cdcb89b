"""Sums over the replicas, given to the training step as an argument.

On a TPU the sum is part of the compiled program. XLA keeps an operand and a result of each
all-reduce, and a third buffer where their layouts differ: for the stacked gradient of a deep
network that is twice its size on top of it. Cut along depth and written back in place it is one
part; and a part of some megabytes uses the links between the chips as well as the whole.
"""

from collections.abc import Callable

import tensorflow as tf

from mfcnn import borrowed

__all__ = ["in_parts", "sum_over_replicas"]

_PART_BYTES = 2**25


def sum_over_replicas(
    strategy: tf.distribute.Strategy,
) -> Callable[[list[tf.Tensor]], list[tf.Tensor]] | None:
    """The function from a list of tensors to their sums, for use inside `strategy.run`.

    None for a single replica.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return None
    if isinstance(strategy, tf.distribute.TPUStrategy):
        groups = [list(range(replicas))]
        return in_parts(lambda x: tf.raw_ops.CrossReplicaSum(input=x, group_assignment=groups))
    return lambda tensors: tf.distribute.get_replica_context().all_reduce("SUM", tensors)


def in_parts(
    all_reduce: Callable[[tf.Tensor], tf.Tensor], part_bytes: int = _PART_BYTES
) -> Callable[[list[tf.Tensor]], list[tf.Tensor]]:
    """Makes a sum of lists of tensors, large ones in parts, from the sum of one tensor.

    For programs that XLA compiles.

    Args:
        all_reduce: function from a tensor to its sum over the replicas.
        part_bytes: the largest part, but at least one entry of the first axis.

    Returns:
        A function from a list of tensors to the list of their sums.
    """

    def reduce(tensor: tf.Tensor) -> tf.Tensor:
        size = tensor.shape.num_elements() * tensor.dtype.size
        if size <= part_bytes:
            return all_reduce(tensor)
        rows = tensor.shape[0]
        length = max(1, part_bytes * rows // size)

        def reduce_part(
            start: tf.Tensor | int, tensor: tf.Tensor, length: int = length
        ) -> tf.Tensor:
            zeros = [0] * (tensor.shape.rank - 1)
            part = tf.slice(tensor, tf.stack([start, *zeros]), [length, *tensor.shape[1:]])
            return borrowed.xla_dynamic_update_slice(
                tensor, all_reduce(part), tf.stack([start, *zeros])
            )

        whole = rows // length * length
        _, tensor = tf.while_loop(
            lambda start, _: start < whole,
            lambda start, tensor: (start + length, reduce_part(start, tensor)),
            (0, tensor),
            parallel_iterations=1,
        )
        return reduce_part(whole, tensor, rows - whole) if whole < rows else tensor

    return lambda tensors: [reduce(tensor) for tensor in tensors]
