"""The theoretical rate is where training breaks."""

import runpy

import numpy as np
import pytest

from experiments import learning_rates
from experiments.dense_networks import DenseNetworks
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import table
from tests.experiments.sweeping import assert_figure, assert_two_kills_change_nothing


@pytest.mark.parametrize(("rho", "falls"), [(0.9, True), (10, False)])
def test_a_linear_network_trains_below_eta_theory_and_not_above(rho, falls, tmp_path):
    """Depth 0 is linear in its weights: its kernel is exact and constant, the law is sharp.

    At 0.9 the error falls in all directions; at 10 that of the largest eigenvalue grows by 19 in
    each step, and training ends at the first row whose loss is not finite.
    """
    sizes = dict.fromkeys(("subset", "test_subset", "batch_size", "kernel_size"), 20)
    network = {"activation": "erf", "width": 8, "bias_variance": 0.1, "seed": 0}
    length = {"steps": 100, "eval_every": 10, "checkpoint_every": 100}
    networks = DenseNetworks({"dataset": "digits", "resize": None} | sizes | network | length)
    curve = networks.curve(0, 1.5, rho, tmp_path)
    losses = [row["train_loss"] for row in curve]
    if falls:
        assert np.all(np.diff(losses) < 0) and curve[-1]["step"] == 100
    else:
        assert not np.isfinite(losses[-1]) and curve[-1]["step"] < 100


@pytest.mark.parametrize("rho", [0.95, 1.05])
def test_the_early_loss_of_a_linear_network_rises_beyond_eta_theory_alone(rho, tmp_path):
    """Linear in its weights, as above: along the largest eigenvector by (1 - 2 rho)^2 a step."""
    sizes = dict.fromkeys(("subset", "test_subset", "batch_size", "kernel_size"), 20)
    network = {"activation": "erf", "width": 8, "bias_variance": 0.1, "seed": 0}
    length = {"steps": 40, "eval_every": 2, "checkpoint_every": 40, "early_steps": 40}
    networks = DenseNetworks({"dataset": "digits", "resize": None} | sizes | network | length)
    point = {"depth": 0, "weight_std": np.sqrt(1.5), "rho": rho}
    (row,) = learning_rates.measure(networks, point, tmp_path)
    assert (row["early_peak"] > learning_rates._RISEN) == (rho > 1)


def test_two_kills_change_nothing(tmp_path, capsys, pictures):
    sizes = "--dataset=digits --depths=1 --weight_stds=1.5 --width=16 --examples=20 --rhos=0.1,1,10"
    arguments = f"{sizes} --steps=4 --eval_every=2 --checkpoint_every=2".split()
    directory = assert_two_kills_change_nothing(learning_rates, tmp_path, *arguments)
    picture = assert_figure(directory, pictures, "learning_rates.png")
    panel, early = picture.panel("depth 1"), picture.panels[1]
    rows = table(directory / "metrics.csv")
    drawn = panel.line("$\\sigma_w$ = 1.5")
    assert_drawn(drawn, [row["rho"] for row in rows], [row["train_accuracy"] for row in rows])
    peaks = [min(row["early_peak"], learning_rates._CEILING) for row in rows]
    assert_drawn(early.line("$\\sigma_w$ = 1.5"), [row["rho"] for row in rows], peaks)
    assert peaks[0] == 1 and peaks[-1] > 2
    assert panel.scales[0] == "log" and panel.x_label == "$\\eta / \\eta_{theory}$"
    assert "theory: 1" in capsys.readouterr().out


def test_max_learning_rate_is_another_name_of_it(monkeypatch):
    started, original = [], runpy.run_module
    monkeypatch.setattr(runpy, "run_module", lambda name, **options: started.append(name))
    original("experiments.max_learning_rate", run_name="__main__")
    assert started == ["experiments.learning_rates"]
