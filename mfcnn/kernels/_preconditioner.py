"""A preconditioner for (K + lambda I) a = y from few columns of K: randomly pivoted Cholesky.

Pivots are drawn with probabilities proportional to the diagonal of what is left of K, by blocks.
With K ~ F F^T of rank r the preconditioner is the inverse of F F^T + mu I,

    P^-1 = (I - F (F^T F + mu I)^-1 F^T) / mu,   mu = lambda + the least eigenvalue of F^T F,

which brings the r largest eigenvalues of K + lambda I down to those that F does not see. With mu =
lambda these would lie above 1 / mu, and their share of the residual would grow at first. F may
be kept in float32: what is computed with it is in float64, so that P^-1 stays positive.

Source: Chen, Epperly, Tropp and Webber 2022 (the factor); Frangella, Tropp and Udell 2021 (mu).
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.linalg

__all__ = ["Preconditioner", "partial_cholesky"]

_BLOCK = 128  # pivots drawn at once
_ROWS = 4096  # of F that are in float64 at a time


def partial_cholesky(
    columns: Callable[[np.ndarray], np.ndarray],
    diagonal: np.ndarray,
    rank: int,
    seed: int,
    dtype: Any = np.float64,
) -> np.ndarray:
    """F [n, r], r <= rank, with F F^T close to K, from r columns of K.

    Args:
        columns: function of indices to columns of K, [n, m].
        diagonal: of K, [n].
        rank: columns of F; fewer where K has no more to rounding.
        seed: of the pivots.
        dtype: of F.
    """
    random = np.random.default_rng(seed)
    left = diagonal.astype(np.float64)
    factor = np.zeros([len(left), min(rank, len(left))], dtype)
    enough = np.finfo(np.float64).eps * len(left) * np.max(diagonal)
    filled = 0
    while filled < factor.shape[1] and left.sum() > enough:
        draws = random.choice(len(left), min(_BLOCK, factor.shape[1] - filled), p=left / left.sum())
        pivots = np.unique(draws)
        new, own = columns(pivots), factor[pivots, :filled].astype(np.float64)
        for rows, part in _parts(factor[:, :filled]):
            new[rows] -= part @ own.T
        # Pivots that resemble one another leave a singular core: its small part is not used.
        values, vectors = np.linalg.eigh(new[pivots])
        good = values > max(1e-10 * values[-1], 0)
        if not np.any(good):  # float32 has no digits of what is left
            break
        new = new @ (vectors[:, good] / np.sqrt(values[good]))
        factor[:, filled : filled + new.shape[1]] = new
        filled += new.shape[1]
        left = np.maximum(left - np.einsum("ij,ij->i", new, new), 0)
        left[pivots] = 0
    return factor[:, :filled]


class Preconditioner:
    """P^-1, but for its factor 1 / mu, as a function of vectors [n, k]."""

    def __init__(self, factor: np.ndarray, shift: float):
        """Takes F and lambda; where mu is below rounding, that takes its place."""
        self._factor = factor
        core = np.zeros([factor.shape[1]] * 2)
        for _, part in _parts(factor):
            core += part.T @ part
        floor = np.finfo(np.float64).eps * max(1, len(factor)) * np.trace(core)
        least = scipy.linalg.eigvalsh(core, subset_by_index=[0, 0])[0] if len(core) else 0.0
        core[np.diag_indices(len(core))] += max(shift + least, floor)
        self._core = scipy.linalg.cho_factor(core, lower=True, overwrite_a=True)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """P^-1 vectors."""
        projections = np.zeros([self._factor.shape[1], vectors.shape[1]])
        for rows, part in _parts(self._factor):
            projections += part.T @ vectors[rows]
        weights = scipy.linalg.cho_solve(self._core, projections)
        result = vectors.copy()
        for rows, part in _parts(self._factor):
            result[rows] -= part @ weights
        return result


def _parts(factor: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """F by some rows at a time, in float64."""
    for start in range(0, len(factor), _ROWS):
        rows = slice(start, start + _ROWS)
        yield rows, factor[rows].astype(np.float64, copy=False)
