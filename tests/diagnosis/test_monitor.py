"""The callback writes what the probes see while a model trains."""

import csv

import keras
import numpy as np
import pytest

import mfcnn
from tests.diagnosis import odd_models


def test_rows_follow_the_steps_and_hold_the_moments_of_that_moment(tmp_path):
    keras.utils.set_random_seed(0)
    model, x = odd_models.plain(depth=2, outputs=1), odd_models.normal(8, 8)
    before = mfcnn.diagnose(model, x, draws=0, tangent_kernel=False)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    y = np.sign(x[:, :1])
    monitor = mfcnn.diagnosis.Monitor(
        x, 4, tmp_path / "m.csv", tmp_path / "logs", tangent_kernel=True, y=y
    )
    model.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=[monitor])
    with open(tmp_path / "m.csv") as file:
        rows = list(csv.DictReader(file))
    after = mfcnn.diagnose(model, x, draws=0, tangent_kernel=False)
    steps = sorted({int(row["step"]) for row in rows})
    assert steps == [0, 4, 8] and len(rows) == 3 * 4
    for layer, row in zip(before.layers, rows):
        assert (row["layer"], float(row["variance"])) == (layer.name, layer.variance.value)
    assert after.layers[0].variance.value != before.layers[0].variance.value
    kernels = [row for row in rows if row["layer"] == "model"]
    largest = [float(row["lambda_max"]) for row in kernels]
    assert largest[-1] == pytest.approx(mfcnn.empirical.lambda_max(model, x), rel=1e-2)
    assert all(-1 <= float(row["alignment"]) <= 1 for row in kernels)
    assert list((tmp_path / "logs").iterdir())


def test_targets_fit_the_inputs(tmp_path):
    model, x = odd_models.plain(outputs=1), odd_models.normal(4, 8)
    model.compile("sgd", "mse")
    monitor = mfcnn.diagnosis.Monitor(x, path=tmp_path / "m.csv", y=np.ones((3, 1)))
    with pytest.raises(ValueError, match="y must hold a target for each input"):
        model.fit(x, np.ones((4, 1)), verbose=0, callbacks=[monitor])
