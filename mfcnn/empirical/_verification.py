"""Every route of an analysis against a plain vector-Jacobian product, on random directions.

A route is checked once for each model, trace and block size, at the cost of a step or two: for
weights m[i] of the examples and a direction c of the outputs, both random, the gradient of
sum_i m[i] c . f(x_i) by each weight must be the plain one. So it must also be that of the examples
one by one: a layer that mixes them shows.
"""

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn.empirical import _functional, _inputs, _programs, _traces

__all__ = ["apart", "check_linearization", "check_products", "wrong_weights"]


def wrong_weights(
    model: keras.Model, trace: _traces.Trace, features: _programs.Features, x: Any
) -> list[int]:
    """Indices of the weights whose gradient by the features is not the plain one."""
    m, c = _directions(trace, x, model)
    found = [np.ravel(g) for g in features.gradient(x, c[None], m)]
    plain = _plain(model, trace, x, m[:, None] * c)
    return _differing(found, plain, _tolerance(model))


def check_products(
    model: keras.Model, trace: _traces.Trace, products: _programs.Products, x: Any
) -> None:
    """Raises NotImplementedError where <u, J v> is not <J^T u, v> for random u and v.

    Nor is there a kernel where an example's gradient depends on the others in the batch.
    """
    m, c = _directions(trace, x, model)
    u = m[:, None] * c
    plain = _plain(model, trace, x, u)
    if len(u) > 1:
        first = np.where(np.arange(len(u)) == 0, 1, 0).astype(u.dtype)[:, None] * u
        alone = _plain(model, trace, _inputs.take(x, [0]), u[:1])
        if _differing(alone, _plain(model, trace, x, first), _tolerance(model)):
            raise NotImplementedError(
                "a layer of the model mixes the examples of a batch, so that it has no kernel of "
                "pairs of examples. verify=False goes on"
            )
    variables, dtype = model.trainable_variables, model.trainable_variables[0].dtype
    tangents = [_cast(v, dtype) for v in _tangents(plain, [tuple(w.shape) for w in variables])]
    _compare(plain, tangents, u, products.jvp(x, tangents), _tolerance(model))


