"""The mean predictor over depth and variance."""

import numpy as np

from experiments import ntk_prediction
from tests.experiments.running import run, table
from tests.tolerances import float64


def test_predictor_is_kernel_regression():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(25, 40))
    theta = features @ features.T
    y_train, y_test = rng.integers(0, 3, 20), rng.integers(0, 3, 5)
    accuracy, variation = ntk_prediction.predict(
        1e5 * theta[:20, :20], 1e5 * theta[20:, :20], y_train, y_test, 3, ridge=0.1
    )
    ridge = 0.1 * np.trace(theta[:20, :20]) / 20
    targets = np.eye(3)[y_train] - 1 / 3
    mean = theta[20:, :20] @ np.linalg.solve(theta[:20, :20] + ridge * np.eye(20), targets)
    assert accuracy == np.mean(np.argmax(mean, 1) == y_test)
    np.testing.assert_allclose(
        variation, np.std(mean, axis=0).mean() / np.std(targets), rtol=float64.solved
    )


def test_a_singular_kernel_has_no_accuracy_without_ridge():
    ones, labels = np.ones((6, 6)), np.array([0, 1, 2, 0, 1, 2])
    found = ntk_prediction.predict(ones, ones, labels, labels, 3, ridge=0.0)
    assert np.all(np.isnan(found))
    accuracy, variation = ntk_prediction.predict(ones, ones, labels, labels, 3, ridge=1e-3)
    assert accuracy == 1 / 3 and variation < 1e-9


def test_the_binary_learns_something_and_writes_its_files(tmp_path, pictures):
    sizes = ["--grid=2", "--max_depth=3", "--train_size=40", "--test_size=40", "--resize=4"]
    run(ntk_prediction, tmp_path, *sizes)
    rows = table(tmp_path / "metrics.csv")
    rows.sort(key=lambda row: (row["depth"], row["weight_variance"]))
    assert len(rows) == 4 and {row["phase"] for row in rows} == {"ordered", "chaotic"}
    # Ten classes: chance is 4 of 40, and more than 12 has a probability of 1e-4.
    assert all(row[f"accuracy_{r}"] > 12 / 40 for row in rows for r in ("pool", "flatten"))
    picture = pictures["ntk_prediction.png"]
    picture.assert_readable()
    pool, flatten = (
        np.array([row[f"accuracy_{readout}"] for row in rows]) for readout in ("pool", "flatten")
    )
    for panel, values in zip(picture.panels, (pool, flatten, pool - flatten)):
        assert panel.title.startswith("test accuracy")
        np.testing.assert_allclose(panel.images[0].ravel(), values, rtol=float64.summed)
