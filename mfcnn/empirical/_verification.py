"""Every route of an analysis against a plain vector-Jacobian product, on random directions.

A route is checked once for each model, trace and block size, at the cost of a step or two: for
weights m[i] of the examples and a direction c of the outputs, both random, the gradient of
sum_i m[i] c . f(x_i) by each weight must be the plain one. So it must also be that of the examples
one by one: a layer that mixes them shows.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from mfcnn.empirical import _inputs, _programs, _traces

__all__ = ["check_products", "wrong_weights"]


def wrong_weights(
    model: keras.Model, trace: _traces.Trace, features: _programs.Features, x: Any
) -> list[int]:
    """Indices of the weights whose gradient by the features is not the plain one."""
    m, c = _directions(trace, x, model)
    found = [np.ravel(g) for g in features.gradient(x, c[None], m)]
    return _differing(found, _plain(model, trace, x, m[:, None] * c), model)


def check_products(
    model: keras.Model, trace: _traces.Trace, products: _programs.Products, x: Any
) -> None:
    """Raises NotImplementedError where <u, J v> is not <J^T u, v> for random u and v.

    Each weight's part of v is scaled by its part of J^T u, so that all count alike.
    """
    m, c = _directions(trace, x, model)
    u = m[:, None] * c
    plain = _plain(model, trace, x, u)
    norms = np.array([np.linalg.norm(g) for g in plain])
    floor = max(1e-3 * norms.max(initial=0.0), np.finfo(np.float32).tiny)
    rng, dtype = np.random.default_rng(2), model.trainable_variables[0].dtype
    directions = [
        (rng.standard_normal(g.shape) / max(norm, floor)).astype(np.float32)
        for g, norm in zip(plain, norms)
    ]
    tangents = [
        _cast(v.reshape(tuple(w.shape)), dtype)
        for v, w in zip(directions, model.trainable_variables)
    ]
    product = np.asarray(products.jvp(x, tangents), np.float64)
    expected = sum(float(g @ np.asarray(v, np.float64)) for g, v in zip(plain, directions))
    error = abs(float(np.sum(product * np.asarray(u, np.float64))) - expected)
    # Of each weight a random sign: the errors of rounding add like the root of their number.
    if not error <= _tolerance(model) * np.sqrt(len(plain)):
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
    """Of relative errors: rounding of long sums of both signs, about ten roots of eps."""
    names = {model.compute_dtype, model.trainable_variables[0].dtype}
    eps = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
    return 10 * max(eps.get(name, 2.0**-7) for name in names) ** 0.5


def _differing(
    found: Sequence[np.ndarray], plain: Sequence[np.ndarray], model: keras.Model
) -> list[int]:
    norms = np.array([np.linalg.norm(g) for g in plain])
    if not np.all(np.isfinite(norms)):
        raise ValueError("the model's gradients are not finite for these inputs")
    floor = 1e-3 * norms.max(initial=0.0)
    return [
        i
        for i, (mine, gradient) in enumerate(zip(found, plain))
        if not np.linalg.norm(np.asarray(mine, np.float64) - gradient)
        <= _tolerance(model) * (norms[i] + floor)
    ]
