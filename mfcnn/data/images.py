"""From stored images to pixels, and the statistics of these."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mfcnn.data.sources import Source

__all__ = ["as_tensor", "decoder", "moved", "statistics"]

_FILE_SIDE = 224  # what encoded files, which have no common size, become unless asked otherwise


def decoder(
    source: Source, resize: int | None
) -> tuple[Callable[[tf.Tensor], tf.Tensor], tuple[int, int, int]]:
    """How a source's stored images become float32 pixels in [0, 1].

    Args:
        source: a `sources.Source`.
        resize: side of the result in pixels, or None.

    Returns:
        (function from [b, ...] as stored to float32 [b, h, w, c], (h, w, c)).
    """
    stored = source.train.images
    if stored.dtype == object:
        side = resize or _FILE_SIDE
        spec = tf.TensorSpec((side, side, 3), tf.float32)
        return lambda files: tf.map_fn(
            lambda file: _decode_file(file, side), files, fn_output_signature=spec
        ), (side, side, 3)
    height, width, channels = stored.shape[1:]
    unit = 1 / source.scale
    if resize in (None, height) and resize in (None, width):
        return lambda pixels: tf.cast(pixels, tf.float32) * unit, (height, width, channels)

    def decode(pixels: tf.Tensor) -> tf.Tensor:
        square = _central_square(tf.cast(pixels, tf.float32) * unit)
        return tf.image.resize(square, (resize, resize), antialias=True)

    return decode, (resize, resize, channels)


def _decode_file(file: tf.Tensor, side: int) -> tf.Tensor:
    pixels = tf.io.decode_image(file, channels=3, expand_animations=False)
    pixels.set_shape((None, None, 3))
    square = _central_square(tf.cast(pixels, tf.float32) * (1 / 255))
    return tf.image.resize(square, (side, side), antialias=True)


def _central_square(images: tf.Tensor) -> tf.Tensor:
    shape = tf.shape(images)[-3:-1]
    side = tf.reduce_min(shape)
    top, left = tf.unstack((shape - side) // 2)
    return images[..., top : top + side, left : left + side, :]


def statistics(
    images: np.ndarray, decode: Callable[[tf.Tensor], tf.Tensor], channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Per channel mean and standard deviation over all pixels of all images, in one pass.

    Args:
        images: as stored, [n, ...].
        decode: what `decoder` gives.
        channels: number of channels.

    Returns:
        (mean, standard deviation), float64 [channels]; the latter 1 for a constant channel.
    """

    def moments(batch: tf.Tensor) -> tf.Tensor:
        pixels = tf.cast(decode(batch), tf.float64)
        pixels = tf.reshape(pixels, [-1, channels])
        means = tf.stack([tf.reduce_mean(pixels**power, axis=0) for power in (1, 2)])
        return means * tf.cast(tf.shape(batch)[0], tf.float64)

    batches = tf.data.Dataset.from_tensor_slices(as_tensor(images)).batch(500)
    totals = batches.map(moments, num_parallel_calls=tf.data.AUTOTUNE)
    totals = totals.reduce(tf.zeros((2, channels), tf.float64), lambda total, more: total + more)
    mean, square = totals.numpy() / len(images)
    variance = square - mean**2
    # Rounding alone leaves about 1e-16; eight-bit pixels that vary leave far more.
    return mean, np.sqrt(np.where(variance > 1e-12, variance, 1.0))


def as_tensor(array: np.ndarray) -> tf.Tensor:
    """A NumPy array, of numbers or of encoded files, as a tensor in host memory."""
    with tf.device("/CPU:0"):  # tf.data reads host memory
        return tf.constant(list(array) if array.dtype == object else array)


def moved(images: tf.Tensor, moves: tf.Tensor | None = None) -> tf.Tensor:
    """Images [b, h, w, c] moved down and right by moves, int32 [b, 2]; zeros come in."""
    if moves is None:
        return images
    for axis in (1, 2):
        size = images.shape[axis]
        source = tf.range(size) - moves[:, axis - 1, tf.newaxis]
        inside = tf.logical_and(source >= 0, source < size)
        images = tf.gather(images, tf.clip_by_value(source, 0, size - 1), axis=axis, batch_dims=1)
        shape = [-1, size, 1, 1] if axis == 1 else [-1, 1, size, 1]
        images *= tf.reshape(tf.cast(inside, images.dtype), shape)
    return images
