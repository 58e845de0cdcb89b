"""Figure 5 of the CNN paper, tiny."""

import math

from experiments import orthogonal_speed, vanilla_sweep
from tests.experiments.running import run, table
from tests.experiments.sweeping import TINY, assert_figure


def test_the_binary_draws_its_table(tmp_path, capsys, pictures):
    arguments = [*TINY, "--depth=3", "--learning_rates=0.01,0.02"]
    run(orthogonal_speed, tmp_path, *arguments)
    (panel,) = assert_figure(tmp_path, pictures, "orthogonal_speed.png").panels
    for name in ("orthogonal", "gaussian"):
        drawn = panel.line(name)
        rows = table(tmp_path / "metrics.csv", initialization=name)
        accuracies = [
            [row["train_accuracy"] for row in rows if row["learning_rate"] == rate]
            for rate in {row["learning_rate"] for row in rows}
        ]
        assert list(drawn[0]) == [2, 4] and list(drawn[1]) in accuracies
    assert "gaussian" in capsys.readouterr().out


def curve(initialization, rate, accuracies):
    network = {"initialization": initialization, "learning_rate": rate}
    return [
        network | {"step": 10 * i, "train_accuracy": accuracy, "test_accuracy": accuracy}
        for i, accuracy in enumerate(accuracies, 1)
    ]


def test_each_start_is_taken_at_its_best_rate():
    rows = curve("orthogonal", 0.1, [0.5, 0.95]) + curve("orthogonal", 0.2, [0.92, 0.91])
    rows += curve("gaussian", 0.1, [0.1, 0.3]) + curve("gaussian", 0.2, [0.2, 0.2])
    best = orthogonal_speed.best_curves(rows, 0.9)
    rates = {name: rows[0]["learning_rate"] for name, rows in best.items()}
    assert rates == {"orthogonal": 0.2, "gaussian": 0.1}
    assert vanilla_sweep.steps_to(best["orthogonal"], 0.9) == 10
    assert vanilla_sweep.steps_to(best["gaussian"], 0.9) == math.inf
    assert "more than 2.0 times sooner" in orthogonal_speed.verdict(best, 0.9)
