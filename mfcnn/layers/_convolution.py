"""Convolutions whose output has the size of the input, for circular and zero padding.

`convolve` is differentiable to any order, and its gradient by the input costs what the forward
pass costs: in the first two of its forms it is a convolution with the flipped kernel.

    "library"  tf.nn.conv2d on the padded input
    "matmul"   one matrix product of the k x k neighbourhoods (im2col) and the kernel
    "dense"    one matrix product of the image and the matrix that the kernel makes of itself
               between all positions: for images of a few pixels, whose size is known
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn import arguments, borrowed

__all__ = ["FORMS", "PADDINGS", "convolve", "on_nonempty", "pad", "padding_name", "same_padding"]

FORMS = ("library", "matmul", "dense")
PADDINGS = ("circular", "same")

Pads = tuple[tuple[int, int], ...]


def padding_name(padding: Any, name: str = "padding") -> str:
    """One of `PADDINGS`, in any case, as in Keras's own layers."""
    lower = padding.lower() if isinstance(padding, str) else padding
    return arguments.choice(name, lower, PADDINGS)


def same_padding(size: int | None, window: int, stride: int = 1) -> tuple[int, int]:
    """Rows added before and after an axis so that the output has ceil(size / stride) of them.

    The split is that of 'SAME' padding: the odd row goes after. With stride 1 it does not depend
    on the size.
    """
    if stride == 1:
        total = window - 1
    else:
        assert size is not None
        total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def pad(x: tf.Tensor, padding: str, pads: Pads) -> tf.Tensor:
    """Pads height and width of x [b, h, w, c] by pads ((before, after), (before, after))."""
    if padding == "same":
        return tf.pad(x, [[0, 0], *map(list, pads), [0, 0]])
    for axis, (before, after) in zip((1, 2), pads):
        size = x.shape[axis]
        if not (before or after):
            continue
        if size is None:
            # Known only as the program runs: a remainder is right for windows of any size.
            rows = tf.math.floormod(tf.range(-before, tf.shape(x)[axis] + after), tf.shape(x)[axis])
            x = tf.gather(x, rows, axis=axis)
            continue
        _check_wrapping(size, (before, after))
        x = tf.concat(
            [_take(x, axis, size - before, before), x, _take(x, axis, 0, after)], axis=axis
        )
    return x


def _check_wrapping(size: int, pads: tuple[int, int]) -> None:
    if max(pads) > size:
        raise ValueError(
            "padding='circular' needs a window that wraps around the image at most once. "
            f"Received: an axis of size {size} to be padded by {pads}."
        )


