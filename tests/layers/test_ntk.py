"""NTK-parameterized layers against the formula by hand."""

import keras
import numpy as np
import pytest
import scipy.special

from mfcnn import layers
from tests.tolerances import float64


def test_dense_is_the_scaled_affine_map():
    layer = layers.NTKDense(4, "erf", weight_variance=1.7, bias_variance=0.3, dtype="float64")
    x = np.random.default_rng(0).normal(size=(5, 3))
    y = layer(x)
    w, b = layer.get_weights()
    expected = scipy.special.erf(np.sqrt(1.7 / 3) * x @ w + np.sqrt(0.3) * b)
    np.testing.assert_allclose(y, expected, rtol=float64.rounded)


@pytest.mark.parametrize("padding, mode", [("circular", "wrap"), ("same", "constant")])
def test_convolution_is_the_scaled_sum_over_the_window(padding, mode):
    layer = layers.NTKConvolution(4, 3, None, 1.7, 0.3, padding, dtype="float64")
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3))
    y = layer(x).numpy()
    w, b = layer.get_weights()
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode=mode)
    expected = np.sqrt(0.3) * b + np.sqrt(1.7 / 27) * sum(
        padded[:, i : i + 5, j : j + 4] @ w[i, j] for i in range(3) for j in range(3)
    )
    np.testing.assert_allclose(y, expected, rtol=float64.summed, atol=float64.rounded)


def test_weights_are_standard_normal_and_the_seed_decides():
    def weights(seed):
        layer = layers.NTKDense(200, bias_variance=0.1, seed=seed)
        layer.build((None, 200))
        return layer.get_weights()

    kernel, bias = weights(3)
    # 40,000 draws: the variance has a relative standard error of sqrt(2 / 40,000) = 0.7 %.
    assert kernel.var() == pytest.approx(1, abs=0.03)
    np.testing.assert_array_equal(kernel, weights(3)[0])
    assert not np.array_equal(kernel, weights(4)[0])
    assert not np.array_equal(weights(None)[0], weights(None)[0])
    assert not np.array_equal(kernel[0], bias)


def test_without_bias_variance_there_is_no_bias():
    layer = layers.NTKDense(2)
    layer.build((None, 3))
    assert len(layer.weights) == 1


@pytest.mark.parametrize(
    "layer",
    [
        layers.NTKDense(3, "tanh", 1.5, 0.2, seed=1),
        layers.NTKConvolution(3, 5, "relu", 1.5, 0.2, "same", seed=1),
    ],
)
def test_it_survives_a_file(layer, tmp_path):
    shape = (4,) if isinstance(layer, layers.NTKDense) else (6, 6, 2)
    model = keras.Sequential([keras.Input(shape), layer])
    x = np.ones([2, *shape], "float32")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x), model(x))
    assert again.output_shape == model.output_shape


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: layers.NTKDense(0), "units"),
        (lambda: layers.NTKDense(2, weight_variance=-1), "weight_variance"),
        (lambda: layers.NTKConvolution(2, 0), "kernel_size"),
        (lambda: layers.NTKConvolution(2, padding="valid"), "padding"),
    ],
)
def test_bad_arguments_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
