"""Kernels of networks of finite width: of one, and their mean over initializations."""

import collections
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments
from mfcnn.empirical import _copies, _inputs, _tangent_kernel, _traces

__all__ = ["Estimate", "monte_carlo_kernel", "nngp"]

_GET = ("nngp", "ntk")
_CHUNK = 512


class Estimate(NamedTuple):
    """A mean over draws.

    Attributes:
        mean: float64 [n1, n2].
        error: its standard error, float64 [n1, n2].
    """

    mean: np.ndarray
    error: np.ndarray


def nngp(model: keras.Model, x1: Any, x2: Any = None) -> tf.Tensor:
    """The mean over the outputs of f(x1) f(x2), whose mean over initializations is the NNGP.

    Args:
        model: a built Keras model, as for `mfcnn.empirical.ntk`.
        x1: inputs [n1, ...].
        x2: inputs [n2, ...]; None is x1.

    Returns:
        A tensor of the outputs' dtype, [n1, n2]. Asking a tape for its gradient raises.

    Raises:
        TypeError: as `mfcnn.empirical.ntk`.
        ValueError: as `mfcnn.empirical.ntk`.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")]
        ... )
        >>> mfcnn.empirical.nngp(model, [[1.0, 2.0], [0.0, 1.0]]).numpy()
        array([[9., 3.],
               [3., 1.]], dtype=float32)

    Source: NTK paper, section 2.
    """
    x1, x2 = _tangent_kernel._check(model, x1, x2)
    trace = _traces.trace_of(model, x1)
    y1 = _outputs(model, trace, x1)
    y2 = y1 if x2 is None else _outputs(model, trace, x2)
    theta = tf.matmul(y1, y2, transpose_b=True) / tf.cast(trace.outputs, y1.dtype)
    return _tangent_kernel._without_gradient(model, x1, theta)


def _outputs(model: keras.Model, trace: _traces.Trace, x: Any) -> tf.Tensor:
    """[n, k], in parts that bound the memory; the analysis has refused stochastic layers."""
    n = _inputs.length(x)
    parts = [
        tf.reshape(
            model(_inputs.take(x, np.arange(start, min(start + _CHUNK, n))), training=False),
            [-1, trace.outputs],
        )
        for start in range(0, n, _CHUNK)
    ]
    return tf.concat(parts, 0) if parts else tf.zeros([0, trace.outputs], model.compute_dtype)


def monte_carlo_kernel(
    model: keras.Model,
    x1: Any,
    x2: Any = None,
    get: str | Sequence[str] = ("nngp", "ntk"),
    draws: int = 100,
    seed: int = 0,
) -> Any:
    """The mean of the kernels over new initializations of a model, with its standard error.

    The model itself is not changed: each draw is its architecture with every seed replaced.

    Args:
        model: a built Keras model that can be serialized.
        x1: inputs [n1, ...].
        x2: inputs [n2, ...]; None is x1.
        get: "nngp", "ntk", or a sequence of them.
        draws: number of initializations, at least 2.
        seed: of the draws.

    Returns:
        For a name an `Estimate`, for a sequence a namedtuple of them.

    Raises:
        TypeError: as `mfcnn.empirical.ntk`.
        ValueError: as `mfcnn.empirical.ntk`, for a model that cannot be serialized, or whose
            initial weights are not random.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(50)])
        >>> estimate = mfcnn.empirical.monte_carlo_kernel(model, np.eye(3), get="ntk", draws=3)
        >>> float(estimate.mean[0, 0]), float(estimate.error[0, 0])  # |x|^2 + 1 in every draw
        (2.0, 0.0)

    Source: NTK paper, Figure 1; finite-width paper, section 3.
    """
    x1, x2 = _tangent_kernel._check(model, x1, x2)
    names = (get,) if isinstance(get, str) else tuple(get) if isinstance(get, Sequence) else (get,)
    if not names or len(set(map(str, names))) < len(names):
        raise ValueError(f"get must be 'nngp', 'ntk' or a sequence of them. Received: get={get!r}")
    for name in names:
        arguments.choice("get", name, _GET)
    draws, seed = arguments.integer("draws", draws, 2), arguments.integer("seed", seed, 0)
    copy = _copies.copy_of(model)
    measure = {"nngp": nngp, "ntk": _tangent_kernel.ntk}
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    before: list[np.ndarray] | None = None
    for weights in itertools.islice(_copies.new_initial_weights(model, seed), draws):
        if before is not None and all(map(np.array_equal, before, weights)):
            raise ValueError(
                "model must have random initial weights: two draws are equal. "
                f"Received: {model.name!r}"
            )
        before = weights
        copy.set_weights(weights)
        for name in names:
            found[name].append(np.asarray(measure[name](copy, x1, x2), np.float64))
    estimates = {
        name: Estimate(np.mean(parts, 0), np.std(parts, 0, ddof=1) / np.sqrt(draws))
        for name, parts in found.items()
    }
    if isinstance(get, str):
        return estimates[get]
    return _record(names)(**estimates)


@functools.cache
def _record(names: tuple[str, ...]) -> Any:
    return collections.namedtuple("Kernels", names)
