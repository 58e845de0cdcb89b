"""What the deep loop is made of: counted loops, arrays of tensors, symbolic derivatives."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

__all__ = [
    "Stack",
    "Tensors",
    "Update",
    "array",
    "gradient",
    "independent",
    "layer_of",
    "loop",
    "read",
    "tangent",
    "write",
]

Tensors = tuple[tf.Tensor, ...]
Arrays = tuple[tf.TensorArray, ...]


def gradient(outputs: Tensors, inputs: Tensors, cotangent: Tensors) -> Tensors:
    """By tf.gradients: symbolic, at home in a loop's body, and blind to outer tapes."""
    zero = tf.UnconnectedGradients.ZERO
    return tuple(tf.gradients(outputs, inputs, cotangent, unconnected_gradients=zero))


def independent(tensors: Sequence[tf.Tensor]) -> Tensors:
    """The tensors cut off from one another, so that tf.gradients gives partial derivatives."""
    return tuple(tf.identity(t) for t in tensors)


def tangent(function: Callable[..., Tensors], constants: int = 0) -> Callable[..., Tensors]:
    """The map of (values, tangents) to (function(values), its derivative along the tangents).

    Args:
        function: of a state, or of a state and a layer's parameters, to a tuple of tensors.
        constants: how many of the last parameters have no tangents.
    """

    def mapped(state: Tensors, parameters: Tensors = ()) -> Tensors:
        count = len(parameters) - constants if parameters else 0
        (state, d_state), (own, d_own) = _halves(state), _halves(parameters[:count])
        values = (*independent(state), *independent(own))
        arguments = [values[: len(state)]]
        if parameters:
            arguments.append((*values[len(state) :], *parameters[count:]))
        result = function(*arguments)
        cotangent = tuple(tf.zeros_like(r) for r in result)
        # The transposed map is linear in its cotangent; its transpose is the derivative.
        transposed = gradient(result, values, cotangent)
        derivative = gradient(transposed, cotangent, (*d_state, *d_own))
        return (*result, *derivative)

    return mapped


def _halves(sequence: Tensors) -> tuple[Tensors, Tensors]:
    middle = len(sequence) // 2
    return tuple(sequence[:middle]), tuple(sequence[middle:])


def layer_of(parameters: Tensors, layer: Any) -> Tensors:
    """One layer's entries of tensors or variables [depth, ...]."""
    return tuple(tf.gather(p, layer) for p in parameters)


def array(size: int, like: tf.Tensor | tf.TypeSpec) -> tf.TensorArray:
    """An array of `size` tensors of one dtype and shape, which may be read again and again."""
    shape = like.shape
    return tf.TensorArray(like.dtype, size=size, element_shape=shape, clear_after_read=False)


def write(arrays: Arrays, index: Any, values: Tensors) -> Arrays:
    """Writes one tensor into each array."""
    return tuple(array.write(index, value) for array, value in zip(arrays, values))


def read(kept: Tensors, like: Tensors, index: Any) -> Tensors:
    """The tensors kept at an index, stacked or as the flow of an array, with their shapes."""
    if kept[0].dtype != tf.variant:
        return layer_of(kept, index)
    return tuple(
        tf.ensure_shape(tf.TensorArray(t.dtype, flow=flow).read(index), t.shape)
        for flow, t in zip(kept, like)
    )


def loop(
    start: Any, stop: Any, step: int, body: Callable[..., Any], carry: Any, unroll: int
) -> tuple[Any, ...]:
    """The carry after carry <- body(index, *carry) for index in range(start, stop, step).

    `unroll` turns make one turn of the loop; those that are left over take a second loop.
    """
    direction = 1 if step > 0 else -1

    def turn(count: int) -> Callable[..., Any]:
        def turns(index: Any, *carry: Any) -> Any:
            for _ in range(count):
                carry = body(index, *carry)
                index += step
            return (index, *carry)

        return turns

    carry = (start, *carry)
    for count in sorted({1, unroll}, reverse=True):
        reach = (count - 1) * step

        def fits(index: Any, *_: Any, reach: int = reach) -> Any:
            return direction * (index + reach) < direction * stop

        carry = tf.while_loop(fits, turn(count), carry, parallel_iterations=1)
    return tuple(carry[1:])


class Stack:
    """Collects the layers' gradients into stacked tensors; the loop carries the arrays."""

    def __init__(self, depth: int, parameters: Tensors) -> None:
        self._depth = depth
        self._parameters = parameters

    def empty(self) -> Arrays:
        specs = (tf.TensorSpec(p.shape[1:], p.dtype) for p in self._parameters)
        return tuple(array(self._depth, spec) for spec in specs)

    def write(self, arrays: Arrays, layer: Any, gradients: Tensors) -> Arrays:
        return write(arrays, layer, gradients)

    def result(self, arrays: Arrays) -> Tensors:
        return tuple(array.stack() for array in arrays)


class Update:
    """Hands each layer's gradient to an update; the loop carries nothing."""

    def __init__(self, function: Callable[[Any, Tensors], None]) -> None:
        self._function = function

    def empty(self) -> Arrays:
        return ()

    def write(self, nothing: Arrays, layer: Any, gradients: Tensors) -> Arrays:
        self._function(layer, gradients)
        return nothing

    def result(self, nothing: Arrays) -> Tensors:
        return nothing
