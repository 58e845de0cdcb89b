"""Every kind of argument: what is accepted, in which form it comes back, what is refused."""

import math

import numpy as np
import pytest
import tensorflow as tf

from mfcnn import arguments


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_integers_of_numpy_are_integers(value):
    result = arguments.integer("depth", value, 1)
    assert result == 3 and type(result) is int


@pytest.mark.parametrize("value", [3.0, np.float64(3), True, np.True_, "3", None, [3], 3j])
def test_what_is_not_an_integer_is_refused(value):
    with pytest.raises(arguments.ArgumentTypeError, match=r"depth must be an integer .*Received"):
        arguments.depth(value)


def test_the_message_names_argument_range_and_value():
    with pytest.raises(
        ValueError, match=r"^batch must be an integer from 2 to 5. Received: batch=1$"
    ):
        arguments.integer("batch", 1, 2, 5)
    with pytest.raises(
        ValueError, match=r"^rho must be a number above 0 and of at most 1. Rec.*rho=0$"
    ):
        arguments.number("rho", 0, greatest=1, above=0)


@pytest.mark.parametrize(
    "value", [1, 1.0, np.float32(1), np.int8(1), np.array(1.0), tf.constant(1.0)]
)
def test_numbers_come_back_as_floats(value):
    result = arguments.number("rate", value, 0)
    assert result == 1 and type(result) is float


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, -1e-300, True, "1", None, [1.0], 1j]
)
def test_a_variance_is_finite_and_not_negative(value):
    with pytest.raises(ValueError, match="weight_variance must be a finite number of at least 0"):
        arguments.variance("weight_variance", value)


def test_infinity_is_accepted_only_where_it_is_asked_for():
    assert arguments.number("time", math.inf, 0, infinite=True) == math.inf
    with pytest.raises(ValueError, match="time"):
        arguments.number("time", -math.inf, 0, infinite=True)


def test_depths_are_one_or_a_sequence():
    assert arguments.depths(np.int32(0)) == 0
    assert arguments.depths(np.array([3, 1])) == (3, 1)
    for wrong in ([], [1, 2.0], "12", [-1], None):
        with pytest.raises(ValueError, match="depth must be"):
            arguments.depths(wrong)


@pytest.mark.parametrize("value", [[[1, math.nan]], [["a"]], [[1j]], [1.0, 2.0], np.zeros([0, 2])])
def test_a_matrix_is_finite_real_and_two_dimensional(value):
    with pytest.raises(ValueError, match="kernel must be"):
        arguments.matrix("kernel", value)


def test_sizes_are_one_for_all_axes_or_one_an_axis():
    assert arguments.sizes("kernel_size", np.int64(3), 2) == (3, 3)
    assert arguments.sizes("kernel_size", [3, 5], 2) == (3, 5)
    for wrong in ([3], "33", 0, (3, 3.0), True):
        with pytest.raises(ValueError, match="kernel_size must be"):
            arguments.sizes("kernel_size", wrong, 2)


def test_a_choice_is_not_an_equal_value_of_another_type():
    assert arguments.choice("levels", None, (None, 0, 1)) is None
    with pytest.raises(ValueError, match="levels must be one of None, 0, 1"):
        arguments.choice("levels", True, (None, 0, 1))


def test_seeds():
    assert arguments.seed(None) is None and arguments.seed(np.int64(7)) == 7
    for wrong in (-1, 0.5, "0", True):
        with pytest.raises(ValueError, match="seed must be an integer of at least 0 or None"):
            arguments.seed(wrong)