def check_linearization(
    function: Callable[[Sequence[tf.Tensor]], tf.Tensor],
    values: Callable[[], list[tf.Tensor]],
    dtypes: set[str],
) -> None:
    """The same for a function of weights, and that a tape finds J^T u again, as training does.

    Args:
        function: from weights to outputs.
        values: makes the weights as tensors.
        dtypes: of the weights and of the computation.

    Raises:
        NotImplementedError: where the products are not each other's transpose.
    """
    compiled = tf.function(lambda v: function(v), autograph=False)
    shape = compiled(values()).shape
    u = np.random.default_rng(1).standard_normal(shape).astype(np.float32)

    @tf.function(autograph=False)
    def plain(u: tf.Tensor) -> list[tf.Tensor]:
        start = values()
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(start)
            y = function(start)
        seed = tf.cast(u, y.dtype)
        gradients = tape.gradient(y, start, seed, unconnected_gradients="zero")
        return [tf.convert_to_tensor(g) for g in gradients]

    @tf.function(autograph=False)
    def product(tangents: list[tf.Tensor]) -> tf.Tensor:
        return _functional.jvp(function, values(), tangents)

    tolerance = _tolerance_of(dtypes)
    expected = [np.ravel(np.asarray(g, np.float64)) for g in plain(u)]
    start = values()
    shapes = [tuple(v.shape) for v in start]
    tangents = [tf.cast(t, v.dtype) for t, v in zip(_tangents(expected, shapes), start)]
    _compare(expected, tangents, u, product(tangents), tolerance)

    @tf.function(autograph=False)
    def transposed(u: tf.Tensor, tangents: list[tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tangents)
            y = product(tangents)
        seed = tf.cast(u, y.dtype)
        gradients = tape.gradient(y, tangents, seed, unconnected_gradients="zero")
        return [tf.convert_to_tensor(g) for g in gradients]

    try:
        found = [np.ravel(np.asarray(g, np.float64)) for g in transposed(u, tangents)]
    except LookupError as error:
        raise NotImplementedError(
            f"the linearized model cannot be trained: {error}. verify=False goes on"
        ) from error
    if _differing(found, expected, tolerance):
        raise NotImplementedError(
            "a tape does not find the gradient of the linearized model: a layer has a custom "
            "gradient that cannot be differentiated three times. verify=False goes on"
        )


def apart(function: Callable[[], None]) -> None:
    """Runs a check in a thread of its own: outside of the graph and of all tapes of the caller.

    `tf.init_scope` leaves the graph too, but stops every tape, also those of the check.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        executor.submit(function).result()


def _tangents(plain: list[np.ndarray], shapes: list[tuple]) -> list[np.ndarray]:
    """Random directions of the weights, each scaled by its gradient so that all count alike."""
    norms = np.array([np.linalg.norm(g) for g in plain])
    if not np.all(np.isfinite(norms)):
        raise ValueError("the model's gradients are not finite for these inputs")
    floor = max(1e-3 * norms.max(initial=0.0), np.finfo(np.float32).tiny)
    rng = np.random.default_rng(2)
    return [
        (rng.standard_normal(shape) / max(norm, floor)).astype(np.float32)
        for shape, norm in zip(shapes, norms)
    ]


def _compare(
    plain: list[np.ndarray], tangents: list[Any], u: np.ndarray, product: Any, tolerance: float
) -> None:
    expected = sum(float(g @ np.ravel(np.asarray(v, np.float64))) for g, v in zip(plain, tangents))
    error = abs(
        float(np.sum(np.asarray(product, np.float64) * np.asarray(u, np.float64))) - expected
    )
    # Of each weight a random sign: the errors of rounding add like the root of their number.
    if not error <= tolerance * np.sqrt(len(plain)):
        raise NotImplementedError(
            "the Jacobian-vector product of the model is not the transpose of its vector-Jacobian "
            f"product (off by {error:.1e} of each weight's part): a layer has a custom gradient or "
            "an operation that cannot be differentiated twice. "
            'method="structured" and "jacobian" need none; verify=False goes on'
        )


def _cast(value: np.ndarray, dtype: str) -> Any:
    return keras.ops.cast(keras.ops.convert_to_tensor(value), dtype)


def _directions(trace: _traces.Trace, x: Any, model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    dtype = model.trainable_variables[0].dtype
    m = rng.standard_normal(_inputs.length(x)), rng.standard_normal(trace.outputs)
    first, second = (np.asarray(_cast(v.astype(np.float32), dtype)) for v in m)
    return first, second


def _plain(
    model: keras.Model, trace: _traces.Trace, x: Any, cotangent: np.ndarray
) -> list[np.ndarray]:
    key = "vjp", _inputs.length(x)
    plain = trace.program(key, lambda: _programs.Products(model, "full", trace.outputs))
    return [np.ravel(np.asarray(g, np.float64)) for g in plain.vjp(x, cotangent)]


def _tolerance(model: keras.Model) -> float:
    return _tolerance_of({model.compute_dtype, model.trainable_variables[0].dtype})


def _tolerance_of(names: set[str]) -> float:
    """Of relative errors: rounding of long sums of both signs, about ten roots of eps."""
    eps = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
    return 10 * max(eps.get(name, 2.0**-7) for name in names) ** 0.5


def _differing(
    found: Sequence[np.ndarray], plain: Sequence[np.ndarray], tolerance: float
) -> list[int]:
    norms = np.array([np.linalg.norm(g) for g in plain])
    if not np.all(np.isfinite(norms)):
        raise ValueError("the model's gradients are not finite for these inputs")
    floor = 1e-3 * norms.max(initial=0.0)
    return [
        i
        for i, (mine, gradient) in enumerate(zip(found, plain))
        if not np.linalg.norm(np.asarray(mine, np.float64) - gradient)
        <= tolerance * (norms[i] + floor)
    ]