def on_nonempty(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """function(x) for images x [b, h, w, c], an empty batch too.

    TensorFlow's convolutions on a CPU give an empty batch a result of the input's height, width and
    channels; so a batch that may be empty gets an image of zeros in that case, for as long as the
    function runs. XLA has no such fault.
    """
    if x.shape[0] or borrowed.compiled_by_xla():
        return function(x)
    count = tf.shape(x)[0]
    missing = tf.cast(tf.equal(count, 0), tf.int32)
    filled = tf.pad(x, [[0, missing], [0, 0], [0, 0], [0, 0]])
    if None in x.shape[1:]:
        filled.set_shape([None, *x.shape[1:]])
    else:  # an operation that TFLite has and that tells it the sizes
        filled = tf.reshape(filled, [-1, *x.shape[1:]])
    return function(filled)[:count]


def convolve(
    x: tf.Tensor,
    kernel: tf.Tensor,
    padding: str = "circular",
    form: str = "library",
    pads: Pads | None = None,
) -> tf.Tensor:
    """Convolution (cross-correlation) of stride 1 that keeps height and width.

    y[b, i, j, o] = sum_{u, v, c} x_padded[b, i + u, j + v, c] kernel[u, v, c, o].

    Args:
        x: [b, h, w, c_in].
        kernel: [k, k, c_in, c_out], of x's dtype.
        padding: "circular" or "same" (zeros).
        form: one of `FORMS`, see the module's heading.
        pads: rows added ((top, bottom), (left, right)); by default those of 'SAME'.

    Returns:
        [b, h, w, c_out].
    """
    around = pads or tuple(same_padding(x.shape[axis + 1], kernel.shape[axis]) for axis in (0, 1))

    if form == "dense":
        return _multiply(x, kernel, padding, around)

    @tf.custom_gradient
    def correlate(x, kernel):  # type: ignore[no-untyped-def]
        neighbours = _neighbourhoods(x, kernel.shape, padding, around) if form == "matmul" else None
        if form == "matmul":
            y = tf.matmul(neighbours, tf.reshape(kernel, [-1, kernel.shape[-1]]))
        else:
            y = tf.nn.conv2d(pad(x, padding, around), kernel, 1, "VALID")

        def gradient(d_y):  # type: ignore[no-untyped-def]
            return _convolve_gradient(x, kernel, d_y, padding, form, around)

        return y, gradient

    return correlate(x, kernel)


def _multiply(x: tf.Tensor, kernel: tf.Tensor, padding: str, pads: Pads) -> tf.Tensor:
    """The convolution as one matrix from all positions and channels to all of them."""
    height, width, channels = x.shape[1:]
    if None in (height, width):
        raise ValueError(
            "form='dense' needs a known height and width. "
            f"Received: an input of shape {tuple(x.shape)}"
        )
    positions, filters = height * width, kernel.shape[-1]
    chosen = tf.constant(_entries(height, width, kernel.shape[:2], padding, pads), kernel.dtype)
    window = chosen.shape[-1]
    blocks = tf.matmul(
        tf.reshape(chosen, [-1, window]), tf.reshape(kernel, [window, channels * filters])
    )
    blocks = tf.reshape(blocks, [positions, positions, channels, filters])
    matrix = tf.reshape(tf.transpose(blocks, [0, 2, 1, 3]), [positions * channels, -1])
    y = tf.matmul(tf.reshape(x, [-1, positions * channels]), matrix)
    return tf.reshape(y, [-1, height, width, filters])


def _entries(
    height: int, width: int, window: Sequence[int], padding: str, pads: Pads
) -> np.ndarray:
    """[from, to, entry]: how often an entry of the kernel leads from a position to another."""
    if padding == "circular":
        for size, around in zip((height, width), pads):
            _check_wrapping(size, around)
    (top, _), (left, _) = pads
    found = np.zeros([height, width, height, width, *window])
    for i, j, u, v in np.ndindex(height, width, *window):
        row, column = i + u - top, j + v - left
        if padding == "circular":
            row, column = row % height, column % width
        if 0 <= row < height and 0 <= column < width:
            found[row, column, i, j, u, v] += 1
    return found.reshape(height * width, height * width, -1)


def _convolve_gradient(
    x: tf.Tensor, kernel: tf.Tensor, d_y: tf.Tensor, padding: str, form: str, pads: Pads
) -> tuple[tf.Tensor, tf.Tensor]:
    flipped = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
    d_x = convolve(d_y, flipped, padding, form, tuple(p[::-1] for p in pads))
    if form == "matmul":
        neighbours = _neighbourhoods(x, kernel.shape, padding, pads)
        columns = tf.reshape(neighbours, [-1, neighbours.shape[-1]])
        rows = tf.reshape(d_y, [-1, d_y.shape[-1]])
        d_kernel = tf.reshape(tf.matmul(columns, rows, transpose_a=True), kernel.shape)
    else:
        d_kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=pad(x, padding, pads),
            filter_sizes=kernel.shape,
            out_backprop=d_y,
            strides=[1, 1, 1, 1],
            padding="VALID",
        )
    return d_x, d_kernel


def _neighbourhoods(
    x: tf.Tensor, kernel_shape: tf.TensorShape, padding: str, pads: Pads
) -> tf.Tensor:
    """[b, h, w, k * k * c]: for each position its k x k neighbours, in the kernel's order."""
    _, height, width, _ = _sizes(x)
    if kernel_shape[0] == kernel_shape[1] == 1:
        return x
    padded = pad(x, padding, pads)
    rows = [
        _take(_take(padded, 1, u, height), 2, v, width)
        for u in range(kernel_shape[0])
        for v in range(kernel_shape[1])
    ]
    return tf.concat(rows, axis=-1)


def _sizes(x: tf.Tensor) -> list[Any]:
    """The sizes of the axes: integers where they are known, else scalar tensors."""
    dynamic = tf.shape(x)
    return [dynamic[axis] if size is None else size for axis, size in enumerate(x.shape)]


def _take(x: tf.Tensor, axis: int, start: int, size: Any) -> tf.Tensor:
    begin, extent = [0] * 4, [-1] * 4
    begin[axis], extent[axis] = start, size
    return tf.slice(x, begin, extent)
