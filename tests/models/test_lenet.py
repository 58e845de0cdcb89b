"""LeNet: sizes, initialization, seeds."""

import math

import numpy as np
import pytest

from mfcnn import models


@pytest.mark.parametrize("shape, parameters", [((28, 28, 1), 61_706), ((32, 32, 3), 62_006)])
def test_it_has_the_parameters_of_lenet_5(shape, parameters):
    # By hand: 25 c 6 + 6, 25 6 16 + 16, 400 120 + 120, 120 84 + 84, 84 10 + 10.
    assert models.lenet(shape).count_params() == parameters


def test_the_width_factor_multiplies_channels_and_units():
    model = models.lenet(width_factor=5)
    shapes = [w.shape[-1] for w in model.weights if len(w.shape) > 1]
    assert shapes == [30, 80, 600, 420, 10]


def test_weights_are_uniform_within_one_over_root_fan_in():
    model = models.lenet(seed=0)
    kernel, bias = model.get_layer("dense_1").get_weights()
    limit = 1 / math.sqrt(400)
    for values in (kernel, bias):
        assert np.abs(values).max() <= limit
    # 48,000 draws: the variance limit^2 / 3 to a relative error of about 0.9 / sqrt(48,000).
    assert kernel.var() == pytest.approx(limit**2 / 3, rel=0.02)


def test_the_seed_decides_and_layers_differ():
    first, same, other = (models.lenet(seed=s).get_weights() for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, same))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other))
    assert abs(np.corrcoef(first[1], first[3][:6])[0, 1]) < 0.99


@pytest.mark.parametrize("factor", [0, -1, math.inf])
def test_a_width_factor_must_be_positive(factor):
    with pytest.raises(ValueError, match="width_factor"):
        models.lenet(width_factor=factor)


def test_small_images_are_refused():
    with pytest.raises(ValueError, match="12 x 12"):
        models.lenet((8, 8, 1))
