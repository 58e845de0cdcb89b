"""The average over a filter, A_v: what a convolution does to second moments, with either border.

    (A_v x)(a) = sum_beta v_beta x(a + beta),      beta counted from the tap (k - 1) // 2

On a covariance both positions move together (CNN paper, eqs. 2.4 and 2.13). With circular padding
the image is a torus; with "same" what lies outside is zero, so that A_v loses a part at the border.
"valid" needs no rule of its own: its outputs are those of the torus that no wrapping has reached.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn import arguments, profiles

__all__ = [
    "PADDINGS",
    "average",
    "check_padding",
    "check_valid_depth",
    "interior",
    "profile_and_size",
]

PADDINGS = ("circular", "same", "valid")


def check_padding(padding: Any) -> str:
    """One of `PADDINGS`."""
    return arguments.choice("padding", padding, PADDINGS)


def profile_and_size(profile: Any, size: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    """The variance profile and the spatial size, of one rank; any size of at least one position.

    A size of several numbers gives the rank; else the profile does, and a name is for images.
    """
    several = np.ndim(size) == 1
    size = arguments.integers("size", size, 1) if several else size
    v = profiles.parse(profile, rank=len(size) if several else None)
    return v, arguments.sizes("size", size, v.ndim)


def check_valid_depth(size: tuple[int, ...], profile: np.ndarray, depth: int) -> None:
    """Refuses more layers with padding="valid" than leave a position."""
    layers = [(n - 1) // (k - 1) for n, k in zip(size, profile.shape) if k > 1]
    if layers and depth > min(layers):
        raise ValueError(
            f"depth must be at most {min(layers)}, since padding='valid' takes the kernel's size "
            f"less one from {size} positions in each layer. Received: depth={depth}"
        )


def interior(size: tuple[int, ...], profile: np.ndarray, layers: int) -> tuple[slice, ...]:
    """The positions that `layers` layers of padding="valid" leave, as slices of the image."""
    return tuple(
        slice(layers * ((k - 1) // 2), n - layers * (k - 1 - (k - 1) // 2))
        for n, k in zip(size, profile.shape)
    )


def average(
    values: tf.Tensor,
    profile: np.ndarray,
    padding: str = "circular",
    copies: int = 1,
    adjoint: bool = False,
) -> tf.Tensor:
    """A_v or its adjoint along the spatial axes.

    Args:
        values: [m, *size], or with copies=2 a covariance [m, *size, m, *size].
        profile: v, of the rank of `size`.
        padding: "circular", or "same" for zeros outside.
        copies: 1 or 2, how often the spatial axes are there; all move together.
        adjoint: whether v is turned round, as for gradients.

    Returns:
        A tensor of the same shape.
    """
    rank = profile.ndim
    axes = [copy * (rank + 1) + 1 + axis for copy in range(copies) for axis in range(rank)]
    total = tf.zeros_like(values)
    for index in np.ndindex(*profile.shape):
        if profile[index]:
            offsets = [i - (k - 1) // 2 for i, k in zip(index, profile.shape)] * copies
            offsets = [-offset if adjoint else offset for offset in offsets]
            shifted = _zero_shift if padding == "same" else _roll
            total += profile[index] * shifted(values, offsets, axes)
    return total


def _roll(values: tf.Tensor, offsets: list[int], axes: list[int]) -> tf.Tensor:
    return tf.roll(values, [-offset for offset in offsets], axes)


def _zero_shift(values: tf.Tensor, offsets: list[int], axes: list[int]) -> tf.Tensor:
    """values(a + offset), zero outside."""
    kept = [slice(None)] * values.shape.rank
    pads = [[0, 0] for _ in kept]
    for offset, axis in zip(offsets, axes):
        n = values.shape[axis]
        offset = max(-n, min(n, offset))
        kept[axis] = slice(max(offset, 0), n + min(offset, 0))
        pads[axis] = [max(-offset, 0), max(offset, 0)]
    return tf.pad(values[tuple(kept)], pads)
