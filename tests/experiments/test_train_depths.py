"""Figures 1 and 3 of the CNN paper, tiny."""

from experiments import train_depths
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import table
from tests.experiments.sweeping import assert_figure, assert_two_kills_change_nothing

ARGUMENTS = [
    "--dataset=digits",
    "--subset=64",
    "--test_subset=32",
    "--filters=3",
    "--batch_size=16",
    "--steps=4",
    "--eval_every=2",
    "--checkpoint_every=1",
    "--steps_per_execution=1",
    "--nojit_compile",
]


def test_two_kills_change_nothing(tmp_path, capsys, pictures):
    directory = assert_two_kills_change_nothing(train_depths, tmp_path, *ARGUMENTS, "--depths=2,3")
    picture = assert_figure(directory, pictures, "train_depths.png")
    for panel, name in zip(picture.panels, ("delta_orthogonal", "orthogonal")):
        assert panel.title == name.replace("_", "-")
        for depth in (2, 3):
            rows = table(directory / "metrics.csv", initialization=name, depth=depth)
            drawn = panel.line(f"{depth} layers")
            assert_drawn(drawn, [2, 4], [row["test_accuracy"] for row in rows])
    assert "orthogonal, 3 layers" in capsys.readouterr().out
