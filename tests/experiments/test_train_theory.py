"""What the main job says before it starts, judged by its numbers."""

import re

import keras
import numpy as np
import pytest

from experiments import train, vanilla
from mfcnn import models

CONFIG = {
    "depth": 40,
    "activation": "tanh",
    "q_star": None,
    "weight_variance": None,
    "bias_variance": None,
    "initialization": "delta_orthogonal",
    "filters": 6,
    "batch_size": 16,
    "optimizer": "adam",
    "fused": False,
    "strides": [1, 2, 2],
    "padding": "circular",
    "readout": "pool",
    "jit_compile": None,
    "strategy": "default",
}
NUMBER = r"(-?[\d.,]+(?:e[+-]?\d+)?)"


def said(text, pattern):
    return float(
        re.search(pattern.replace("NUMBER", NUMBER), text)[1].rstrip(".,").replace(",", "")
    )


def gauss(function, q):
    """E[function(u)], u ~ N(0, q), by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    return np.sum(weights * function(np.sqrt(q) * nodes)) / np.sqrt(2 * np.pi)


def slope(u):
    return 1 / np.cosh(u) ** 2


def test_the_start_is_critical_at_the_variance_one_over_depth():
    text = train.theory(CONFIG, (8, 8, 1))
    weight_variance = said(text, r"sigma_w\^2 = NUMBER")
    bias_variance = said(text, r"sigma_b\^2 = NUMBER")
    # Six digits are printed.
    assert weight_variance * gauss(lambda u: slope(u) ** 2, 1 / 40) == pytest.approx(1, rel=1e-5)
    q = weight_variance * gauss(lambda u: np.tanh(u) ** 2, 1 / 40) + bias_variance
    assert q == pytest.approx(1 / 40, rel=1e-4)
    assert "should train" in text and "Critical" in text


def test_the_depth_scale_of_an_ordered_start_is_that_of_its_fixed_point():
    given = CONFIG | {"initialization": "gaussian", "weight_variance": 0.5, "bias_variance": 0.01}
    text = train.theory(given, (8, 8, 1))
    q = 0.01
    for _ in range(200):  # a contraction by 0.48 a step
        q = 0.5 * gauss(lambda u: np.tanh(u) ** 2, q) + 0.01
    chi_1 = 0.5 * gauss(lambda u: slope(u) ** 2, q)
    assert said(text, r"chi_1 = NUMBER") == pytest.approx(chi_1, rel=1e-5)
    xi_c = said(text, r"xi_c = NUMBER")
    assert xi_c == pytest.approx(-1 / np.log(chi_1), rel=5e-3)  # three digits
    assert said(text, r"6 xi_c = NUMBER") == pytest.approx(6 * -1 / np.log(chi_1), rel=5e-3)
    assert "will not train" in text


@pytest.mark.parametrize(("optimizer", "slots"), [("sgd", 0), ("momentum", 1), ("adam", 2)])
def test_the_memory_is_that_of_the_block_that_is_built(optimizer, slots):
    text = train.theory(CONFIG | {"optimizer": optimizer}, (8, 8, 1))
    model = models.vanilla_cnn((8, 8, 1), 40, 6, 10)
    block = max(model.layers, key=lambda layer: layer.count_params())
    parameters = block.count_params()
    assert said(text, "Deep block: NUMBER parameters") == parameters
    assert f"on {block.output.shape[1]}x{block.output.shape[2]} positions" in text
    kib = 4 * parameters / 1024
    assert said(text, "parameters NUMBER KiB") == pytest.approx(kib, abs=0.06)
    if slots:
        assert said(text, "slots NUMBER KiB") == pytest.approx(slots * kib, abs=0.06)
    else:
        assert "slots 0 B" in text


@pytest.mark.parametrize(
    ("own", "copies"),
    [({"fused": True}, 0), ({"jit_compile": True}, 1), ({"jit_compile": False}, 2)],
)
def test_gradients_are_counted_as_often_as_the_step_holds_them(own, copies):
    """Compiled in place; uncompiled gathered and copied; fused, each layer's at once."""
    text = train.theory(CONFIG | {"optimizer": "sgd"} | own, (8, 8, 1))
    kib = said(text, "parameters NUMBER KiB")
    found = said(text, "gradients NUMBER KiB") if copies else float("gradients 0 B" not in text)
    assert found == pytest.approx(copies * kib, abs=0.16)  # figures of one decimal


@pytest.mark.parametrize("input_scale", [None, 0.2])
def test_the_verdict_is_that_of_the_scaled_input(input_scale):
    """The deep block's output, of networks of 64 channels, in standard errors of their mean."""
    own = CONFIG | {"filters": 64, "depth": 10, "input_scale": input_scale, "seed": 0}
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    squares = []
    for seed in range(20):
        model = vanilla.make_model(own | {"seed": seed}, (8, 8, 1), 10)
        deep = keras.Model(model.inputs, model.get_layer("deep").output)
        squares.append(np.mean(np.square(deep(images))))
    mean, error = np.mean(squares), np.std(squares, ddof=1) / np.sqrt(20)
    q = vanilla.verdict(own, (8, 8, 1), images).output_variance
    assert error < 0.02 * mean and abs(gauss(lambda u: np.tanh(u) ** 2, q) - mean) < 4 * error
