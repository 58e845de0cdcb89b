"""Roots of many scalar equations at once, each between two points of opposite sign."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["bracketed_root"]


def bracketed_root(
    function: Callable[[np.ndarray], np.ndarray],
    low: ArrayLike,
    high: ArrayLike,
    tolerance: float = 4e-16,
    steps: int = 120,
) -> np.ndarray:
    """Solves function(x) = 0 for x [n] by secant steps with bisection as a guard.

    Args:
        function: takes x [n] and returns values [n].
        low: one end of each bracket, float64 [n].
        high: the other end, at which the function has the opposite sign (or is zero).
        tolerance: relative width of the bracket at which an entry is done.
        steps: the most evaluations; bisection alone needs about 60.

    Returns:
        float64 [n].
    """
    a, b = np.array(low, np.float64), np.array(high, np.float64)
    if not a.size:
        return a
    fa, fb = function(a), function(b)
    side = np.zeros(a.shape, int)
    best = np.where(np.abs(fa) < np.abs(fb), a, b)
    for step in range(steps):
        open_ = (
            (np.abs(b - a) > tolerance * np.maximum(np.abs(a), np.abs(b))) & (fa != 0) & (fb != 0)
        )
        if not np.any(open_):
            break
        with np.errstate(invalid="ignore", divide="ignore"):
            secant = b - fb * (b - a) / (fb - fa)
        middle = 0.5 * (a + b)
        inside = (secant > np.minimum(a, b)) & (secant < np.maximum(a, b))
        # Every third step bisects: no function can make the secant crawl.
        x = np.where(inside & (step % 3 != 2), secant, middle)
        fx = function(np.where(open_, x, best))
        left = np.sign(fx) == np.sign(fa)
        new_a, new_b = open_ & left, open_ & ~left
        # Illinois: the end that stays twice has its value halved, which makes the secant overshoot.
        fb = np.where(new_a & (side == 1), 0.5 * fb, fb)
        fa = np.where(new_b & (side == -1), 0.5 * fa, fa)
        side = np.where(new_a, 1, np.where(new_b, -1, side))
        a, fa = np.where(new_a, x, a), np.where(new_a, fx, fa)
        b, fb = np.where(new_b, x, b), np.where(new_b, fx, fb)
        best = np.where(open_, x, best)
    best = np.where(fa == 0, a, np.where(fb == 0, b, best))
    return best
