"""The convolution's forms against sums written out in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn.layers import PeriodicConvolution
from mfcnn.layers._convolution import FORMS, PADDINGS, convolve
from tests.tolerances import float64


def slow_convolution(x, kernel, padding, stride=1):
    """TensorFlow's SAME geometry, the image continued by zeros or periodically."""
    batch, height, width, _ = x.shape
    window = kernel.shape[0]
    rows, columns = -(-height // stride), -(-width // stride)
    top = max((rows - 1) * stride + window - height, 0) // 2
    left = max((columns - 1) * stride + window - width, 0) // 2
    y = np.zeros((batch, rows, columns, kernel.shape[-1]))
    for i, j, u, v in np.ndindex(rows, columns, window, window):
        row, column = i * stride + u - top, j * stride + v - left
        if padding == "circular":
            row, column = row % height, column % width
        elif not (0 <= row < height and 0 <= column < width):
            continue
        y[:, i, j] += x[:, row, column] @ kernel[u, v]
    return y


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("window", [1, 2, 3, 4, 5])
def test_every_form_is_the_sum_over_the_window(window, padding, form):
    random = np.random.default_rng(window)
    x, kernel = random.normal(size=(2, 6, 5, 3)), random.normal(size=(window, window, 3, 4))
    found = convolve(tf.constant(x), tf.constant(kernel), padding, form)
    np.testing.assert_allclose(found, slow_convolution(x, kernel, padding), atol=float64.summed)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (28, 28)])
@pytest.mark.parametrize("window", [2, 3, 5])
def test_the_periodic_layer_wraps_around_for_every_stride(window, height, width, stride):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, height, width, 2))
    layer = PeriodicConvolution(3, window, strides=stride, dtype="float64")
    found = layer(x)
    kernel = layer.kernel.numpy()
    assert found.shape == layer.compute_output_shape(x.shape)
    np.testing.assert_allclose(
        found, slow_convolution(x, kernel, "circular", stride), atol=float64.summed
    )


def test_a_window_that_wraps_around_twice_is_refused():
    with pytest.raises(ValueError, match="wraps around the image at most once"):
        PeriodicConvolution(1, 7)(tf.zeros([1, 2, 2, 1]))


@pytest.mark.parametrize("argument", ["padding", "data_format"])
def test_the_periodic_layer_refuses_what_it_fixes_itself(argument):
    with pytest.raises(ValueError, match=argument):
        PeriodicConvolution(1, 3, **{argument: "same"})


def test_the_periodic_layer_survives_its_configuration():
    layer = PeriodicConvolution(4, 3, strides=2, activation="tanh", use_bias=False)
    again = PeriodicConvolution.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_the_periodic_layer_with_strides_needs_a_known_size():
    with pytest.raises(ValueError, match="known height and width"):
        PeriodicConvolution(4, 3, 2)(keras.Input((None, 8, 1)))
    shape = PeriodicConvolution(4, 3, 2).compute_output_shape((None, None, 7, 1))
    assert shape == (None, None, 4, 4)
