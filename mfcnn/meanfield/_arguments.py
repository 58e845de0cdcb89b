"""Checks of the arguments that the functions of mean field theory share."""

import numpy as np

__all__ = ["check_depth", "check_variance"]


def check_variance(name, value, positive=False):
    """The variances as a float64 array, if they are finite and not negative.

    Args:
      name: the argument's name, for the message.
      value: a real number or an array of them.
      positive: whether zero is refused too.

    Raises:
      TypeError: for anything but real numbers.
      ValueError: for a negative, infinite or NaN entry.
    """
    values = np.asarray(value)
    if values.size and values.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be a real number or an array. Received: {name}={value!r}")
    values = values.astype(np.float64)
    inside = (values > 0 if positive else values >= 0) & np.isfinite(values)
    if not np.all(inside):
        kind = "positive" if positive else "non-negative"
        raise ValueError(f"{name} must be finite and {kind}. Received: {name}={value!r}")
    return values


def check_depth(depth, least=1):
    """The depth as an int, if it is a whole number of at least `least`.

    Raises:
      ValueError: for anything else.
    """
    if not isinstance(depth, int | float | np.number) or not least <= depth < np.inf or depth % 1:
        raise ValueError(f"depth must be an integer of at least {least}. Received: depth={depth!r}")
    return int(depth)
