"""The report names what is wrong with models that do not train, and leaves those alone that do."""

import os
import re

import keras
import numpy as np
import pytest

import mfcnn
from mfcnn.diagnosis import _findings
from tests.diagnosis import odd_models

L = keras.layers
X = odd_models.normal(6, 8)


def diagnosed(model, x=X, **options):
    return mfcnn.diagnose(model, x, **{"draws": 2, "tangent_kernel": False} | options)


@pytest.fixture(scope="module")
def broken():
    return diagnosed(odd_models.plain("relu", 60))


def shares(report):
    """log10 of q g by layer: what the outputs do when weights change by their own size."""
    return [layer.gradient.log10 + layer.variance.log10 for layer in report.layers]


def test_a_gradient_that_not_even_adam_sees_is_an_error(broken):
    finding = broken.findings[0]
    assert not broken.trainable and "will not train" in broken.verdict
    assert finding.number == pytest.approx(10.0 ** max(shares(broken))) and finding.number < 1e-14
    with pytest.raises(AssertionError, match=finding.layer):
        broken.assert_trainable()


@pytest.mark.parametrize(("activation", "depth"), [("relu", 20), ("gelu", 14)])
def test_a_gradient_that_vanishes_for_gradient_descent_is_a_warning(activation, depth):
    report = diagnosed(odd_models.plain(activation, depth))
    (finding,) = [one for one in report.findings if "vanishes" in one.reason]
    names = [layer.name for layer in report.layers]
    logs = [layer.gradient.log10 for layer in report.layers]
    ratios = np.array(logs) - logs[-1]
    place = names.index(finding.layer)
    assert ratios[place] < np.log10(_findings.SLOW) <= ratios[place + 1]
    assert finding.number == pytest.approx(10 ** ratios[0]) and report.trainable
    assert "may train slowly" in report.verdict and finding.severity == "warning"


def test_the_scale_of_relu_layers_is_no_chaos():
    """q g is the same in all layers without biases, by Euler's theorem on homogeneous functions."""
    large = keras.initializers.RandomNormal(stddev=1.0)
    report = diagnosed(odd_models.plain("relu", 8, kernel_initializer=large))
    # Of single draws they differ by the angle between signal and gradient.
    assert np.ptp(shares(report)) < 1 and report.trainable
    assert report.layers[0].gradient.log10 > 6


def test_inputs_that_become_alike_are_an_error():
    report = diagnosed(odd_models.plain("sigmoid", 12))
    assert any("alike" in finding.reason for finding in report.findings) and not report.trainable


def test_an_exploding_gradient_is_an_error():
    wide = keras.initializers.RandomNormal(stddev=0.6)
    report = diagnosed(odd_models.plain("tanh", 30, kernel_initializer=wide))  # 10^8.7
    assert "explodes" in report.findings[0].reason and not report.trainable
    assert report.phases[0][1].phase == "chaotic"


@pytest.mark.parametrize(("depth", "severity"), [(25, "warning"), (80, "error")])
def test_normalized_networks_are_slow_before_they_are_lost(depth, severity):
    # In theory a dense relu layer with batch normalization multiplies the squared gradient by
    # pi / (pi - 1) = 1.47 (Yang et al. 2019, large batches): 1e4 at 25 layers, 1e13 at 80.
    keras.utils.set_random_seed(0)
    layers = keras.layers
    blocks = [[layers.Dense(32), layers.BatchNormalization(), layers.ReLU()] for _ in range(depth)]
    model = keras.Sequential([keras.Input((8,)), *sum(blocks, []), layers.Dense(4)])
    x = np.random.default_rng(0).normal(size=(32, 8))
    found = mfcnn.diagnose(model, x, draws=0, tangent_kernel=False).findings
    assert "explodes" in found[0].reason and found[0].severity == severity


def test_one_normalization_at_the_end_saves_no_chaotic_network():
    layers = keras.layers
    start = keras.initializers.RandomNormal(stddev=3 / 32**0.5, seed=0)
    dense = [layers.Dense(32, "tanh", kernel_initializer=start) for _ in range(12)]
    model = keras.Sequential(
        [keras.Input((8,)), *dense, layers.LayerNormalization(), layers.Dense(4)]
    )
    report = mfcnn.diagnose(model, X, draws=0, tangent_kernel=False)
    assert "explodes" in report.findings[0].reason and not report.trainable


