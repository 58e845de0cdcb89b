"""Figure 4 of the CNN paper, tiny."""

from experiments import variance_profiles
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


def test_two_kills_change_nothing(tmp_path, capsys):
    arguments = [*ARGUMENTS, "--depths=2,3", "--profiles=gs0,gs4", "--seeds=1"]
    directory = assert_two_kills_change_nothing(variance_profiles, tmp_path, *arguments)
    assert_figure(directory, "variance_profiles.png")
    assert "GS4: test accuracy 2: " in capsys.readouterr().out
