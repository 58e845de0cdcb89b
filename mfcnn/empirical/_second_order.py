"""Derivatives of gradient operations by their cotangent, where TensorFlow has none.

A Jacobian-vector product is the transpose of a vector-Jacobian product, so it differentiates the
gradient operations. TensorFlow declares some of them not differentiable, and a tape then drops
their path without a word; others have no entry at all. Within `differentiable` each of the first
kind has the right derivative or raises by name, and the second kind has one where it is known (an
operation without an entry raises a LookupError by itself).

Two ways give a derivative. The gradient of a linear operation (resizing, cropping) is its
transpose, whose own transpose is the operation. The others are written out in operations that
TensorFlow differentiates.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from mfcnn import borrowed

__all__ = ["FORMULAS", "TRANSPOSES", "differentiable", "not_differentiable"]


def _resize(operation: Callable) -> Callable:
    def transpose(op: Any, g: tf.Tensor) -> list:
        options = {name: op.get_attr(name) for name in ("align_corners", "half_pixel_centers")}
        size = tf.shape(op.inputs[0])[1:3]
        return [operation(images=g, size=size, **options), None]

    return transpose


def _scale_and_translate(op: Any, g: tf.Tensor) -> list:
    size, kernel = tf.shape(op.inputs[0])[1:3], op.get_attr("kernel_type")
    resized = tf.raw_ops.ScaleAndTranslate(
        images=g,
        size=size,
        scale=op.inputs[2],
        translation=op.inputs[3],
        kernel_type=kernel.decode() if isinstance(kernel, bytes) else kernel,
        antialias=op.get_attr("antialias"),
    )
    return [resized, None, None, None]


def _crop(op: Any, g: tf.Tensor) -> list:
    method = op.get_attr("method")
    cropped = tf.raw_ops.CropAndResize(
        image=g,
        boxes=op.inputs[1],
        box_ind=op.inputs[2],
        crop_size=tf.shape(op.inputs[0])[1:3],
        method=method.decode() if isinstance(method, bytes) else method,
    )
    return [cropped, None, None, None]


def _segments(operation: Callable) -> Callable:
    def transpose(op: Any, g: tf.Tensor) -> list:
        indices, segments = op.inputs[1], op.inputs[2]
        count = tf.shape(op.inputs[0])[0]
        summed = operation(data=g, indices=indices, segment_ids=segments, num_segments=count)
        return [summed, None, None, None]

    return transpose


def _update_slice(op: Any, g: tf.Tensor) -> list:
    update, indices = op.inputs[1], op.inputs[2]
    kept = tf.slice(g, indices, tf.shape(update, out_type=indices.dtype))
    shape = tf.shape(g, out_type=indices.dtype)
    after = shape - indices - tf.shape(update, out_type=indices.dtype)
    inside = tf.pad(tf.ones_like(update), tf.stack([indices, after], 1))
    return [g * (1 - inside), kept, None]


# The gradient of a linear operation -> the derivative of that gradient, the operation itself.
TRANSPOSES: dict[str, Callable] = {
    "ResizeBilinearGrad": _resize(tf.raw_ops.ResizeBilinear),
    "ResizeBicubicGrad": _resize(tf.raw_ops.ResizeBicubic),
    "ResizeNearestNeighborGrad": _resize(tf.raw_ops.ResizeNearestNeighbor),
    "ScaleAndTranslateGrad": _scale_and_translate,
    "CropAndResizeGradImage": _crop,
    "SparseSegmentSumGrad": _segments(tf.raw_ops.SparseSegmentSumWithNumSegments),
    "SparseSegmentMeanGrad": _segments(tf.raw_ops.SparseSegmentMeanWithNumSegments),
    "SparseSegmentSqrtNGrad": _segments(tf.raw_ops.SparseSegmentSqrtNWithNumSegments),
    "XlaDynamicUpdateSlice": _update_slice,
}


def _softsign_gradient(op: Any, c: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    del op
    return c / tf.square(1 + tf.abs(x))


def _normalization_gradient(op: Any, c: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Of y = x norm^-beta, norm = bias + alpha (sum of x^2 over the channels next to one)."""
    del y
    alpha, beta, bias = (op.get_attr(name) for name in ("alpha", "beta", "bias"))
    channels, radius = tf.shape(x)[-1], op.get_attr("depth_radius")
    apart = tf.abs(tf.range(channels)[:, None] - tf.range(channels)[None])
    near = tf.cast(apart <= radius, x.dtype)
    norm = bias + alpha * tf.einsum("...c,cd->...d", x * x, near)
    inner = tf.einsum("...c,cd->...d", c * x * norm ** (-beta - 1), near)
    return c * norm**-beta - 2 * alpha * beta * x * inner


