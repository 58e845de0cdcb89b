"""The kernel's change in training."""

import numpy as np

from experiments import ntk_change
from tests.experiments.running import run, table
from tests.tolerances import float64


def test_the_change_falls_with_width_and_training_stops_early():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 5)).astype("float32"), rng.normal(size=(6, 2)).astype("float32")
    ends = {}
    for width in (16, 256):
        model = ntk_change.network(5, 2, width, 2, "tanh", 1.5, 0.1, 0)
        rows = ntk_change.track(model, x, y, 0.5 / width, 2000)
        assert [r["steps"] for r in rows[:-1]] == [10**i for i in range(1, len(rows))]
        assert rows[-1]["stopped"] and rows[-1]["least_loss"] < rows[0]["loss"]
        ends[width] = rows[1]["change"]
    # The same time in function space; the law is 1 / sqrt(width) or faster.
    assert ends[256] < ends[16] / 2
    still = ntk_change.track(model, x, y, 0.0, 1000)
    # The first step sets the least loss, then come 100 without a decrease.
    assert still[-1]["steps"] == 101 and still[-1]["change"] == 0


def test_the_binary_writes_its_files_and_repeats_nothing(tmp_path, monkeypatch, pictures):
    arguments = "--widths=8", "--depths=1", "--grid=2", "--examples=4", "--max_steps=20"
    run(ntk_change, tmp_path, *arguments)
    picture = pictures["ntk_change.png"]
    picture.assert_readable()
    assert picture.colour_labels == ["relative change", "loss"]
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