@pytest.mark.parametrize(
    ("activation", "initializer", "depth"),
    [("relu", "he_normal", 20), ("tanh", "glorot_uniform", 20), ("selu", "lecun_normal", 6)],
)
def test_a_model_that_trains_has_no_error(activation, initializer, depth):
    report = diagnosed(odd_models.plain(activation, depth, 64, kernel_initializer=initializer))
    report.assert_trainable()
    assert "should train" in report.verdict


@pytest.mark.parametrize("name", odd_models.models())
def test_any_model_gets_a_report(name):
    model, x = odd_models.models()[name]
    report = diagnosed(model, x)
    assert len(str(report).splitlines()) >= 2 + len(report.layers)
    assert report.draws == 2 and all(layer.variance.draws == 2 for layer in report.layers)


def test_a_file_is_a_model_and_weights_as_they_are_have_no_spread(tmp_path):
    model = odd_models.plain()
    model.save(tmp_path / "model.keras")
    one, other = diagnosed(str(tmp_path / "model.keras"), draws=0), diagnosed(model, draws=0)
    assert [a.variance.value for a in one.layers] == [b.variance.value for b in other.layers]
    assert np.isnan(one.layers[0].variance.spread)


def test_the_learning_rate_is_where_gradient_descent_becomes_unstable():
    model, x = keras.Sequential([keras.Input((8,)), L.Dense(1)]), np.eye(8)[:2]
    report = diagnosed(model, x, tangent_kernel=True)  # Theta = x x' + 1 = [[2, 1], [1, 2]]
    assert report.max_learning_rate == pytest.approx(2 / 3, rel=1e-3)
    assert report.condition_number == pytest.approx(3, rel=1e-3)


def test_the_table_fits_a_terminal(broken):
    lines = str(diagnosed(odd_models.plain("relu", depth=60))).splitlines()
    assert len(lines) < 60 and max(map(len, lines)) <= 100
    assert any(re.search(r"\d+ more", line) for line in lines)


def test_the_page_needs_no_other_file(broken, tmp_path):
    broken.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<tr>") == len(broken.layers) + 1 and page.count("<img") == 1
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "<script" not in page
    assert all(finding.layer in page for finding in broken.findings)


def test_the_picture_shows_measurement_and_theory(broken):
    figure = broken.plot()
    assert len(figure.axes) == 3
    for axes, name in zip(figure.axes, ("variance", "correlation", "gradient")):
        line = axes.get_lines()[0].get_ydata()
        np.testing.assert_array_equal(line, [getattr(o, name).theory for o in broken.layers])


def test_the_table_has_a_row_for_each_layer(broken):
    pytest.importorskip("pandas")
    frame = broken.to_dataframe()
    assert list(frame["layer"]) == [layer.name for layer in broken.layers]
    assert {"variance", "variance_spread", "variance_theory", "gradient"} <= set(frame.columns)


def test_values_that_overflow_are_named():
    model = odd_models.plain("relu", 3, 8)
    model.layers[1].kernel.assign(np.full((8, 8), np.inf, "float32"))
    report = diagnosed(model, draws=0)
    assert report.findings[0].layer == model.layers[1].name and not report.trainable


def monitored(model, x):
    """Training with the callback, which sees the model when it starts."""
    model.compile("sgd", "mse")
    monitor = mfcnn.diagnosis.Monitor(x, path=os.devnull)
    model.fit(X, np.zeros((len(X), 5)), verbose=0, callbacks=[monitor])


CALLS = {"diagnose": diagnosed, "repair": mfcnn.repair, "Monitor": monitored}
BAD = {
    "a model that is not built": ({"model": keras.Sequential([L.Dense(5)])}, "must be built"),
    "a file that is none": ({"model": "nowhere.keras"}, "model must be a keras.Model or the path"),
    "no model": ({"model": L.Dense(2)}, "model must be a keras.Model or the path"),
    "an empty batch": ({"x": np.zeros((0, 8))}, "x must hold at least one"),
    "no number": ({"x": np.full((2, 8), np.nan)}, "x must be finite"),
    "a wrong shape": ({"x": np.zeros((2, 7))}, "x must be of the model's input shape"),
    "words": ({"x": "words"}, "x must"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence(call, name):
    change, words = BAD[name]
    if call == "Monitor" and "model" in change:
        pytest.skip("Keras hands over the model")
    arguments = {"model": odd_models.plain(), "x": X} | change
    with pytest.raises((ValueError, TypeError), match=words) as error:
        CALLS[call](**arguments)
    assert "Received" in str(error.value) and "\n" not in str(error.value)


def test_a_bad_number_of_draws_is_refused():
    with pytest.raises(ValueError, match="draws must be an integer of at least 0"):
        mfcnn.diagnose(odd_models.plain(), X, draws=-1)
