"""Repair: closed forms of the critical weights, networks that pass signals, and what stays."""

import keras
import numpy as np
import pytest

import mfcnn
from mfcnn import activations
from mfcnn.diagnosis import _critical, _twins
from tests.diagnosis import odd_models
from tests.tolerances import float32

L = keras.layers
X = odd_models.normal(8, 8)


def diagnosed(model, x=X):
    return mfcnn.diagnose(model, x, draws=0, tangent_kernel=False)


@pytest.mark.parametrize("name", ["tanh", "erf", "gelu", "swish", "sigmoid", "softplus", "elu"])
@pytest.mark.parametrize("q", [0.01, 0.3])
def test_critical_weights_have_chi_1_of_one_and_keep_the_variance(name, q):
    function = activations.get(name)
    weight, bias, mean = _critical.critical_weights(function, q, q)
    assert weight * function.derivative_second_moment(q) == pytest.approx(1, rel=1e-9)
    kept = weight * (function.second_moment(q) - mean * (2 * function.mean(q) - mean)) + bias
    assert kept == pytest.approx(q, rel=1e-9) and bias >= 0


def test_relu_is_critical_at_two():
    assert _critical.critical_weights(activations.get("relu"), 1.0, 1.0) == (2.0, 0.0, 0.0)


# Of gelu's twins phi'(h)^2 + phi'(-h)^2 is between 1/2 and 1.3, as their sum is one.
@pytest.mark.parametrize(
    ("activation", "limit"), [("tanh", 1.5), ("relu", 0.01), ("sigmoid", 1.5), ("gelu", 0.31)]
)
def test_a_deep_plain_network_passes_signals_and_gradients_after_repair(activation, limit):
    model = odd_models.plain(activation, 40)
    repaired = mfcnn.repair(model, X)
    report = diagnosed(repaired)
    report.assert_trainable()
    weighted = [layer.gradient.log10 for layer in report.layers]
    assert abs(weighted[0] - weighted[-1]) < limit
    kind = "orthogonal" if activation == "tanh" else "mirrored orthogonal"
    assert [one.kernel for one in repaired.table] == [kind] * 41


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "swish", "softplus"])
def test_the_odd_part_of_what_tends_to_a_ramp_is_linear(name):
    odd = _twins.odd_part(activations.get(name))
    assert odd.homogeneity == pytest.approx((1 + 0.2 * (name == "leaky_relu")) ** 2)


@pytest.mark.parametrize("name", ["tanh", "erf", "linear", "abs", "cos"])
def test_odd_and_even_activations_have_no_twins(name):
    assert _twins.odd_part(activations.get(name)) is None


def test_twins_are_only_where_all_that_reads_them_knows_it():
    def build(x):
        h = L.Dense(16, "relu")(x)
        h = L.Dense(16, "relu")(h)
        h = L.LayerNormalization()(L.Dense(16, "relu")(h))
        return L.Dense(3)(L.Dense(15, "relu")(h))  # 15 units have no twins

    repaired = mfcnn.repair(odd_models.functional((8,), build), X)
    kinds = [one.kernel.split()[0] for one in repaired.table]
    assert kinds == ["mirrored", "mirrored", "mirrored", "kept", "orthogonal", "orthogonal"]


def test_convolutions_get_delta_orthogonal_kernels_where_shapes_allow():
    def build(x):
        h = L.Conv2D(8, 3, padding="same", activation="relu")(x)
        h = L.Conv2D(16, 3, padding="same", activation="relu")(h)
        h = L.Conv2D(8, 3, 2, activation="relu")(h)
        return L.Dense(3)(L.Flatten()(h))

    model, x = odd_models.functional((8, 8, 1), build), odd_models.normal(4, 8, 8, 1)
    repaired = mfcnn.repair(model, x)
    kinds = ["mirrored delta-orthogonal"] * 2 + ["mirrored gaussian", "orthogonal"]
    assert [one.kernel for one in repaired.table] == kinds
    kernel = np.asarray(repaired.layers[2].kernel)
    assert np.count_nonzero(np.abs(kernel).sum((2, 3))) == 1
    np.testing.assert_allclose(
        kernel[1, 1, :4] @ kernel[1, 1, :4].T, 4 * np.eye(4), atol=10 * float32.rounded
    )  # V of four twins, of variance one at twice as many channels, and -V


def test_residual_branches_share_the_variance():
    def build(x):
        h = L.Dense(32)(x)
        for _ in range(20):
            h = h + L.Dense(32)(L.Dense(32, "relu")(h))
        return L.Dense(2)(h)

    repaired = mfcnn.repair(odd_models.functional((8,), build), X)
    report = diagnosed(repaired)
    first, last = report.layers[0], report.layers[-2]
    assert 1 < last.variance.value / first.variance.value < 2 * np.e
    assert 1 < first.gradient.value / last.gradient.value < 2 * np.e


