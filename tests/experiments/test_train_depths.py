"""Figures 1 and 3 of the CNN paper, tiny."""

from experiments import train_depths
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table
from tests.experiments.sweeping import TINY, assert_figure


def test_the_binary_draws_its_table(tmp_path, capsys, pictures):
    run(train_depths, tmp_path, *TINY, "--depths=2,3")
    picture = assert_figure(tmp_path, pictures, "train_depths.png")
    for panel, name in zip(picture.panels, ("delta_orthogonal", "orthogonal")):
        assert panel.title == name.replace("_", "-")
        for depth in (2, 3):
            rows = table(tmp_path / "metrics.csv", initialization=name, depth=depth)
            drawn = panel.line(f"{depth} layers")
            assert_drawn(drawn, [2, 4], [row["test_accuracy"] for row in rows])
    assert "orthogonal, 3 layers" in capsys.readouterr().out
