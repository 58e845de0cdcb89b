"""Products with the tangent kernel and its largest eigenvalue, without the kernel."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments, numerics
from mfcnn.empirical import _inputs, _programs, _tangent_kernel

__all__ = ["lambda_max", "ntk_vector_product"]

_LANCZOS_STEPS = 500


def ntk_vector_product(
    model: keras.Model,
    x1: Any,
    x2: Any,
    vector: Any,
    batch_size: int | None = None,
    verify: bool = True,
) -> tf.Tensor:
    """The product of the full kernel and a vector, without the kernel.

    result[i, a] = sum_{j, b} Theta[i, j, a, b] vector[j, b], as J(x1) (J(x2)^T vector).

    Args:
        model: a built Keras model, as for `mfcnn.empirical.ntk`.
        x1: inputs [n1, ...].
        x2: inputs [n2, ...]; None is x1.
        vector: [n2, k], or [n2] if k is 1.
        batch_size: examples at a time; None is all.
        verify: whether the product is checked against a plain vector-Jacobian product, once for
            each model and shape of inputs.

    Returns:
        [n1, k] in the dtype of the weights.

    Raises:
        TypeError: as `mfcnn.empirical.ntk`.
        ValueError: as `mfcnn.empirical.ntk`, and for a vector of another shape.
        NotImplementedError: where a layer allows no Jacobian-vector product.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> x = np.eye(3)[:2]
        >>> mfcnn.empirical.ntk_vector_product(model, x, None, [1.0, 0.0]).numpy()
        array([[2.],
               [1.]], dtype=float32)
    """
    x1, x2 = _tangent_kernel._check(model, x1, x2)
    product = _Product(model, x1, x1 if x2 is None else x2, batch_size, verify)
    vector = tf.constant(arguments.array("vector", vector), product.dtype)
    if vector.shape.rank == 1 and product.outputs == 1:
        vector = vector[:, None]
    expected = (_inputs.length(x1 if x2 is None else x2), product.outputs)
    if tuple(vector.shape) != expected:
        raise ValueError(
            f"vector must be [n2, k] = {list(expected)}. Received: vector.shape={vector.shape}"
        )
    return _tangent_kernel._without_gradient(model, x1, product(vector))


def lambda_max(
    model: keras.Model,
    x: Any,
    batch_size: int | None = None,
    tolerance: float = 1e-4,
    seed: int = 0,
    verify: bool = True,
) -> float:
    """The largest eigenvalue of the full kernel [n k, n k] by Lanczos steps, without the kernel.

    Args:
        model: a built Keras model, as for `mfcnn.empirical.ntk`.
        x: inputs [n, ...].
        batch_size: examples at a time in a product; None is all.
        tolerance: relative accuracy; float32 models reach about 1e-6.
        seed: of the start vector.
        verify: as for `ntk_vector_product`.

    Returns:
        A float.

    Raises:
        TypeError: as `mfcnn.empirical.ntk`.
        ValueError: as `mfcnn.empirical.ntk`, and for empty inputs.
        NotImplementedError: where a layer allows no Jacobian-vector product.
        ArithmeticError: where the kernel is not finite.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> round(mfcnn.empirical.lambda_max(model, np.eye(3)), 4)  # of 1 + the all-ones matrix
        4.0

    Source: NTK paper, section 3.1.
    """
    x, _ = _tangent_kernel._check(model, x, None, name="x")
    tolerance = arguments.number("tolerance", tolerance, above=0, below=1)
    rng = np.random.default_rng(arguments.integer("seed", seed, 0))
    product = _Product(model, x, x, batch_size, verify)
    if not _inputs.length(x):
        raise ValueError("x must hold at least one input: an empty kernel has no eigenvalue")
    shape = _inputs.length(x), product.outputs

    def of_flat(v: np.ndarray) -> np.ndarray:
        return tf.cast(product(tf.constant(v.reshape(shape), product.dtype)), tf.float64).numpy()

    start = rng.standard_normal(shape[0] * shape[1])
    value, error = numerics.largest_eigenvalue(of_flat, start, _LANCZOS_STEPS, tolerance)
    if not np.isfinite(value):
        raise ArithmeticError("the kernel is not finite for these weights and inputs")
    del error
    return value


class _Product:
    """The kernel-vector product for fixed inputs, compiled once for each model and shape."""

    def __init__(self, model: keras.Model, x1: Any, x2: Any, batch_size: Any, verify: Any):
        work = _tangent_kernel._Kernel(model, x1, x2, "full", False)
        self.outputs, self._x1, self._x2 = work.trace.outputs, x1, x2
        self.dtype = tf.as_dtype(model.trainable_variables[0].dtype)
        self._weights = [v.shape for v in model.trainable_variables]
        size = max(*work.shape, 1)
        if batch_size is not None:
            size = arguments.integer("batch_size", batch_size, 1)
        self._rows = numerics.equal_parts(work.shape[0], size)
        self._columns = numerics.equal_parts(work.shape[1], size)
        self._program = work.trace.program(
            ("products", "full", False),
            lambda: _programs.Products(model, "full", work.trace.outputs),
        )
        if arguments.boolean("verify", verify) and self._rows and self._columns:
            work.verify_products(_inputs.take(x1, self._rows[0][0]))

    def __call__(self, vector: tf.Tensor) -> tf.Tensor:
        total = [tf.zeros(shape, self.dtype) for shape in self._weights]
        for indices, valid in self._columns:
            inside = tf.cast(np.arange(len(indices)) < valid, self.dtype)[:, None]
            part = tf.gather(vector, indices) * inside
            product = self._program.vjp(_inputs.take(self._x2, indices), part)
            total = [t + p for t, p in zip(total, product)]
        parts = [
            self._program.jvp(_inputs.take(self._x1, indices), total)[:valid]
            for indices, valid in self._rows
        ]
        return tf.concat(parts, 0) if parts else tf.zeros([0, self.outputs], self.dtype)
