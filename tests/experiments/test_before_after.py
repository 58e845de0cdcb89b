"""Architectures before and after repair, the smallest of them."""

import numpy as np

from experiments import before_after
from tests.experiments.running import run, table


def test_the_binary_draws_its_table(tmp_path, pictures):
    run(before_after, tmp_path, "--names=tanh 20,sigmoid 50", "--inputs=4")
    picture = pictures["before_after.png"]
    assert [panel.title for panel in picture.panels if panel.visible] == ["tanh 20", "sigmoid 50"]
    rows = table(tmp_path / "metrics.csv", model="sigmoid 50")
    drawn = picture.panel("sigmoid 50")
    for row in rows:
        x, logs = drawn.line(f"{row['start']}, squared gradient")
        assert len(x) == row["layers"] == 51
        np.testing.assert_allclose(logs[0] - logs[-1], row["log10_gradient_ratio"])
    before, after = rows
    # 50 sigmoids lose at least a factor of 16 each in theory: phi' is at most 1 / 4.
    assert before["log10_gradient_ratio"] < -40 and before["trainable"] != "True"
    assert abs(after["log10_gradient_ratio"]) < 1 and after["trainable"] == "True"
