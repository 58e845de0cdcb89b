"""Relative tolerances by dtype, each derived from the rounding unit eps of its dtype.

    np.testing.assert_allclose(actual, expected, rtol=float64.summed)

| | float64 (eps 2.2e-16) | float32 (eps 1.2e-7) | bfloat16 (eps 7.8e-3) |
|---|---|---|---|
| rounded | 1e-13 | 1e-6 | 2^-7 |
| summed | 1e-12 | 1e-5 | 2^-6 |
| deep | 1e-10 | 1e-4 | 2^-4 |
| solved | 1e-9 | 1e-3 | |
| differenced | 1e-6 | 1e-2 | |

A Monte Carlo estimate has its standard error for a tolerance, a law its next order: those are
written where they are used.
"""

from typing import NamedTuple

__all__ = ["Tolerances", "bfloat16", "float32", "float64"]


class Tolerances(NamedTuple):
    """How far two computations of one number may differ, relatively.

    Attributes:
        rounded: the same formula in another order: some operations, each off by eps / 2. Eight eps
            in float32 and one in bfloat16, which round once at the end; 450 in float64, where
            library functions (erf, tanh, pow) differ by some units on both sides.
        summed: sums and matrix products of n terms. The worst case is n eps, the typical one
            sqrt(n) eps: n = 4,500 at worst in float64, n = 7,000 typically in float32.
        deep: recursions over layers, each off by `rounded` at most and neither growing nor
            shrinking what came before: 1,000 layers in float64, 100 in float32.
        solved: linear systems and eigenvalues: eps times the condition number, 4e6 in float64 and
            8e3 in float32.
        differenced: a central difference with the best step, h = eps^(1/3), is off by eps^(2/3) of
            the function's scale (4e-11, 2e-5); its third derivative may be 2e4 and 4e2 times that.
    """

    rounded: float
    summed: float
    deep: float
    solved: float
    differenced: float


float64 = Tolerances(rounded=1e-13, summed=1e-12, deep=1e-10, solved=1e-9, differenced=1e-6)
float32 = Tolerances(rounded=1e-6, summed=1e-5, deep=1e-4, solved=1e-3, differenced=1e-2)
bfloat16 = Tolerances(2**-7, 2**-6, 2**-4, float("nan"), float("nan"))
