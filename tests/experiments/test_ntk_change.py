"""The kernel's change in training."""

import keras
import numpy as np
import pytest

from experiments import ntk_change
from tests.experiments.running import run, table
from tests.tolerances import float64


def tracked(width, rate, steps, x, y):
    model, advance = ntk_change.network(x.shape[1], 2, width, 2, "tanh")
    ntk_change.draw_weights(model, 1.5, 0.1, 0)
    return ntk_change.track(model, advance, x, y, rate, steps)


def test_the_change_falls_with_width_and_training_stops_early():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 5)).astype("float32"), rng.normal(size=(6, 2)).astype("float32")
    ends = {}
    for width in (16, 256):
        rows = tracked(width, 0.5 / width, 2000, x, y)
        assert [r["steps"] for r in rows[:-1]] == [10**i for i in range(1, len(rows))]
        assert rows[-1]["stopped"] and rows[-1]["least_loss"] < rows[0]["loss"]
        ends[width] = rows[1]["change"]
    # The same time in function space; the law is 1 / sqrt(width) or faster.
    assert ends[256] < ends[16] / 2


def test_a_loss_that_stands_still_ends_after_100_steps_and_a_slow_one_does_not(monkeypatch):
    x, y = np.eye(3, 5, dtype="float32"), np.eye(3, 2, dtype="float32")
    monkeypatch.setattr(ntk_change, "_LEAST_DECREASE", 0.1)
    ntk_change.network.cache_clear()
    still = tracked(8, 1e-12, 1000, x, y)
    # The first step sets the loss that counts, then come 100 without a lower one.
    assert still[-1]["steps"] == 101 and still[-1]["converged"] == 1
    assert still[-1]["change"] == pytest.approx(0, abs=1e-6)
    # Less than 0.1 in a step, more than 0.1 in 100: it goes on, as with Keras's EarlyStopping.
    slow = tracked(8, 0.002, 150, x, 2 * y)
    assert slow[-1]["steps"] == 150 and slow[-1]["converged"] == 0
    assert 0.1 < slow[0]["loss"] - slow[-1]["loss"] and slow[-2]["loss"] - slow[-1]["loss"] < 5
    ntk_change.network.cache_clear()


def test_a_rate_of_0_is_half_of_the_largest_that_the_kernel_allows():
    """At depth 0 the loss is quadratic: the largest eigenvalue's mode is gone after one step."""
    x, y = np.array([[1.0, 2.0]], "float32"), np.array([[3.0]], "float32")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    rows = ntk_change.track(model, ntk_change.training(model), x, y, 0.0, 10)
    assert rows[-1]["rate"] == pytest.approx(1 / 6)  # 1 + 4, and the bias's 1
    assert rows[-1]["least_loss"] == pytest.approx(0, abs=1e-10)


def test_the_binary_writes_its_files_and_repeats_nothing(tmp_path, monkeypatch, pictures):
    arguments = "--widths=8", "--depths=1", "--grid=2", "--examples=4", "--max_steps=20"
    arguments += ("--activations=tanh",)
    run(ntk_change, tmp_path, *arguments)
    picture = pictures["ntk_change.png"]
    picture.assert_readable()
    assert picture.colour_labels == ["relative change", "loss / constant's"]
    rows = table(tmp_path / "metrics.csv", checkpoint=10)
    drawn = picture.panel("width 8, 10 steps").images[0]
    np.testing.assert_allclose(drawn, [[row["change"] for row in rows]], rtol=float64.summed)
    text = (tmp_path / "metrics.csv").read_text()
    # Two networks, at 10 steps and in the end.
    assert len(text.splitlines()) == 1 + 2 * 2
    # A kill after the first network.
    (tmp_path / "metrics.csv").write_text("".join(text.splitlines(keepends=True)[:3]))
    track, calls = ntk_change.track, []
    monkeypatch.setattr(ntk_change, "track", lambda *a: calls.append(1) or track(*a))
    run(ntk_change, tmp_path, *arguments)
    assert (tmp_path / "metrics.csv").read_text() == text
    assert len(calls) == 1
