"""AlexNet: sizes."""

import numpy as np
import pytest

from mfcnn import models


def test_it_has_the_parameters_of_the_one_column_alexnet():
    # 61,100,840 with 1,000 classes (the published model), less 990 outputs of 4,096 + 1 weights.
    assert models.alexnet(width_factor=1).count_params() == 61_100_840 - 990 * 4097


def test_a_narrow_one_runs_on_small_images_and_is_linearized():
    model = models.alexnet((63, 63, 3), classes=3, width_factor=0.02, seed=0)
    x = np.random.default_rng(0).normal(size=(2, 63, 63, 3)).astype("float32")
    outputs = models.linearize(model)(x)
    assert outputs.shape == (2, 3)
    np.testing.assert_array_equal(outputs, model(x))


def test_small_images_are_refused():
    with pytest.raises(ValueError, match="63 x 63"):
        models.alexnet((32, 32, 3))
