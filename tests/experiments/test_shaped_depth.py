"""Shaped activations against depth, tiny, and the table of made-up rows."""

import keras
import numpy as np
import pytest

from experiments import shaped_depth
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table
from tests.experiments.sweeping import TINY, assert_figure


def test_the_binary_draws_its_table(tmp_path, capsys, pictures):
    methods = ("tailored leaky relu", "resnet")
    sizes = ["--depths=2,4", "--seeds=1", "--strides=4", "--learning_rates=0.05"]
    run(shaped_depth, tmp_path, *TINY, *sizes, f"--methods={','.join(methods)}")
    picture = assert_figure(tmp_path, pictures, "shaped_depth.png")
    for method in methods:
        rows = [table(tmp_path / "metrics.csv", method=method, depth=depth) for depth in (2, 4)]
        assert [len(each) for each in rows] == [1, 1]
        losses = [np.mean([row["train_loss"] for row in each]) for each in rows]
        assert_drawn(picture.panels[1].line(method), [2, 4], losses)
    assert "resnet, 4 layers: training loss" in capsys.readouterr().out


def _row(rate, seed, loss, accuracy):
    names = ("method", "depth", "seed", "learning_rate", "train_loss", "test_accuracy")
    return dict(zip(names, ("m", 3, seed, rate, loss, accuracy)))


def test_the_best_rate_diverges_for_no_seed():
    rows = [_row(1, 0, 0.5, 0.8), _row(1, 1, 0.7, 0.9), _row(2, 0, 0.1, 1.0)]
    rows.append(_row(2, 1, float("nan"), float("nan")))
    (found,) = shaped_depth.table(rows)
    assert (found["learning_rate"], found["seeds"]) == (1, 2)
    assert found["test_accuracy"] == pytest.approx(0.85)
    assert found["error"] == pytest.approx(0.05)  # |0.9 - 0.8| / sqrt(2) / sqrt(2)


@pytest.mark.parametrize(
    "method, depth, deep, around",
    [("critical tanh", 6, 0.05, 0.03), ("tailored tanh", 600, 5e-4, 0.03), ("resnet", 6, 0.1, 0.1)],
)
def test_only_a_plain_deep_block_has_a_rate_that_falls_with_depth(method, depth, deep, around):
    config = {"depth": depth, "strides": ["2"], "learning_rate": 0.3, "steps": 10}
    optimizer = shaped_depth.make_optimizer(config | {"method": method})
    variables = [keras.Variable(1.0, name=name) for name in ("stem_1", "deep", "logits")]
    optimizer.apply([np.float32(1.0)] * 3, variables)  # Adam's first step is its rate
    moved = [1 - float(variable.value) for variable in variables]
    np.testing.assert_allclose(moved, [around, deep, around], rtol=1e-4)


@pytest.mark.parametrize("method", shaped_depth.METHODS)
def test_networks_have_as_many_convolutions_at_each_depth(method):
    config = {"depth": 6, "filters": 4, "strides": ["2"], "readout": "flatten", "seed": 1}
    config |= {"method": method, "padding": "same", "q_star": None, "eta": 0.9, "tau": 0.3}
    deep = [
        layer
        for layer in shaped_depth.make_model(config, (8, 8, 1), 10).layers
        if hasattr(layer, "depth")
    ]
    kernels = [w for layer in deep for w in layer.weights if w.shape[-4:-1] == (3, 3, 4)]
    assert sum(kernel.shape[0] for kernel in kernels) == 6
    keras.backend.clear_session()