def _quantization_gradient(op: Any, *inputs: tf.Tensor) -> Any:
    """Each cotangent goes to the input within the range, to its ends outside."""
    c, x = inputs[:2]
    within, *ends = _quantization_masks(op, *inputs)
    if not ends:
        return c * within
    low, high = inputs[2:]
    axes = list(range(x.shape.rank - low.shape.rank))
    return (c * within, *(tf.reduce_sum(c * end, axes) for end in ends))


def _quantization_masks(op: Any, *inputs: tf.Tensor) -> list[tf.Tensor]:
    raw = getattr(tf.raw_ops, op.type)
    names = {"FakeQuantWithMinMaxArgsGradient": ("min", "max")}.get(op.type, ())
    options = {name: op.get_attr(name) for name in (*names, "num_bits", "narrow_range")}
    keys = ("gradients", "inputs", "min", "max")[: len(inputs)]
    ones = tf.ones_like(inputs[1])
    result = raw(**dict(zip(keys, (ones, *inputs[1:]))), **options)
    if len(inputs) == 2:
        return [result]
    within, x, low, high = result[0], *inputs[1:]
    below = (1 - within) * tf.cast(x < (low + high) / 2, x.dtype)
    return [within, below, 1 - within - below]


# Gradient operation -> the same function of its inputs, in operations with derivatives.
FORMULAS: dict[str, Callable] = {
    "SoftsignGrad": _softsign_gradient,
    "LRNGrad": _normalization_gradient,
    "FakeQuantWithMinMaxArgsGradient": _quantization_gradient,
    "FakeQuantWithMinMaxVarsGradient": _quantization_gradient,
    "FakeQuantWithMinMaxVarsPerChannelGradient": _quantization_gradient,
}


def _by_formula(formula: Callable) -> Callable:
    def derivative(op: Any, *g: tf.Tensor) -> list:
        inputs = list(op.inputs)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            outputs = formula(op, *inputs)
        return tape.gradient(outputs, inputs, g if len(g) > 1 else g[0])

    return derivative


def _refusal(name: str) -> Callable:
    def refuse(op: Any, *g: tf.Tensor) -> list:
        where = getattr(op.outputs[0], "name", "") if not tf.executing_eagerly() else ""
        raise NotImplementedError(
            f"the operation {name} {where} has no derivative in TensorFlow, so that no "
            "Jacobian-vector product goes through the layer that it is the gradient of: "
            'method="structured" and "jacobian" need none'
        )

    return refuse


def not_differentiable() -> list[str]:
    """The gradient operations that TensorFlow declares not differentiable, by its registry."""
    registry = borrowed.gradient_registry
    return [
        name
        for name in registry.list()
        if registry.lookup(name) is None and "Grad" in name and name not in _WITHOUT_COTANGENT
    ]


# StopGradient hides a tensor on purpose; the others handle shapes and handles.
_WITHOUT_COTANGENT = (
    "StopGradient",
    "BroadcastGradientArgs",
    "TensorArrayGrad",
    "TensorArrayGradV2",
    "TensorArrayGradV3",
    "TensorArrayGradWithShape",
)
_LOCK = threading.RLock()


@contextlib.contextmanager
def differentiable() -> Iterator[None]:
    """Within, every gradient operation has a right derivative or raises by name."""
    with _LOCK:
        table = borrowed.gradient_registry._registry
        entries: dict[str, Callable] = {n: _refusal(n) for n in not_differentiable()}
        entries |= {name: _by_formula(formula) for name, formula in FORMULAS.items()}
        entries |= TRANSPOSES
        before = {name: table.get(name) for name in entries}
        table.update({name: {"type": entry, "location": None} for name, entry in entries.items()})
        try:
            yield
        except LookupError as error:
            if "gradient registry" not in str(error) and "No gradient" not in str(error):
                raise
            raise NotImplementedError(
                f"an operation of the model has no derivative in TensorFlow: {error}"
            ) from error
        finally:
            for name, entry in before.items():
                if entry is None:
                    table.pop(name, None)
                else:
                    table[name] = entry
