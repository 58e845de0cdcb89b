"""The mean predictor over depth and variance."""

import numpy as np
import pytest

from experiments import ntk_prediction
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table
from tests.experiments.sweeping import KilledError
from tests.tolerances import float64

SMALL = ["--dataset=digits", "--grid=2", "--max_depth=3", "--train_size=60", "--test_size=60"]
SMALL += ["--resize=4"]


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


@pytest.mark.parametrize(("count", "largest"), [(20, 100), (11, 64), (2, 3), (5, 3), (100, 100)])
def test_the_grid_has_as_many_depths_as_asked_for(count, largest):
    depths = ntk_prediction.depths_of(count, largest)
    assert depths[0] == 1 and depths[-1] == largest and len(depths) == min(count, largest)
    assert np.all(np.diff(depths) > 0)


def test_the_binary_learns_something_and_draws_what_it_measured(tmp_path, pictures):
    run(ntk_prediction, tmp_path, *SMALL)
    rows = table(tmp_path / "metrics.csv")
    rows.sort(key=lambda row: (row["depth"], row["weight_variance"]))
    assert len(rows) == 4 and {row["phase"] for row in rows} == {"ordered", "chaotic"}
    # Ten classes: chance is 6 of 60, and more than 18 has a probability of 1e-5.
    assert all(row[f"accuracy_{r}"] > 18 / 60 for row in rows for r in ("pool", "flatten"))
    picture = pictures["ntk_prediction.png"]
    picture.assert_readable()
    pool, flatten = (
        np.array([row[f"accuracy_{readout}"] for row in rows]) for readout in ("pool", "flatten")
    )
    for panel, values in zip(picture.panels[:3], (pool, flatten, pool - flatten)):
        assert panel.title.startswith("test accuracy")
        np.testing.assert_allclose(panel.images[0].ravel(), values, rtol=float64.summed)
    chaotic = [row for row in rows if row["phase"] == "chaotic"]
    reach, variation, scales = (
        [f(row) for row in chaotic]
        for f in (
            lambda row: row["depth"] / row["xi_star"],
            lambda row: row["variation_pool"],
            lambda row: 6 * row["xi_star"],
        )
    )
    assert_drawn(picture.panel("chaotic: variation").line(r"$\sigma_w^2$ = 4.00"), reach, variation)
    assert_drawn(picture.panels[0].line(r"6 $\xi_*$"), [4.0], scales[:1])
    errors = [np.sqrt(a * (1 - a) / 60) for a in pool]
    np.testing.assert_allclose(errors, [row["error_pool"] for row in rows], rtol=float64.rounded)
    assert f"{max(row[f'error_{r}'] for row in rows for r in ('pool', 'flatten')):.3f}" in (
        picture.title
    )


def test_a_kill_and_two_hosts_change_nothing(tmp_path, monkeypatch):
    run(ntk_prediction, tmp_path / "whole", *SMALL)
    whole = (tmp_path / "whole" / "metrics.csv").read_bytes()
    original, count = ntk_prediction.measure_readout, []

    def killed(*arguments):
        count.append(0)
        if len(count) == 2:
            raise KilledError
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(ntk_prediction, "measure_readout", killed)
        run(ntk_prediction, tmp_path / "parts", *SMALL)
    run(ntk_prediction, tmp_path / "parts", *SMALL)
    assert (tmp_path / "parts" / "metrics.csv").read_bytes() == whole
    for index in (1, 0):
        run(ntk_prediction, tmp_path / "hosts", *SMALL, "--shard_count=2", f"--shard_index={index}")
    assert (tmp_path / "hosts" / "metrics.csv").read_bytes() == whole


def test_another_configuration_is_refused(tmp_path):
    run(ntk_prediction, tmp_path, *SMALL)
    with pytest.raises(Exception, match="normalization"):
        run(ntk_prediction, tmp_path, *SMALL, "--normalization=none")
