"""Singular values of the input-output Jacobian of a Keras model, measured at an input."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.sparse import linalg

from mfcnn import arguments

__all__ = ["jacobian_singular_values"]


def jacobian_singular_values(
    model: Callable[..., tf.Tensor],
    x: Any,
    count: int | None = None,
    max_bytes: int = 2**30,
    batch_size: int = 64,
    seed: int = 0,
) -> np.ndarray:
    """Singular values of d model(x) / d x at one input.

    Exact, by the full matrix and its SVD, when that takes at most `max_bytes`; else the `count`
    largest by Lanczos bidiagonalization (`scipy.sparse.linalg.svds`) on Jacobian-vector and
    vector-Jacobian products. The Jacobian-vector product is the transpose's gradient, which is
    linear: it needs no forward mode, so that every differentiable model serves.

    Args:
        model: a callable on a batch, such as a `keras.Model`; it runs in inference mode.
        x: one input without the batch axis.
        count: how many of the largest to compute; None means all, which needs the full matrix.
        max_bytes: the largest matrix to form, in bytes at 8 per entry.
        batch_size: rows of the Jacobian computed at once.
        seed: of the start vector of the iteration.

    Returns:
        float64, in descending order: min(inputs, outputs) values, or `count` of them.

    Raises:
        ValueError: if all are asked for and the matrix is too large, or count is out of range.

    Example:
        >>> import mfcnn, tensorflow as tf
        >>> mfcnn.empirical.jacobian_singular_values(lambda x: 2 * x, tf.ones([3])).tolist()
        [2.0, 2.0, 2.0]

    Source: CNN paper, section 2.2.1.
    """
    count = None if count is None else arguments.integer("count", count)
    max_bytes = arguments.integer("max_bytes", max_bytes, 0)
    batch_size = arguments.integer("batch_size", batch_size, 1)
    seed = arguments.integer("seed", seed, 0)
    if not callable(model):
        raise arguments.ArgumentTypeError(
            f"model must be a keras.Model or a function of a batch. Received: model={model!r}"
        )
    if not tf.is_tensor(x):
        x = np.asarray(x)
        arguments.array("x", x)
    x = tf.convert_to_tensor(x)
    expected = getattr(model, "input_shape", None)
    if isinstance(expected, tuple) and not x.shape.is_compatible_with(expected[1:]):
        raise ValueError(
            f"x must be one input of shape {expected[1:]}. Received: x.shape={tuple(x.shape)}"
        )
    if not x.dtype.is_floating:
        x = tf.cast(x, keras.config.floatx())  # integers, as images have, have no derivative
    outputs = int(np.prod(_call(model, x[None]).shape[1:]))
    inputs = int(np.prod(x.shape))
    rank = min(inputs, outputs)
    if count is not None and not 1 <= count <= rank:
        raise ValueError(f"count must lie between 1 and {rank}. Received: count={count}")
    fits = 8 * inputs * outputs <= max_bytes
    if fits:
        matrix = _full(model, x, outputs, batch_size)
        return np.linalg.svd(matrix, compute_uv=False)[: count or rank]
    if count is None:
        raise ValueError(
            f"The Jacobian, {outputs} x {inputs}, takes over max_bytes={max_bytes}: give count, "
            "the number of largest singular values."
        )
    if count >= rank:
        raise ValueError(f"Without the full matrix count must be below {rank}. Received: {count}")
    start = np.random.default_rng(seed).standard_normal(rank)
    values = linalg.svds(
        _operator(model, x, outputs), k=count, v0=start, return_singular_vectors=False
    )
    return np.sort(np.asarray(values, np.float64))[::-1]


def _call(model: Callable[..., tf.Tensor], batch: tf.Tensor) -> tf.Tensor:
    try:
        return model(batch, training=False)
    except TypeError:  # a plain function
        return model(batch)


def _like(cotangent: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The cotangent in the shape and dtype of the output: Keras computes in its own dtype."""
    return tf.cast(tf.reshape(cotangent, tf.shape(y)), y.dtype)


def _full(
    model: Callable[..., tf.Tensor], x: tf.Tensor, outputs: int, batch_size: int
) -> np.ndarray:
    @tf.function(autograph=False)
    def rows(cotangents: tf.Tensor) -> tf.Tensor:
        batch = tf.repeat(x[None], tf.shape(cotangents)[0], axis=0)
        with tf.GradientTape() as tape:
            tape.watch(batch)
            y = _call(model, batch)
        return tape.gradient(y, batch, output_gradients=_like(cotangents, y))

    blocks = []
    for i in range(0, outputs, batch_size):
        block = np.zeros((batch_size, outputs))  # of one shape, so that it compiles once
        size = min(batch_size, outputs - i)
        block[np.arange(size), i + np.arange(size)] = 1.0
        gradient = rows(tf.constant(block, x.dtype)).numpy()[:size]
        blocks.append(gradient.reshape(size, -1).astype(np.float64))
    return np.concatenate(blocks)


def _operator(model: Callable[..., tf.Tensor], x: tf.Tensor, outputs: int) -> linalg.LinearOperator:
    inputs = int(np.prod(x.shape))

    def transposed(cotangent: tf.Tensor) -> tf.Tensor:
        batch = x[None]
        with tf.GradientTape() as tape:
            tape.watch(batch)
            y = _call(model, batch)
        return tape.gradient(y, batch, output_gradients=_like(cotangent, y))

    @tf.function(autograph=False)
    def vjp(cotangent: tf.Tensor) -> tf.Tensor:
        return tf.reshape(transposed(cotangent), [-1])

    @tf.function(autograph=False)
    def jvp(tangent: tf.Tensor) -> tf.Tensor:
        dummy = tf.zeros([outputs], x.dtype)
        with tf.GradientTape() as tape:
            tape.watch(dummy)
            pulled = tf.reshape(transposed(dummy), [-1])
        return tf.reshape(tape.gradient(pulled, dummy, output_gradients=tangent), [-1])

    def wrap(product: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda v: product(tf.constant(np.ravel(v), x.dtype)).numpy().astype(np.float64)

    return linalg.LinearOperator(
        (outputs, inputs), matvec=wrap(jvp), rmatvec=wrap(vjp), dtype=float
    )
