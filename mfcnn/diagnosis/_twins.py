"""Pairs of units of opposite sign: what they make of an activation, and where they can be."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from mfcnn.activations import Activation
from mfcnn.diagnosis._tracing import KERNELS, Trace

__all__ = ["find", "odd_part"]

_GRID = np.linspace(0.01, 8.0, 200)
_LEAST = 0.1  # the least share of phi's squared slope that its odd part must keep


@functools.lru_cache(maxsize=64)
def odd_part(function: Activation) -> Activation | None:
    """phi(x) - phi(-x), what twins make of an activation (`mfcnn.initializers.Mirrored`).

    Returns:
        None where it is of no use: phi is odd itself, or nearly even.
    """
    phi, slope = function.phi, function.phi_prime
    above, below = (np.asarray(phi(side * _GRID), np.float64) for side in (1, -1))
    odd = above - below
    if np.allclose(above, -below, atol=1e-9) or not np.all(np.isfinite(odd)):
        return None
    name = f"odd part of {function.name}"
    rate = float(odd[-1] / _GRID[-1])
    if np.allclose(odd, rate * _GRID, rtol=1e-9, atol=1e-12):
        result = Activation(lambda x: rate * x, lambda x: rate + 0 * x, name)
    else:
        result = Activation(lambda x: phi(x) - phi(-x), lambda x: slope(x) + slope(-x), name)
    squares = [float(one.derivative_second_moment(1.0)) for one in (result, function)]
    return result if squares[0] > _LEAST * squares[1] else None


def find(dry: Trace, changes: Callable[[Any], bool]) -> dict[int, Activation]:
    """The layers whose units can become twins, with the odd part of their activation.

    All that reads such a layer must be weights over its channels, which are to have the twins'
    structure too. In a model with residual sums there are none: there the sums pass the signals.

    Args:
        dry: a trace of the whole model.
        changes: whether a layer gets new weights.
    """
    if dry.joins:
        return {}
    found = {}
    for key, layer in dry.layers.items():
        function = dry.following.get(key)
        readers = dry.readers.get(key, [])
        if function is None or not readers or not _plain(layer, dry) or not changes(layer):
            continue
        filters = layer._kernel.shape[-1]
        fit = all(_plain(r, dry) and r._kernel.shape[-2] == filters for r in readers)
        if fit and filters % 2 == 0 and all(map(changes, readers)):
            odd = odd_part(function)
            if odd is not None:
                found[key] = odd
    return found


def _plain(layer: Any, dry: Trace) -> bool:
    """Whether a layer has one kernel over all channels, and is called once."""
    return (
        isinstance(layer, KERNELS)
        and dry.calls[id(layer)] == 1
        and getattr(layer, "groups", 1) == 1
    )
