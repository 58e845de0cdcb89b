"""Figure 3 of the NTK paper, tiny."""

from experiments import trainability_generalization
from tests.experiments.sweeping import assert_figure, assert_two_kills_change_nothing


def test_two_kills_change_nothing(tmp_path, capsys):
    directory = assert_two_kills_change_nothing(
        trainability_generalization, tmp_path, "--dataset=digits", "--depths=1,2",
        "--weight_variances=1,4", "--width=8", "--subset=20", "--test_subset=20",
        "--kernel_size=20", "--batch_size=10", "--steps=4", "--eval_every=2",
        "--checkpoint_every=2",
    )  # fmt: skip
    assert_figure(directory, "trainability_generalization.png")
    assert "phase" in capsys.readouterr().out
