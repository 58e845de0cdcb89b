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
"""

import functools
import math

import tensorflow as tf

# The loops are differentiated by hand, so no tape and no forward accumulator may look into them;
# the public API can stop one tape, but not those of the callers.
from tensorflow.python.eager.forwardprop_util import pack_tangents
from tensorflow.python.eager.record import record_operation_forwardprop_only, stop_recording
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

__all__ = ["DeepLoop", "checkpoint_strides"]


def checkpoint_strides(depth, levels):
    """Layers between two checkpoints at each level, from the coarsest to single layers.

    Args:
        depth: number of layers of the stack.
        levels: 0 keeps every pre-activation, 1 and 2 nest that many coarser levels.

    Returns:
        A tuple of `levels + 1` integers, the last of them 1.
    """
    transitions = max(depth - 1, 1)
    root = transitions ** (1.0 / (levels + 1))
    return tuple(math.ceil(round(root**power, 9)) for power in range(levels, 0, -1)) + (1,)


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
    """

    def __init__(
        self,
        affine,
        activation,
        state_size=1,
        checkpoint_levels=1,
        jit_compile=False,
        unroll=1,
    ):
        self.affine = affine
        self.activation = activation
        self.state_size = state_size
        self.checkpoint_levels = checkpoint_levels
        self.jit_compile = jit_compile
        self.unroll = unroll
        compiled = functools.partial(tf.function, autograph=False, jit_compile=jit_compile or None)
        self._compiled_forward = compiled(self._forward)
        self._compiled_backward = compiled(self._backward)

    def __call__(self, state, parameters):
        """The state after the last activation.

        Args:
            state: tuple of tensors.
            parameters: tuple of tensors [depth, ...], stacked over the layers.

        Returns:
            A tuple of tensors, differentiable to any order by state and parameters.
        """

        @tf.custom_gradient
        def forward(*inputs):
            with stop_recording():
                output, kept = self._compiled_forward(*self._split(inputs))

            def gradient(*cotangent):
                return self._differentiable_backward(inputs, cotangent, kept)

            _tell_forward_accumulators(output, inputs, gradient)
            return output, gradient

        return tuple(forward(*state, *parameters))

    def _split(self, sequence):
        return tuple(sequence[: self.state_size]), tuple(sequence[self.state_size :])

    # Forward. The layers 1 ... depth - 1 are transitions between pre-activations,
    # z_l = affine(activation(z_{l-1}), parameters_l): so one activation is evaluated and one
    # tensor kept for each, and the backward pass needs no third affine map.

    def _forward(self, state, parameters):
        depth = parameters[0].shape[0]
        z, checkpoints = self.affine(state, _layer(parameters, 0)), ()
        if depth > 1:
            stride = checkpoint_strides(depth, self.checkpoint_levels)[0]
            z, arrays = self._checkpoint(z, parameters, 1, depth, depth - 1, stride)
            z = self._advance(z, parameters, _last_start(1, depth, stride), depth)
            checkpoints = self._keep(arrays)
        return self.activation(z), (z, checkpoints)

    def _keep(self, arrays):
        """Arrays as what may leave a function: under XLA stacked, else as they are, uncopied."""
        if self.jit_compile or GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
            return tuple(array.stack() for array in arrays)
        return tuple(array.flow for array in arrays)

    def _transition(self, z, parameters, layer):
        return self.affine(self.activation(z), _layer(parameters, layer))

    def _advance(self, z, parameters, first, stop):
        """The pre-activations after layers `first` ... `stop - 1`."""

        def body(layer, *z):
            return self._transition(z, parameters, layer)

        return _for(first, stop, 1, body, z, self.unroll)

    def _checkpoint(self, z, parameters, first, stop, capacity, stride):
        """Keeps the pre-activations before the layers first, first + stride, ... below stop.

        Returns the last of them, which the caller may advance further, and all in arrays.
        """
        arrays = tuple(_array(-(-capacity // stride), t.dtype, t.shape) for t in z)
        final = _last_start(first, stop, stride)

        def body(layer, *carry):
            z, arrays = self._split(carry)
            arrays = _write(arrays, (layer - first) // stride, z)
            if stride == 1:
                z = self._transition(z, parameters, layer)
            else:
                z = self._advance(z, parameters, layer, layer + stride)
            return (*z, *arrays)

        carry = _for(first, final, stride, body, (*z, *arrays), self._unroll_of(stride))
        z, arrays = self._split(carry)
        return z, _write(arrays, (final - first) // stride, z)

    def forward(self, state, parameters):
        """(last state, what `backward` needs): the forward pass without a custom gradient.

        Here and in `backward` the parameters may be variables, of which one layer is read at a
        time. For use inside a tf.function.
        """
        return self._forward(state, parameters)

    def backward(self, state, parameters, cotangent, kept, update):
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
        return self._backward(state, parameters, cotangent, kept, _Update(update))

    # Backward, by tf.gradients: symbolic, at home in a loop's body, and blind to outer tapes.

    def _backward(self, state, parameters, cotangent, kept, sink=None):
        depth = parameters[0].shape[0]
        sink = sink or _Stack(depth, parameters)
        z, checkpoints = kept
        d_z = _gradient(self.activation(z), z, cotangent)
        gradients = sink.empty()
        if depth > 1:
            strides = checkpoint_strides(depth, self.checkpoint_levels)
            read = functools.partial(_read, checkpoints, z)
            d_z, gradients = self._segments(
                read, parameters, d_z, gradients, 1, depth, strides, sink
            )
        d_state, d_layer = self._affine_gradient(state, _layer(parameters, 0), d_z)
        gradients = sink.write(gradients, 0, d_layer)
        return (*d_state, *sink.result(gradients))

    def _segments(self, read, parameters, d_z, gradients, first, stop, strides, sink):
        """From the cotangent after layer `stop - 1` to the one before layer `first`.

        `read(i)` gives the pre-activations kept before layer first + i * strides[0].
        """
        stride = strides[0]

        def body(start, *carry):
            d_z, gradients = self._split(carry)
            z = read((start - first) // stride)
            if stride == 1:
                state = self.activation(z)
                d_state, d_layer = self._affine_gradient(state, _layer(parameters, start), d_z)
                d_z = _gradient(state, z, d_state)
                gradients = sink.write(gradients, start, d_layer)
            else:
                end = tf.minimum(start + stride, stop)
                _, arrays = self._checkpoint(z, parameters, start, end, stride, strides[1])
                d_z, gradients = self._segments(
                    lambda i: tuple(array.read(i) for array in arrays),
                    parameters, d_z, gradients, start, end, strides[1:], sink,
                )  # fmt: skip
            return (*d_z, *gradients)

        last, carry = _last_start(first, stop, stride), (*d_z, *gradients)
        return self._split(_for(last, first - 1, -stride, body, carry, self._unroll_of(stride)))

    def _unroll_of(self, stride):
        # A turn over many layers has an inner loop, which is the one to unroll.
        return self.unroll if stride == 1 else 1

    def _affine_gradient(self, state, layer_parameters, d_z):
        state = _independent(state)
        z = self.affine(state, layer_parameters)
        return self._split(_gradient(z, (*state, *layer_parameters), d_z))

    # Second and higher order. With J the loop's Jacobian, the backward pass computes
    # J^T cotangent, and <tangent, J^T cotangent> = <J tangent, cotangent>: its gradients by
    # cotangent, state and parameters are those of the tangent loop.

    def _differentiable_backward(self, inputs, cotangent, kept):
        @tf.custom_gradient
        def backward(*arguments):
            inputs, cotangent = arguments[: -self.state_size], arguments[-self.state_size :]
            if pack_tangents(list(arguments)).tangents:
                raise NotImplementedError(
                    "A ForwardAccumulator around the gradient of a deep loop is not supported. "
                    "For a Hessian-vector product nest two GradientTapes instead."
                )
            with stop_recording():
                result = self._compiled_backward(*self._split(inputs), cotangent, kept)

            def gradient(*tangent):
                return self._backward_gradient(inputs, cotangent, tangent)

            return result, gradient

        return backward(*inputs, *cotangent)

    def _backward_gradient(self, inputs, cotangent, tangent):
        state, parameters = self._split(inputs)
        d_state, d_parameters = self._split(tangent)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = self._tangent_loop((*state, *d_state), (*parameters, *d_parameters))
            d_outputs = self._split(outputs)[1]
            product = tf.add_n([tf.reduce_sum(d * c) for d, c in zip(d_outputs, cotangent)])
        return (*tape.gradient(product, inputs, unconnected_gradients="zero"), *d_outputs)

    @functools.cached_property
    def _tangent_loop(self):
        return DeepLoop(
            _tangent(self.affine),
            _tangent(self.activation),
            2 * self.state_size,
            self.checkpoint_levels,
            self.jit_compile,
            self.unroll,
        )


class _Stack:
    """Collects the layers' gradients into stacked tensors; the loop carries the arrays."""

    def __init__(self, depth, parameters):
        self._depth = depth
        self._parameters = parameters

    def empty(self):
        return tuple(_array(self._depth, p.dtype, p.shape[1:]) for p in self._parameters)

    def write(self, arrays, layer, gradients):
        return _write(arrays, layer, gradients)

    def result(self, arrays):
        return tuple(array.stack() for array in arrays)


class _Update:
    """Hands each layer's gradient to an update; the loop carries nothing."""

    def __init__(self, function):
        self._function = function

    def empty(self):
        return ()

    def write(self, nothing, layer, gradients):
        self._function(layer, gradients)
        return nothing

    def result(self, nothing):
        return nothing


def _tell_forward_accumulators(outputs, inputs, gradient):
    """Makes forward mode see a custom gradient whose inside was not recorded.

    In a graph, tf.custom_gradient gives its result the tangent of the result's own history; that
    was hidden from the accumulators, and without this call the tangent would silently be zero.
    """
    if not tf.executing_eagerly():
        record_operation_forwardprop_only("DeepLoop", outputs, inputs, gradient, None)


def _tangent(function):
    """The map of (values, tangents) to (function(values), its derivative along the tangents)."""

    def mapped(*arguments):
        values, tangents = zip(*(_halves(argument) for argument in arguments))
        values = tuple(_independent(v) for v in values)
        result = function(*values)
        cotangent = tuple(tf.zeros_like(r) for r in result)
        # The transposed map is linear in its cotangent; its transpose is the derivative.
        flat = tuple(v for value in values for v in value)
        transposed = _gradient(result, flat, cotangent)
        derivative = _gradient(transposed, cotangent, tuple(t for ts in tangents for t in ts))
        return (*result, *derivative)

    return mapped


def _independent(tensors):
    """The tensors cut off from one another, so that tf.gradients gives partial derivatives."""
    return tuple(tf.identity(t) for t in tensors)


def _gradient(outputs, inputs, cotangent):
    zero = tf.UnconnectedGradients.ZERO
    return tuple(tf.gradients(outputs, inputs, cotangent, unconnected_gradients=zero))


def _last_start(first, stop, stride):
    """The largest first + i * stride below stop, for first < stop."""
    return first + (stop - 1 - first) // stride * stride


def _layer(parameters, layer):
    return tuple(tf.gather(p, layer) for p in parameters)


def _read(kept, like, index):
    """The tensors that `DeepLoop._keep` kept at an index; `like` has their dtypes and shapes."""
    if kept[0].dtype != tf.variant:
        return _layer(kept, index)
    return tuple(
        tf.ensure_shape(tf.TensorArray(t.dtype, flow=flow).read(index), t.shape)
        for flow, t in zip(kept, like)
    )


def _halves(sequence):
    middle = len(sequence) // 2
    return tuple(sequence[:middle]), tuple(sequence[middle:])


def _array(size, dtype, shape):
    return tf.TensorArray(dtype, size=size, element_shape=shape, clear_after_read=False)


def _write(arrays, index, values):
    return tuple(array.write(index, value) for array, value in zip(arrays, values))


def _for(start, stop, step, body, carry, unroll):
    """The carry after carry <- body(index, *carry) for index in range(start, stop, step).

    `unroll` turns make one turn of the loop; those that are left over take a second loop.
    """
    direction = 1 if step > 0 else -1

    def turn(count):
        def turns(index, *carry):
            for _ in range(count):
                carry = body(index, *carry)
                index += step
            return (index, *carry)

        return turns

    carry = (start, *carry)
    for count in sorted({1, unroll}, reverse=True):
        reach = (count - 1) * step

        def fits(index, *_, reach=reach):
            return direction * (index + reach) < direction * stop

        carry = tf.while_loop(fits, turn(count), carry, parallel_iterations=1)
    return carry[1:]
