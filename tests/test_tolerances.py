"""The table of tolerances is what arithmetic does."""

import numpy as np
import pytest
import tensorflow as tf

from tests import tolerances


@pytest.mark.parametrize("name", ["float64", "float32", "bfloat16"])
def test_tolerances_grow_from_kind_to_kind_and_cover_eps(name):
    table = getattr(tolerances, name)
    known = [value for value in table if not np.isnan(value)]
    assert known == sorted(known)
    assert known[0] >= float(
        np.finfo(tf.as_dtype(name).as_numpy_dtype).eps if name != "bfloat16" else 2**-8
    )


@pytest.mark.parametrize(("name", "terms"), [("float64", 4500), ("float32", 7000)])
def test_sums_in_two_orders_agree_within_summed(name, terms):
    x = np.random.default_rng(0).uniform(size=terms).astype(name)
    one = np.add.accumulate(x)[-1]  # one by one
    np.testing.assert_allclose(one, np.sum(x[::-1]), rtol=getattr(tolerances, name).summed)
    exact = np.sum(x.astype(np.longdouble))
    np.testing.assert_allclose(float(one), float(exact), rtol=getattr(tolerances, name).summed)


@pytest.mark.parametrize(("name", "layers"), [("float64", 1000), ("float32", 100)])
def test_a_recursion_over_layers_agrees_within_deep(name, layers):
    q, exact = np.asarray(0.7, name), np.longdouble(np.asarray(0.7, name))
    weight, bias = 1.3, 0.05
    for _ in range(layers):
        q = np.asarray(weight, name) * q / (1 + q) + np.asarray(bias, name)
        exact = np.longdouble(np.asarray(weight, name)) * exact / (1 + exact)
        exact += np.longdouble(np.asarray(bias, name))
    np.testing.assert_allclose(float(q), float(exact), rtol=getattr(tolerances, name).deep)


@pytest.mark.parametrize("name", ["float64", "float32"])
def test_a_central_difference_agrees_within_differenced(name):
    step = float(np.finfo(name).eps) ** (1 / 3)
    x = np.linspace(-2, 2, 41).astype(name)
    slope = (np.tanh(x + np.asarray(step, name)) - np.tanh(x - np.asarray(step, name))) / (2 * step)
    expected = 1 / np.cosh(x.astype(float)) ** 2
    np.testing.assert_allclose(slope, expected, rtol=getattr(tolerances, name).differenced)


@pytest.mark.parametrize(("name", "condition"), [("float64", 4e6), ("float32", 8e3)])
def test_a_linear_system_agrees_within_solved(name, condition):
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(20, 20)))
    matrix = (left * np.geomspace(1, 1 / condition, 20)) @ left.T
    x = np.ones(20)
    matrix = matrix.astype(name).astype(float)  # the matrix as the narrow dtype has it
    right = (matrix @ x).astype(name)
    exact = np.linalg.solve(matrix, right.astype(float))
    found = np.linalg.solve(matrix.astype(name), right)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert error < getattr(tolerances, name).solved