@pytest.mark.parametrize("name", odd_models.models())
def test_any_model_is_repaired_saved_and_trained(name, tmp_path):
    model, x = odd_models.models()[name]
    before = model.get_weights()
    repaired = mfcnn.repair(model, x)
    assert all(map(np.array_equal, before, model.get_weights()))
    assert [w.shape for w in before] == [w.shape for w in repaired.get_weights()]
    repaired.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert all(map(np.array_equal, loaded.get_weights(), repaired.get_weights()))
    assert str(repaired.table).count("\n") == len(repaired.table)


def test_a_repaired_model_trains():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 8)), rng.integers(0, 2, 64)
    repaired = mfcnn.repair(odd_models.plain("relu", 30, outputs=2, last="softmax"), x)
    repaired.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    history = repaired.fit(x, y, batch_size=32, epochs=15, verbose=0)
    assert history.history["loss"][-1] < 0.7 * history.history["loss"][0]


def test_chosen_layers_change_and_others_stay():
    model = odd_models.plain(depth=3)
    names = [layer.name for layer in model.layers]
    repaired = mfcnn.repair(model, X, layers=names[1:3])
    changed = [
        not np.array_equal(a.kernel, b.kernel) for a, b in zip(model.layers, repaired.layers)
    ]
    assert changed == [False, True, True, False]
    with pytest.raises(ValueError, match="'nothing'"):
        mfcnn.repair(model, X, layers=["nothing"])


@pytest.mark.parametrize("name", ["subclassed", "plain"])
def test_by_data_every_layer_has_its_variance_on_the_batch(name):
    model, x = odd_models.models()[name]
    repaired = mfcnn.repair(model, x, method="data")
    report = diagnosed(repaired, x)
    depth = len(repaired.table)
    for layer, inside in zip(report.layers, [*[True] * (depth - 1), False]):
        target = 1 / depth if name == "plain" and inside else 1.0
        assert layer.variance.value == pytest.approx(target, rel=float32.deep)


def test_theory_alone_leaves_unknown_layers():
    model, x = odd_models.models()["subclassed"]
    kinds = [one.kernel for one in mfcnn.repair(model, x, method="theory").table]
    assert kinds == ["orthogonal", "kept"]


CONVOLUTIONS = {
    "full": lambda **o: keras.layers.Conv2D(10, 3, **o),
    "groups": lambda **o: keras.layers.Conv2D(10, 3, groups=5, **o),
    "depthwise": lambda **o: keras.layers.DepthwiseConv2D(3, depth_multiplier=2, **o),
    "separable": lambda **o: keras.layers.SeparableConv2D(7, 3, **o),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_what_kernels_make_of_constants_is_what_their_layer_does(name):
    layer = CONVOLUTIONS[name](padding="valid", use_bias=False)
    values = np.random.default_rng(0).normal(size=10)
    expected = layer(np.broadcast_to(values, (1, 3, 3, 10)))[0, 0, 0]
    if name == "groups":  # its kernel has the channels of one group: all have one value
        values = np.full(2, values[0])
        expected = layer(np.full((1, 3, 3, 10), values[0]))[0, 0, 0]
    for kernel in _critical.kernels(layer):
        values = kernel.of_constants(values)
    np.testing.assert_allclose(values, expected, rtol=float32.deep, atol=float32.deep)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("kind", ["depthwise", "separable"])
def test_convolutions_of_single_channels_pass_gradients_too(kind, activation):
    layers = keras.layers

    def block():
        if kind == "separable":
            return [layers.SeparableConv2D(32, 3, padding="same", activation=activation)]
        depthwise = layers.DepthwiseConv2D(3, padding="same", activation=activation)
        return [depthwise, layers.Conv2D(32, 1, activation=activation)]

    blocks = [layer for _ in range(12) for layer in block()]
    model = keras.Sequential(
        [keras.Input((8, 8, 32)), *blocks, layers.GlobalAveragePooling2D(), layers.Dense(4)]
    )
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 32))

    def ratio(model):
        report = mfcnn.diagnose(model, x, draws=0, tangent_kernel=False)
        logs = [layer.gradient.log10 for layer in report.layers if layer.parameters]
        return logs[0] - logs[-2]

    repaired = mfcnn.repair(model, x)
    assert "kept" not in {change.kernel for change in repaired.table}
    # Zeros at the border take at most ((1 + 2 cos(pi / 9)) / 3)^2 = 0.92 a spread kernel, and the
    # channels' own nine weights spread the rest: a decade in all, where Keras's start loses more.
    assert ratio(model) < -3 and abs(ratio(repaired)) < 1.5
