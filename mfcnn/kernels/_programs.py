"""Compiled kernels of one block: a program for all variances, depths and inputs of one shape."""

import numpy as np
import tensorflow as tf

from mfcnn.activations import dual_numerical
from mfcnn.kernels import _equal_norm, _recursion

__all__ = ["compiled"]

_FUNCTIONS = {}
# Layers times pairs of positions from which XLA's compilation, seconds, pays for itself.
_COMPILE_FROM = 2**22
_COMPILE_DEEP = 400


def compiled(kernel, stages, scaled, architecture, work):
    """The kernel of one block: one compiled function for all variances, depths and inputs.

    Args:
        kernel: a `kernel.Kernel`.
        stages: those of `Kernel._stages`.
        scaled: whether the NTK is divided by exp(log_scale).
        architecture: see `geometry`.
        work: number of pairs of positions.

    Returns:
        A function of (signals, ids) to (nngp, ntk, log_scale), where signals are (q1, q2, gap)
        after the first affine map of a fully connected network, or two images.
    """
    # Gradients of a compiled loop need to know its length: integers are part of the trace.
    if not (architecture.shrinks or _equal_norm.recording() or not tf.executing_eagerly()):
        stages = [stage if stage[2] == 1 else _as_tensors(*stage) for stage in stages]
    leaves = tf.nest.flatten(stages)
    arrays = [tf.constant(a) for a in leaves if isinstance(a, (np.ndarray, tf.Tensor))]
    static = [None if isinstance(a, (np.ndarray, tf.Tensor)) else (a,) for a in leaves]
    layers = kernel._depths[-1]
    convolution = getattr(architecture, "convolution", None)
    profile = convolution and convolution.profile
    key = (
        kernel._closed_form,
        kernel.dtype,
        tuple(static),
        scaled,
        type(architecture),
        convolution and (profile.shape, profile.tobytes(), convolution.padding),
        work * layers > _COMPILE_FROM or layers >= _COMPILE_DEEP,
    )
    if key not in _FUNCTIONS:

        def arranged(arrays):
            arrays = iter(arrays)
            return tf.nest.pack_sequence_as(stages, [s[0] if s else next(arrays) for s in static])

        function = _block_function(
            kernel._closed_form, kernel.dtype, scaled, architecture, arranged
        )
        _FUNCTIONS[key] = tf.function(function, jit_compile=key[-1], autograph=False)
    parameters = kernel._parameters(tf.float64)
    return lambda signals, ids: _FUNCTIONS[key](signals, ids, parameters, arrays)


def _as_tensors(table, variance, stop, depths):
    depths = tf.constant(depths, tf.int32) if depths else []
    return table, variance, tf.constant(stop, tf.int32), depths


def _block_function(closed_form, dtype, scaled, architecture, arranged):
    def function(signals, ids, parameters, arrays):
        if len(signals) == 2:
            # The first layer in float64 whatever the dtype: it costs little and keeps close pixels.
            signals = _recursion.start(*signals, architecture, ids, *parameters)
        q1, q2, gap = signals
        gap = tf.cast(gap, dtype)
        gap = tf.where(architecture.coincide(*ids, q1.shape[:-1]), tf.zeros_like(gap), gap)

        def dual(table, variance):
            return closed_form or dual_numerical.TabulatedDual(table, tf.float64, variance)

        stages = [(dual(table, variance), *when) for table, variance, *when in arranged(arrays)]
        return _recursion.propagate(
            q1, q2, gap, ids, stages, architecture, parameters, scaled=scaled
        )

    return function
