"""Products with the tangent kernel, its largest eigenvalue, effective ranks."""

import numpy as np
import scipy.sparse.linalg
import tensorflow as tf

from mfcnn.empirical import functional, kernel

__all__ = ["effective_rank", "feature_effective_rank", "lambda_max", "ntk_vector_product"]


def ntk_vector_product(model, x1, x2, vector, batch_size=None):
    """The product of the full kernel and a vector, without the kernel.

    result[i, a] = sum_{j, b} Theta[i, j, a, b] vector[j, b], as J(x1) (J(x2)^T vector).

    Args:
        model: a built Keras model, as for `mfcnn.empirical.ntk`.
        x1: inputs [n1, ...].
        x2: inputs [n2, ...]; None is x1.
        vector: [n2, k], or [n2] if k is 1.
        batch_size: examples at a time; None is all.

    Returns:
        [n1, k] in the dtype of the weights.

    Raises:
        TypeError, ValueError: for a bad model or input.
    """
    functional.check_model(model)
    x1 = functional.check_inputs(model, x1, "x1")
    x2 = x1 if x2 is None else functional.check_inputs(model, x2, "x2")
    return _Product(model, x1, x2, batch_size)(vector)


def lambda_max(model, x, batch_size=None, tolerance=1e-4, seed=0):
    """The largest eigenvalue of the full kernel [n k, n k] by Lanczos, without the kernel.

    Args:
        model: a built Keras model, as for `mfcnn.empirical.ntk`.
        x: inputs [n, ...].
        batch_size: examples at a time in a product; None is all.
        tolerance: relative accuracy; float32 models reach about 1e-6.
        seed: of the start vector.

    Returns:
        A float.

    Raises:
        TypeError, ValueError: for a bad model or input.
    """
    functional.check_model(model)
    x = functional.check_inputs(model, x, "x")
    product = _Product(model, x, x, batch_size)
    size = x.shape[0] * product.outputs
    if size == 1:
        return float(product(np.ones([1, 1])).numpy()[0, 0])
    # Lanczos knows no shorter type than float32.
    dtype = np.dtype("float64" if model.trainable_variables[0].dtype == "float64" else "float32")
    operator = scipy.sparse.linalg.LinearOperator(
        (size, size),
        matvec=lambda v: product(v.reshape(-1, product.outputs)).numpy().ravel().astype(dtype),
        dtype=dtype,
    )
    start = np.random.default_rng(seed).standard_normal(size).astype(operator.dtype)
    (value,) = scipy.sparse.linalg.eigsh(
        operator, 1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False
    )
    return float(value)


class _Product:
    """The kernel-vector product for fixed inputs, compiled once."""

    def __init__(self, model, x1, x2, batch_size):
        self.outputs = kernel.output_size(model, x1)
        self._model, self._x1, self._x2 = model, x1, x2
        self._size = batch_size or max(x1.shape[0], x2.shape[0])
        if self._size < 1:
            raise ValueError(f"batch_size must be at least 1. Received: {batch_size!r}")
        self._vjp = tf.function(self._vjp, autograph=False, reduce_retracing=True)
        self._jvp = tf.function(self._jvp, autograph=False, reduce_retracing=True)

    def _weights(self):
        return [tf.identity(v.value) for v in self._model.trainable_variables]

    def _vjp(self, x, cotangent):
        weights = self._weights()
        y = functional.evaluate(self._model, weights, x)
        functional.check_deterministic(y.graph)
        return functional.vjp(
            lambda values: functional.evaluate(self._model, values, x),
            weights,
            tf.cast(cotangent, y.dtype),
        )

    def _jvp(self, x, tangents):
        return functional.jvp(
            lambda values: functional.evaluate(self._model, values, x), self._weights(), tangents
        )

    def __call__(self, vector):
        dtype = self._model.trainable_variables[0].dtype
        vector = tf.cast(tf.convert_to_tensor(vector), dtype)
        if vector.shape.rank == 1 and self.outputs == 1:
            vector = vector[:, None]
        if vector.shape != (self._x2.shape[0], self.outputs):
            raise ValueError(
                f"vector must be [n2, k] = [{self._x2.shape[0]}, {self.outputs}]. "
                f"Received: shape={vector.shape}"
            )
        total = None
        for start in range(0, self._x2.shape[0], self._size):
            part = slice(start, start + self._size)
            product = self._vjp(self._x2[part], vector[part])
            total = product if total is None else [t + p for t, p in zip(total, product)]
        parts = [
            self._jvp(self._x1[start : start + self._size], total)
            for start in range(0, self._x1.shape[0], self._size)
        ]
        return tf.cast(tf.concat(parts, 0), dtype)


def effective_rank(matrix, gram=False):
    """The effective rank of a matrix: exp of the entropy of its normalized singular values.

    erank(A) = exp(-sum_i p_i log p_i), p_i = s_i / sum_j s_j, between 1 and the rank of A.

    Args:
        matrix: A [n, p]; or with `gram` the symmetric A A^T [n, n], such as a tangent kernel,
            whose eigenvalues are the s_i^2. Give a Gram matrix in float64: rounding at eps
            lambda_max shows in the singular values as sqrt(eps) s_max.
        gram: whether `matrix` is A A^T and the effective rank that of A.

    Returns:
        A float.

    Raises:
        TypeError: for another dtype than float32 and float64.
        ValueError: for a matrix that is not finite, not two-dimensional, zero, or with `gram` not
            symmetric.

    Source: Roy and Vetterli 2007, definition 1; linearization paper, Figure 5.
    """
    matrix = np.asarray(matrix)
    if matrix.dtype.kind in "iu":
        matrix = matrix.astype(np.float64)
    if matrix.dtype not in (np.float32, np.float64):
        raise TypeError(f"matrix must be float32 or float64. Received: dtype={matrix.dtype}")
    if matrix.ndim != 2 or not matrix.size or not np.all(np.isfinite(matrix)):
        raise ValueError(f"matrix must be a finite matrix [n, p]. Received: shape={matrix.shape}")
    if gram:
        scale = np.max(np.abs(matrix))
        if matrix.shape[0] != matrix.shape[1] or np.any(np.abs(matrix - matrix.T) > 1e-4 * scale):
            raise ValueError(
                f"a Gram matrix must be square and symmetric. Received: shape={matrix.shape}"
            )
        eigenvalues = np.linalg.eigvalsh(matrix.astype(np.float64))
        # Below this an eigenvalue is rounding, of which half is negative.
        noise = np.finfo(matrix.dtype).eps * len(matrix) * eigenvalues[-1]
        singular = np.sqrt(np.where(eigenvalues > noise, eigenvalues, 0.0))
    else:
        singular = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    total = np.sum(singular)
    if not total > 0:
        raise ValueError("matrix must not be zero: its effective rank is not defined")
    p = singular[singular > 0] / total
    return float(np.exp(-np.sum(p * np.log(p))))


def feature_effective_rank(model, x, **options):
    """The effective rank of the features grad_w f_l(w, x_i), a matrix [n k, p] never formed.

    Args:
        model: a built Keras model, best in float64, see `effective_rank`.
        x: inputs [n, ...].
        **options: for `mfcnn.empirical.ntk`.

    Returns:
        A float, at most n k.
    """
    theta = kernel.ntk(model, x, outputs="full", **options).numpy()
    n, _, k, _ = theta.shape
    return effective_rank(theta.transpose(0, 2, 1, 3).reshape(n * k, n * k), gram=True)
