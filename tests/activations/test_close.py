"""Close duals keep all digits of what tells two signals apart, against mpmath."""

import mpmath
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import activations
from mfcnn.activations import Activation, _registry
from tests.activations import exact

EPSILON = 2.0**-52
CURVED = {"relu_squared", "sparse_plus", "hard_swish"}  # by conditional expectation: seconds each
# Activations with closed forms, but those that are others with parameters.
FORMS = [
    name
    for name in _registry.names()
    if name not in ("piecewise_polynomial", "tailored", "threshold")
    and activations.get(name).closed_form is not None
]
TINY = mpmath.mpf(10) ** -45


def points(name):
    """(q1, q2, gap): close variances and gaps, and far ones."""
    deltas = (0, 1e-12, -1e-6, -1e-3, 2e-2, 0.3)
    gaps = (0, 1e-26, 1e-12, 1e-3, 0.3)
    if name in exact.PIECES:  # an integral each
        few = [(0.7, 0.7 * (1 + 1e-12), 1e-24), (5.0, 5.0 * (1 - 1e-6), 1e-7), (0.7, 0.72, 1e-3)]
        return np.array(few[: 1 if name in CURVED else 3]).T
    sizes = (0.7, 5.0) if name == "exp" else (1e-3, 0.7, 5.0, 300.0)
    return np.array([(q, q * (1 + d), gap) for q in sizes for d in deltas for gap in gaps]).T


def found(dual, q1, q2, gap):
    """What a close dual gives where q1 - q2 is exact."""
    difference = np.array([float(mpmath.mpf(a) - mpmath.mpf(b)) for a, b in zip(q1, q2)])
    sides = [dual.side(tf.constant(q)) for q in (q1, q2)]
    return [np.asarray(a) for a in dual.pair(*sides, tf.constant(gap), tf.constant(difference))]


def expected(name, q1, q2, gap):
    """The output gap, E[phi' phi'] and E[phi^2] - E[phi^2]."""
    maps = exact.by_condition if name in CURVED else None
    rows = []
    for a, b, g in zip(q1, q2, gap):
        a, b, g = map(mpmath.mpf, (a, b, g))
        if maps is None:
            both = exact.maps(name)
            own = [both(q, q, q)[0] for q in (a, b)]
            value, slope = both(a, b, mpmath.sqrt(a * b) * (1 - g))
        else:
            own = [maps(name, q, q, q * (1 - TINY))[0] for q in (a, b)]
            value, slope = maps(name, a, b, mpmath.sqrt(a * b) * (1 - g))
        rows.append([1 - value / mpmath.sqrt(own[0] * own[1]), slope, own[0] - own[1]])
    rows = np.array(rows, float).T
    return np.maximum(rows[0], 0.0), *rows[1:]


def check(name, dual, rounding):
    """Errors of a few roundings of the gap, of (log q1/q2)^2, and of an angle at a kink."""
    q1, q2, gap = points(name)
    digits = 50 if name in exact.PIECES else 80
    with mpmath.workdps(digits):
        gap_expected, slope, change = expected(name, q1, q2, gap)
    values = found(dual, q1, q2, gap)
    apart = (q1 - q2) / (q1 + q2)
    allowed = gap_expected + apart**2 + 1e-40
    if name in ("relu", "leaky_relu", "abs", "abrelu", "gelu"):
        allowed = allowed + np.sqrt(gap_expected)  # t - sin(t): T' has one rounding of it
    assert np.all(np.abs(values[0] - gap_expected) <= rounding * allowed)
    np.testing.assert_allclose(values[1], slope, rtol=20 * rounding, atol=1e-300)
    # exp(-2 q) has the rounding of 2 q; the reference's own is one of its digits.
    own = 10.0 ** (1 - digits)
    np.testing.assert_allclose(values[2], change, rtol=(20 + q1.max()) * rounding, atol=own)


@pytest.mark.parametrize("name", [name for name in FORMS if name not in CURVED])
def test_closed_forms_keep_all_digits(name):
    # The integral over the angle is a sum of 128 terms, that over the radius one of nine.
    roundings = 512 if name in exact.PIECES else 16
    check(name, activations.get(name).closed_form.close, roundings * EPSILON)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CURVED))
def test_curved_pieces_keep_all_digits(name):
    check(name, activations.get(name).closed_form.close, 16 * EPSILON)


def test_the_quick_formula_is_that_by_conditional_expectation():
    q = [mpmath.mpf(a) for a in ("0.7", "1.1", "0.6")]
    with mpmath.workdps(20):
        quick, slow = exact.maps("hard_tanh")(*q), exact.by_condition("hard_tanh", *q)
        assert max(abs(a - b) for a, b in zip(quick, slow)) < 1e-17


@pytest.mark.parametrize("high", [4.0, 300.0])
def test_tables_keep_what_a_table_has(high):
    # A user's erf has a table: a Hermite series at small variances, else one in the angle.
    erf = activations.get("erf")
    table = Activation(erf.phi, erf.phi_prime).table(0.3, high).dual().close
    q1, q2, gap = points("erf")
    inside = (q1 > 0.5) & (q1 < high) & (q2 < high)
    q1, q2, gap = q1[inside], q2[inside], gap[inside]
    with mpmath.workdps(80):
        gap_expected, slope, change = expected("erf", q1, q2, gap)
    values = found(table, q1, q2, gap)
    total = activations.get("erf").derivative_second_moment(q1)
    allowed = gap_expected + ((q1 - q2) / (q1 + q2)) ** 2 + 1e-40
    assert np.all(np.abs(values[0] - gap_expected) <= 1e-10 * allowed)
    assert np.all(np.abs(values[1] - slope) <= 1e-10 * total)
    assert np.all(np.abs(values[2] - change) <= 2e-10 * np.abs(q1 - q2))


def test_every_closed_form_is_known_here():
    assert set(FORMS) <= exact.KNOWN
