"""First values that are too large to carry: drawn from the seed, with NumPy's QR.

The laws are those of `mfcnn.initializers`, the numbers are others: NumPy's generator, a stream of
its own for each layer, so that a stack does not depend on how it is cut or spread.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["draw"]


def draw(
    law: Mapping[str, Any], shape: Sequence[int], dtype: str, start: int = 0, stop: int = 0
) -> np.ndarray:
    """The layers from start to stop of a stack [depth, *window, c_in, c_out], or [depth, c].

    Args:
        law: its "name": "constant" with a value; "gaussian" with stddev, of the window's shape or
            a number; "delta_orthogonal" or "orthogonal" with gain; and a seed.
        shape: of the whole stack.
        dtype: of the result.
        start: the first layer.
        stop: the layer after the last.
    """
    if law["name"] == "constant":
        return np.full([stop - start, *shape[1:]] if shape else [], law["value"], dtype)
    stack = np.empty([stop - start, *shape[1:]], dtype)
    one = {"gaussian": _gaussian, "delta_orthogonal": _delta, "orthogonal": _orthogonal}
    for layer in range(start, stop):
        generator = np.random.default_rng([law["seed"], layer])
        stack[layer - start] = one[law["name"]](generator, law, tuple(shape[1:]))
    return stack


def _gaussian(
    generator: np.random.Generator, law: Mapping[str, Any], shape: tuple[int, ...]
) -> np.ndarray:
    stddev = np.asarray(law["stddev"], float)
    if stddev.ndim:
        stddev = stddev[..., None, None]
    return generator.normal(size=shape) * stddev


def _delta(
    generator: np.random.Generator, law: Mapping[str, Any], shape: tuple[int, ...]
) -> np.ndarray:
    kernel = np.zeros(shape)
    middle = tuple((side - 1) // 2 for side in shape[:-2])
    kernel[middle] = law["gain"] * _haar(generator, shape[-1])[: shape[-2]]
    return kernel


def _orthogonal(
    generator: np.random.Generator, law: Mapping[str, Any], shape: tuple[int, ...]
) -> np.ndarray:
    """Algorithm 1 of the CNN paper, in any number of dimensions."""
    c_in, c_out = shape[-2:]
    kernel = law["gain"] * _haar(generator, c_out)[:c_in]
    kernel = kernel.reshape([1] * len(shape[:-2]) + [c_in, c_out])
    sides = [side - 1 for side in shape[:-2]]
    for turn in range(max(sides)):
        for axis, side in enumerate(sides):
            if turn < side:
                basis, coins = _haar(generator, c_out), generator.integers(2, size=c_out)
                projection = (basis * coins) @ basis.T
                rest = kernel @ projection
                kernel = np.concatenate([rest, np.zeros_like(rest.take([0], axis))], axis) + (
                    np.concatenate([np.zeros_like(rest.take([0], axis)), kernel - rest], axis)
                )
    return kernel


def _haar(generator: np.random.Generator, size: int) -> np.ndarray:
    q, r = np.linalg.qr(generator.normal(size=(size, size)))
    return q * np.where(np.diag(r) < 0, -1.0, 1.0)
