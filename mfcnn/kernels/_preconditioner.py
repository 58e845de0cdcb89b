"""A preconditioner for (K + lambda I) a = y from few columns of K: randomly pivoted Cholesky.

Pivots are drawn with probabilities proportional to the diagonal of what is left of K, by blocks.
With K ~ F F^T = U S U^T of rank r,

    P^-1 = U (s_r + lambda) / (S + lambda) U^T + (I - U U^T),

which brings the r largest eigenvalues of K + lambda down to the smallest of them.

Source: Chen, Epperly, Tropp and Webber 2022 (the factor); Frangella, Tropp and Udell 2021 (P).
"""

from collections.abc import Callable

import numpy as np
import scipy.linalg

__all__ = ["Preconditioner", "partial_cholesky"]

_BLOCK = 128  # pivots drawn at once


def partial_cholesky(
    columns: Callable[[np.ndarray], np.ndarray], diagonal: np.ndarray, rank: int, seed: int
) -> np.ndarray:
    """F [n, r], r <= rank, with F F^T close to K, from r columns of K.

    Args:
        columns: function of indices to columns of K, [n, m].
        diagonal: of K, [n].
        rank: columns of F; fewer where K has no more to rounding.
        seed: of the pivots.
    """
    random = np.random.default_rng(seed)
    left = diagonal.astype(np.float64)
    factor = np.zeros([len(left), min(rank, len(left))])
    enough = np.finfo(np.float64).eps * len(left) * np.max(diagonal)
    filled = 0
    while filled < factor.shape[1] and left.sum() > enough:
        draws = random.choice(len(left), min(_BLOCK, factor.shape[1] - filled), p=left / left.sum())
        pivots = np.unique(draws)
        new = columns(pivots) - factor[:, :filled] @ factor[pivots, :filled].T
        # Pivots that resemble one another leave a singular core: its small part is not used.
        values, vectors = np.linalg.eigh(new[pivots])
        good = values > 1e-10 * values[-1]
        new = new @ (vectors[:, good] / np.sqrt(values[good]))
        factor[:, filled : filled + new.shape[1]] = new
        filled += new.shape[1]
        left = np.maximum(left - np.einsum("ij,ij->i", new, new), 0)
        left[pivots] = 0
    return factor[:, :filled]


class Preconditioner:
    """P^-1 as a function of vectors [n, k]."""

    def __init__(self, factor: np.ndarray, shift: float):
        """Takes F and lambda; F's memory is reused."""
        values, vectors = scipy.linalg.eigh(factor.T @ factor)
        good = values > 1e-12 * max(values.max(initial=0), 1e-300)
        values, vectors = values[good], vectors[:, good] / np.sqrt(values[good])
        basis = factor[:, : len(values)]
        for start in range(0, len(factor), 4096):
            basis[start : start + 4096] = factor[start : start + 4096] @ vectors
        self._basis = basis
        smallest = values[0] if len(values) else 0.0
        self._weights = 1 - (smallest + shift) / (values + shift)

    @property
    def rank(self) -> int:
        """Number of eigenvalues that are taken out."""
        return len(self._weights)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """P^-1 vectors."""
        return vectors - self._basis @ (self._weights[:, None] * (self._basis.T @ vectors))
