"""Derivatives of gradient operations by their cotangent, where TensorFlow has none.

A Jacobian-vector product is the transpose of a vector-Jacobian product, so it differentiates the
gradient operations. TensorFlow declares some of them not differentiable, and a tape then drops
their path without a word; others have no entry at all. Within `differentiable` each of the first
kind has the right derivative or raises by name, and the second kind has one where it is known (an
operation without an entry raises a LookupError by itself).

The gradient of a linear operation (resizing, cropping) is its transpose, whose own transpose is
the operation. The others are written out in operations that TensorFlow differentiates.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from mfcnn import borrowed

__all__ = ["FORMULAS", "GRADIENTS", "TRANSPOSES", "differentiable", "not_differentiable"]


def _resize(operation: Callable) -> Callable:
    """Of the gradient of a resizing, whose first input has the resized shape."""

    def transpose(op: Any, g: tf.Tensor) -> list:
        return [operation(images=g, size=tf.shape(op.inputs[0])[1:3], **_resizing(op)), None]

    return transpose


def _resizing(op: Any) -> dict[str, Any]:
    return {name: op.get_attr(name) for name in ("align_corners", "half_pixel_centers")}


def _bilinear_gradient(op: Any, c: tf.Tensor) -> list:
    """The gradient of a bilinear resizing, in a form whose own gradient is that resizing."""
    image, options, size = op.inputs[0], _resizing(op), tf.shape(c)[1:3]

    @tf.custom_gradient
    def transpose(c: tf.Tensor) -> tuple:
        result = tf.raw_ops.ResizeBilinearGrad(grads=c, original_image=image, **options)
        return result, lambda g: tf.raw_ops.ResizeBilinear(images=g, size=size, **options)

    return [transpose(tf.cast(c, tf.float32)), None]


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


def _quantization_gradient(op: Any, c: tf.Tensor) -> Any:
    """Each cotangent goes to the input within the range, to its ends outside."""
    options = {name: op.get_attr(name) for name in ("num_bits", "narrow_range")}
    x, ends = op.inputs[0], list(op.inputs)[1:]
    ones = tf.ones_like(x)
    if not ends:
        options |= {name: op.get_attr(name) for name in ("min", "max")}
        return c * tf.raw_ops.FakeQuantWithMinMaxArgsGradient(gradients=ones, inputs=x, **options)
    low, high = ends
    raw = getattr(tf.raw_ops, f"{op.type}Gradient")
    within = raw(gradients=ones, inputs=x, min=low, max=high, **options)[0]
    below = (1 - within) * tf.cast(x < (low + high) / 2, x.dtype)
    axes = list(range(x.shape.rank - low.shape.rank))
    above = 1 - within - below
    return [c * within, tf.reduce_sum(c * below, axes), tf.reduce_sum(c * above, axes)]


# Operation -> its gradient in operations with derivatives, in place of an operation without: of a
# gradient operation that is declared not differentiable a tape does not even keep the inputs.
GRADIENTS: dict[str, Callable] = {
    "ResizeBilinear": _bilinear_gradient,
    "FakeQuantWithMinMaxArgs": _quantization_gradient,
    "FakeQuantWithMinMaxVars": _quantization_gradient,
    "FakeQuantWithMinMaxVarsPerChannel": _quantization_gradient,
}
# Gradient operation -> the same function of its inputs, in operations with derivatives.
FORMULAS: dict[str, Callable] = {
    "SoftsignGrad": _softsign_gradient,
    "LRNGrad": _normalization_gradient,
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
        raise NotImplementedError(
            f"the operation {name} has no derivative in TensorFlow, so that no "
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
_LOCK = threading.Lock()
_BEFORE: list[dict[str, Any]] = []  # One entry for each context that is open.


@contextlib.contextmanager
def differentiable() -> Iterator[None]:
    """Within, every gradient operation has a right derivative or raises by name."""
    with _LOCK:
        _BEFORE.append(_install() if not _BEFORE else {})
    try:
        yield
    except LookupError as error:
        if "gradient registry" not in str(error) and "No gradient" not in str(error):
            raise
        raise NotImplementedError(
            f"an operation of the model has no derivative in TensorFlow: {error}"
        ) from error
    finally:
        with _LOCK:
            if len(_BEFORE) == 1:
                _restore(_BEFORE[0])
                _BEFORE.clear()
            else:
                _BEFORE.pop()


def _install() -> dict[str, Any]:
    """Puts the entries in, and returns those that were there."""
    table = borrowed.gradient_registry._registry
    entries: dict[str, Callable] = {name: _refusal(name) for name in not_differentiable()}
    entries |= {name: _by_formula(formula) for name, formula in FORMULAS.items()}
    entries |= TRANSPOSES | GRADIENTS
    before = {name: table.get(name) for name in entries}
    table.update({name: {"type": entry, "location": None} for name, entry in entries.items()})
    return before


def _restore(before: dict[str, Any]) -> None:
    table = borrowed.gradient_registry._registry
    for name, entry in before.items():
        if entry is None:
            table.pop(name, None)
        else:
            table[name] = entry
