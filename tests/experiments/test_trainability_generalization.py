"""Figure 3 of the NTK paper, tiny."""

import numpy as np

from experiments import trainability_generalization
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table
from tests.experiments.sweeping import assert_figure
from tests.tolerances import float64


def test_the_binary_draws_its_table(tmp_path, capsys, pictures):
    grid = "--dataset=digits --depths=1,2 --weight_variances=1,4 --width=8"
    sizes = "--subset=20 --test_subset=20 --kernel_size=20 --batch_size=10"
    length = "--steps=4 --eval_every=2 --checkpoint_every=2"
    arguments = f"{grid} {sizes} {length}".split()
    run(trainability_generalization, tmp_path, *arguments)
    picture = assert_figure(tmp_path, pictures, "trainability_generalization.png")
    rows = table(tmp_path / "metrics.csv", step=4)
    rows.sort(key=lambda row: (row["depth"], row["weight_variance"]))
    for title, column in (("training", "train_accuracy"), ("test", "test_accuracy")):
        panel = picture.panel(f"{title} accuracy")
        drawn = [row[column] for row in rows]
        np.testing.assert_allclose(panel.images[0].ravel(), drawn, rtol=float64.summed)
        assert_drawn(panel.line("$\\xi_1$"), [1], [rows[0]["xi_1"]])
        assert_drawn(panel.line("$\\xi_*$"), [4], [rows[1]["xi_star"]])
    assert "phase" in capsys.readouterr().out
