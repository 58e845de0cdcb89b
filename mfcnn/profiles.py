"""Variance profiles: how a filter's variance is spread over its taps (CNN paper, section 2.1.6).

Every function of the package that takes a `variance_profile` takes what `parse` takes: None, a
name in any case, or an array. The profile v is non-negative and sums to one; a weight at tap beta
has the variance weight_variance * v_beta / channels.
"""

import math
from typing import Any

import numpy as np

from mfcnn import arguments

__all__ = ["NAMES", "label", "parse"]

# The five profiles of the CNN paper's Figure 4, by the weight of the uniform part. The paper says
# that GS1 to GS3 interpolate between one-hot and uniform; the even steps are ours.
_UNIFORM_SHARE = {
    "gs0": 0.0,
    "gs1": 0.25,
    "gs2": 0.5,
    "gs3": 0.75,
    "gs4": 1.0,
    "delta": 0.0,
    "uniform": 1.0,
}
NAMES = (*_UNIFORM_SHARE, "orthogonal")


def parse(
    profile: Any = None,
    kernel_size: Any = None,
    rank: int | None = None,
    name: str = "variance_profile",
) -> np.ndarray:
    """The profile as an array of its own, one axis for each spatial dimension.

        "uniform" (None, "gs4")   v = 1 / k^rank
        "delta" ("gs0")           one at the centre tap (k - 1) // 2, the pixel itself
        "gs1", "gs2", "gs3"       (1 - t) delta + t uniform, t = 1/4, 1/2, 3/4
        "orthogonal"              prod_j binomial(k - 1, beta_j) / 2^(k - 1): the shares that the
                                  taps of `mfcnn.initializers.ConvolutionOrthogonal` have

    Args:
        profile: None, one of `NAMES` in any case, or an array: [k1, k2] for images, [k] for
            sequences; [k] for images is the separable profile v_a v_b.
        kernel_size: an integer, or one an axis. None is the array's own size, and 3 for names.
        rank: the number of spatial axes. None is the array's own, the length of kernel_size, or 2.
        name: the argument's name in messages.

    Returns:
        float64 of shape kernel_size, non-negative, of sum one.

    Raises:
        ArgumentTypeError: for what is neither None, a name nor an array of real numbers.
        ValueError: for an unknown name, a negative entry, a sum further than 1e-6 from one, or a
            shape that is not kernel_size.
    """
    named = profile is None or isinstance(profile, str)
    values = None if named else arguments.array(name, profile)
    if values is not None and not 1 <= values.ndim <= 3:
        raise ValueError(
            f"{name} must be None, a name or an array of 1 to 3 axes. Received: {name}={profile!r}"
        )
    rank = _rank(values, kernel_size, rank)
    sizes = None if kernel_size is None else arguments.sizes("kernel_size", kernel_size, rank)
    if values is None:
        return _named("uniform" if profile is None else profile, sizes or (3,) * rank, name)
    if values.ndim == 1 and rank > 1:
        values = math.prod(np.ix_(*[values] * rank), start=np.ones([1] * rank))
    shape = sizes or values.shape
    if values.ndim != rank or not values.size or values.shape != shape:
        wanted = f"[{', '.join(map(str, sizes))}]" if sizes else f"{rank} axes"
        raise ValueError(f"{name} must have {wanted}. Received: {name}.shape={np.shape(profile)}")
    if not np.all(values >= 0):
        raise ValueError(f"{name} must not be negative. Received: {name}={values.tolist()}")
    if abs(values.sum() - 1) > 1e-6:
        raise ValueError(f"{name} must sum to one. Received: a sum of {values.sum():.9g}")
    return values / values.sum()


def label(profile: Any) -> str:
    """A short name for a picture or a table: the name itself, or "array"."""
    return (
        "uniform" if profile is None else profile.lower() if isinstance(profile, str) else "array"
    )


def _rank(values: np.ndarray | None, kernel_size: Any, rank: int | None) -> int:
    if rank is not None:
        return arguments.integer("rank", rank, 1, 3)
    if values is not None:
        return values.ndim
    return np.size(kernel_size) if np.ndim(kernel_size) else 2


def _named(profile: str, sizes: tuple[int, ...], name: str) -> np.ndarray:
    key = profile.lower()
    if key not in NAMES:
        raise ValueError(
            f"{name} must be None, an array, or one of {', '.join(NAMES)}. "
            f"Received: {name}={profile!r}"
        )
    if key == "orthogonal":
        taps = [[math.comb(k - 1, b) / 2 ** (k - 1) for b in range(k)] for k in sizes]
        return math.prod(np.ix_(*map(np.array, taps)), start=np.ones([1] * len(sizes)))
    result = np.full(sizes, _UNIFORM_SHARE[key] / math.prod(sizes))
    result[tuple((size - 1) // 2 for size in sizes)] += 1 - _UNIFORM_SHARE[key]
    return result
