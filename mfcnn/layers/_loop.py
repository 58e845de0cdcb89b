"""One loop over the layers of a deep stack, whose program size does not depend on depth.

The stack is `depth` times (affine map, activation), every layer of the same shape, its parameters
stacked along a leading axis. Forward and backward passes are `tf.while_loop`s of fixed size; the
backward pass is written here, because automatic differentiation of a loop would keep every
activation and add a gradient of the full stack's size at each layer.

Only pre-activations are kept, at checkpoints. `checkpoint_levels` trades memory for work:

    levels   kept pre-activations         forward passes in all
    0        depth                        1
    1        2 depth^(1/2)                2
    2        3 depth^(1/3)                3

Forward mode (Jacobian-vector products) and reverse mode of any order work: the gradient of the
backward pass is the gradient of the tangent loop (the same recursion on pairs of value and
tangent), which is again a deep loop. Forward mode around reverse mode is refused.

A layer may also have constants, stacked like parameters and without a gradient (moving means,
seeds, frozen weights), and may report records of its forward pass (the moving means' new values).
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mfcnn import borrowed
from mfcnn.layers import _loop_tools as tools
from mfcnn.layers._loop_tools import Arrays, Tensors
from mfcnn.layers._memory import checkpoint_strides

__all__ = ["DeepLoop"]


class DeepLoop:
    """Applies `state <- activation(affine(state, parameters[l]))` for l = 0 ... depth - 1.

    Args:
        affine: function of (state, layer parameters), both tuples of tensors, to the tuple of
            pre-activations, whose shapes and dtypes are those of the state. TensorFlow ops only.
        activation: function from the tuple of pre-activations to the next state, elementwise.
        state_size: number of tensors in the state.
        checkpoint_levels: 0, 1 or 2, see the module's heading.
        jit_compile: compiles forward and backward pass by XLA; inside a compiled function they
            are compiled with it, whatever is said here.
        unroll: layers in one turn of the innermost loops: fewer turns, a larger program.
        constants: how many of the last parameters have no gradient.
        recording: like `affine`, but returns the pre-activations and a tuple of records; it is
            taken in the forward pass, and never where that is computed again.
    """

    def __init__(
        self,
        affine: Callable[[Tensors, Tensors], Tensors],
        activation: Callable[[Tensors], Tensors],
        state_size: int = 1,
        checkpoint_levels: int = 1,
        jit_compile: bool = False,
        unroll: int = 1,
        constants: int = 0,
        recording: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]] | None = None,
    ) -> None:
        self.affine = affine
        self.activation = activation
        self.state_size = state_size
        self.checkpoint_levels = checkpoint_levels
        self.jit_compile = jit_compile
        self.unroll = unroll
        self.constants = constants
        self.recording = recording or (lambda state, own: (affine(state, own), ()))
        compiled = functools.partial(tf.function, autograph=False, jit_compile=jit_compile or None)
        self._compiled_forward = compiled(self._forward)
        self._compiled_backward = compiled(self._backward)

    def __call__(self, state: Tensors, parameters: Tensors) -> Tensors:
        """The state after the last activation, followed by the records.

        Args:
            state: tuple of tensors.
            parameters: tuple of tensors [depth, ...], stacked over the layers, constants last.

        Returns:
            A tuple of tensors, the state differentiable to any order by state and parameters,
            and the records, each [depth, ...].
        """

        @tf.custom_gradient
        def forward(*inputs):  # type: ignore[no-untyped-def]
            with borrowed.stop_recording():
                output, records, kept = self._compiled_forward(*self._split(inputs))

            def gradient(*cotangent):  # type: ignore[no-untyped-def]
                found = self._differentiable_backward(inputs, cotangent[: self.state_size], kept)
                return (*found, *[None] * self.constants)

            _tell_forward_accumulators((*output, *records), inputs, gradient)
            return (*output, *records), gradient

        return tuple(forward(*state, *parameters))

    def forward(self, state: Tensors, parameters: Tensors) -> tuple[Tensors, Any]:
        """(last state, what `backward` needs): the forward pass without a custom gradient.

        Here and in `backward` the parameters may be variables, of which one layer is read at a
        time. For use inside a tf.function.
        """
        output, _, kept = self._forward(state, parameters)
        return output, kept

    def backward(
        self,
        state: Tensors,
        parameters: Tensors,
        cotangent: Tensors,
        kept: Any,
        update: Callable[[Any, Tensors], None],
    ) -> Tensors:
        """The backward pass of `forward`, with each layer's gradient used up at once.

        Args:
            state: the first state.
            parameters: as in `forward`; a layer's are read for the last time before its update.
            cotangent: gradient by the last state.
            kept: from `forward`.
            update: function of (layer index, tuple of that layer's gradients), called from the
                last layer to the first: the gradient of the whole stack never exists.

        Returns:
            The gradient by the first state.
        """
        return self._backward(state, parameters, cotangent, kept, tools.Update(update))

    def _split(self, sequence: Any) -> tuple[Any, Any]:
        return tuple(sequence[: self.state_size]), tuple(sequence[self.state_size :])

    def _differentiable(self, parameters: Tensors) -> Tensors:
        return parameters[: len(parameters) - self.constants]

    # Forward. The layers 1 ... depth - 1 are transitions between pre-activations,
    # z_l = affine(activation(z_{l-1}), parameters_l): so one activation is evaluated and one
    # tensor kept for each, and the backward pass needs no third affine map.

    def _forward(self, state: Tensors, parameters: Tensors) -> tuple[Tensors, Tensors, Any]:
        depth = parameters[0].shape[0]
        z, first = self.recording(state, tools.layer_of(parameters, 0))
        records = tools.write(tuple(tools.array(depth, r) for r in first), 0, first)
        checkpoints: Tensors = ()
        if depth > 1:
            stride = checkpoint_strides(depth, self.checkpoint_levels)[0]
            z, records, arrays = self._checkpoint(
                z, records, parameters, 1, depth, depth - 1, stride
            )
            last = _last_start(1, depth, stride)
            z, records = self._advance(z, records, parameters, last, depth)
            checkpoints = self._keep(arrays)
        return self.activation(z), tuple(r.stack() for r in records), (z, checkpoints)

    def _keep(self, arrays: Arrays) -> Tensors:
        """Arrays as what may leave a function: stacked, which takes a copy.

        Uncompiled, the pre-activations of all layers are too many for a copy and stay arrays.
        """
        compiled = self.jit_compile or borrowed.compiled_by_xla()
        if compiled or self.checkpoint_levels:
            return tuple(array.stack() for array in arrays)
        return tuple(array.flow for array in arrays)

    def _transition(
        self, z: Tensors, records: Arrays, parameters: Tensors, layer: Any
    ) -> tuple[Tensors, Arrays]:
        state, own = self.activation(z), tools.layer_of(parameters, layer)
        if not records:
            return self.affine(state, own), ()
        z, values = self.recording(state, own)
        return z, tools.write(records, layer, values)

    def _advance(
        self, z: Tensors, records: Arrays, parameters: Tensors, first: Any, stop: Any
    ) -> tuple[Tensors, Arrays]:
        """The pre-activations after layers `first` ... `stop - 1`, and the records."""

        def body(layer: Any, *carry: Any) -> Any:
            z, records = self._transition(*self._split(carry), parameters, layer)
            return (*z, *records)

        return self._split(tools.loop(first, stop, 1, body, (*z, *records), self.unroll))

    def _checkpoint(
        self,
        z: Tensors,
        records: Arrays,
        parameters: Tensors,
        first: Any,
        stop: Any,
        capacity: int,
        stride: int,
    ) -> tuple[Tensors, Arrays, Arrays]:
        """Keeps the pre-activations before the layers first, first + stride, ... below stop.

        Returns the last of them, which the caller may advance further, the records and all that
        was kept, in arrays.
        """
        arrays = tuple(tools.array(-(-capacity // stride), t) for t in z)
        final = _last_start(first, stop, stride)
        count = len(records)

        def body(layer: Any, *carry: Any) -> Any:
            z, arrays = self._split(carry)
            records, arrays = arrays[:count], arrays[count:]
            arrays = tools.write(arrays, (layer - first) // stride, z)
            if stride == 1:
                z, records = self._transition(z, records, parameters, layer)
            else:
                z, records = self._advance(z, records, parameters, layer, layer + stride)
            return (*z, *records, *arrays)

        unroll = self._unroll_of(stride)
        carry = tools.loop(first, final, stride, body, (*z, *records, *arrays), unroll)
        z, rest = self._split(carry)
        return z, rest[:count], tools.write(rest[count:], (final - first) // stride, z)

    # Backward, by tf.gradients.

    def _backward(
        self,
        state: Tensors,
        parameters: Tensors,
        cotangent: Tensors,
        kept: Any,
        sink: Any = None,
    ) -> Tensors:
        depth = parameters[0].shape[0]
        sink = sink or tools.Stack(depth, self._differentiable(parameters))
        z, checkpoints = kept
        d_z = tools.gradient(self.activation(z), z, cotangent)
        gradients = sink.empty()
        if depth > 1:
            strides = checkpoint_strides(depth, self.checkpoint_levels)
            read = functools.partial(tools.read, checkpoints, z)
            d_z, gradients = self._segments(
                read, parameters, d_z, gradients, 1, depth, strides, sink
            )
        d_state, d_layer = self._affine_gradient(state, tools.layer_of(parameters, 0), d_z)
        gradients = sink.write(gradients, 0, d_layer)
        return (*d_state, *sink.result(gradients))

    def _segments(
        self,
        read: Callable[[Any], Tensors],
        parameters: Tensors,
        d_z: Tensors,
        gradients: Arrays,
        first: Any,
        stop: Any,
        strides: tuple[int, ...],
        sink: Any,
    ) -> tuple[Tensors, Arrays]:
        """From the cotangent after layer `stop - 1` to the one before layer `first`.

        `read(i)` gives the pre-activations kept before layer first + i * strides[0].
        """
        stride = strides[0]

        def body(start: Any, *carry: Any) -> Any:
            d_z, gradients = self._split(carry)
            z = read((start - first) // stride)
            if stride == 1:
                state = self.activation(z)
                own = tools.layer_of(parameters, start)
                d_state, d_layer = self._affine_gradient(state, own, d_z)
                d_z = tools.gradient(state, z, d_state)
                gradients = sink.write(gradients, start, d_layer)
            else:
                end = tf.minimum(start + stride, stop)
                *_, arrays = self._checkpoint(z, (), parameters, start, end, stride, strides[1])

                def read_again(i: Any) -> Tensors:
                    return tuple(array.read(i) for array in arrays)

                d_z, gradients = self._segments(
                    read_again, parameters, d_z, gradients, start, end, strides[1:], sink
                )
            return (*d_z, *gradients)

        last, carry = _last_start(first, stop, stride), (*d_z, *gradients)
        unroll = self._unroll_of(stride)
        return self._split(tools.loop(last, first - 1, -stride, body, carry, unroll))

    def _unroll_of(self, stride: int) -> int:
        # A turn over many layers has an inner loop, which is the one to unroll.
        return self.unroll if stride == 1 else 1

    def _affine_gradient(
        self, state: Tensors, own: Tensors, d_z: Tensors
    ) -> tuple[Tensors, Tensors]:
        state = tools.independent(state)
        z = self.affine(state, own)
        return self._split(tools.gradient(z, (*state, *self._differentiable(own)), d_z))

    # Second and higher order. With J the loop's Jacobian, the backward pass computes
    # J^T cotangent, and <tangent, J^T cotangent> = <J tangent, cotangent>: its gradients by
    # cotangent, state and parameters are those of the tangent loop.

    def _differentiable_backward(self, inputs: Tensors, cotangent: Tensors, kept: Any) -> Tensors:
        @tf.custom_gradient
        def backward(*arguments):  # type: ignore[no-untyped-def]
            inputs, cotangent = arguments[: -self.state_size], arguments[-self.state_size :]
            if borrowed.pack_tangents(list(arguments)).tangents:
                raise NotImplementedError(
                    "A ForwardAccumulator around the gradient of a deep loop is not supported. "
                    "For a Hessian-vector product nest two GradientTapes instead."
                )
            with borrowed.stop_recording():
                result = self._compiled_backward(
                    *self._split(inputs), cotangent, self._reachable(inputs, kept)
                )

            def gradient(*tangent):  # type: ignore[no-untyped-def]
                return self._backward_gradient(inputs, cotangent, tangent)

            return result, gradient

        return backward(*inputs, *cotangent)

    def _reachable(self, inputs: Tensors, kept: Any) -> Any:
        """What the forward pass kept, or the same computed again where it cannot be had.

        Arrays cannot leave their function, as they would where a SavedModel stores the gradient
        beside the function.
        """
        array = kept[1] and kept[1][0].dtype == tf.variant and not tf.executing_eagerly()
        if array and kept[1][0].graph is not tf.compat.v1.get_default_graph():
            return self._compiled_forward(*self._split(inputs))[2]
        return kept

    def _backward_gradient(self, inputs: Tensors, cotangent: Tensors, tangent: Tensors) -> Any:
        state, parameters = self._split(inputs)
        d_state, d_parameters = self._split(tangent)
        own = self._differentiable(parameters)
        constants = parameters[len(own) :]
        with tf.GradientTape() as tape:
            tape.watch((*state, *own))
            outputs = self._tangent_loop((*state, *d_state), (*own, *d_parameters, *constants))
            d_outputs = self._split(outputs)[1]
            parts = [tf.reduce_sum(d * c) for d, c in zip(d_outputs, cotangent)]
            product = tf.add_n([tf.cast(part, parts[0].dtype) for part in parts])
        gradients = tape.gradient(product, (*state, *own), unconnected_gradients="zero")
        return (*gradients, *[None] * self.constants, *d_outputs)

    @functools.cached_property
    def _tangent_loop(self) -> "DeepLoop":
        return DeepLoop(
            tools.tangent(self.affine, self.constants),
            tools.tangent(self.activation),
            2 * self.state_size,
            self.checkpoint_levels,
            self.jit_compile,
            self.unroll,
            self.constants,
        )


def _tell_forward_accumulators(outputs: Tensors, inputs: Tensors, gradient: Any) -> None:
    """Makes forward mode see a custom gradient whose inside was not recorded.

    In a graph, tf.custom_gradient gives its result the tangent of the result's own history; that
    was hidden from the accumulators, and without this call the tangent would silently be zero.
    """
    if not tf.executing_eagerly():
        borrowed.record_operation_forwardprop_only("DeepLoop", outputs, inputs, gradient, None)


def _last_start(first: Any, stop: Any, stride: int) -> Any:
    """The largest first + i * stride below stop, for first < stop."""
    return first + (stop - 1 - first) // stride * stride
