"""Theory beside the measurement: closed forms, Monte Carlo, and blank where there is no rule."""

import keras
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import mfcnn
from mfcnn import layers as own
from mfcnn.diagnosis import _theory
from mfcnn.empirical import _inputs
from tests.diagnosis import odd_models
from tests.tolerances import float64

L = keras.layers


def expected(model, x, training=True):
    x = _inputs.convert(model, x, "x")
    return _theory.expectations(_theory.read(model, x, training, fresh=True), x)


def gaussian_mean(function, q):
    density = scipy.stats.norm(scale=np.sqrt(q)).pdf
    reach = 12 * np.sqrt(q)
    return scipy.integrate.quad(lambda z: density(z) * function(z), -reach, reach, epsabs=1e-13)[0]


def initializers(fan_in, weight_variance, bias_variance=0.0):
    normal = keras.initializers.RandomNormal
    return {
        "kernel_initializer": normal(stddev=np.sqrt(weight_variance / fan_in)),
        "bias_initializer": normal(stddev=np.sqrt(bias_variance)),
    }


def test_a_tanh_network_obeys_the_recursion_written_by_hand():
    width, depth, weight, bias = 16, 5, 1.7, 0.2
    model = odd_models.plain("tanh", depth, width, 3, **initializers(width, weight, bias))
    x = 2 * np.eye(8)[:3]  # exact in float32
    found = expected(model, x)
    q = [weight * 4 / width + bias]
    for _ in range(depth):
        q.append(weight * gaussian_mean(lambda z: np.tanh(z) ** 2, q[-1]) + bias)
    chi = [weight * gaussian_mean(lambda z: np.cosh(z) ** -4, one) for one in q[:-1]]
    gradient = np.append(np.cumprod(chi[::-1])[::-1], 1.0)
    np.testing.assert_allclose([one.variance for one in found], q, rtol=float64.solved)
    np.testing.assert_allclose([one.gradient for one in found], gradient, rtol=float64.solved)


def test_gradients_by_dense_weights_are_outer_products():
    found = expected(odd_models.plain("relu", 2, 64, **initializers(64, 2.0)), np.eye(8)[:2])
    for one, before, fan_in in zip(found[1:], found, (64, 64)):
        assert one.weight_gradient == pytest.approx(
            one.gradient * (fan_in * before.variance / 2 + 1), rel=float64.solved
        )


def test_relu_correlations_follow_the_arc_cosine_kernel():
    model = odd_models.plain("relu", 4, 32, **initializers(32, 2.0))
    c, found = 0.5, expected(model, [[1.0] + [0.0] * 7, [1.0] * 4 + [0.0] * 4])
    for one in found:
        assert one.correlation == pytest.approx(c, rel=float64.solved)
        assert one.gradient == pytest.approx(1, rel=float64.solved)
        c = (np.sqrt(1 - c * c) + (np.pi - np.arccos(c)) * c) / np.pi


def test_a_residual_sum_adds_the_gradients_of_both_paths():
    weight = initializers(32, 1.2)

    def build(x):
        h = L.Dense(32, **weight)(x)
        h = h + L.Dense(32, **weight)(L.Dense(32, "relu", **weight)(h))
        return L.Dense(3, **weight)(h)

    found = expected(odd_models.functional((8,), build), np.eye(8)[:3])
    first, inner, branch, total, _ = found
    assert total.gradient == pytest.approx(1.2) and branch.gradient == pytest.approx(1.2)
    assert inner.gradient == pytest.approx(1.2**2 / 2)
    assert first.gradient == pytest.approx(1.2 * (1 + 1.2**2 / 2), rel=float64.solved)
    assert total.variance == pytest.approx(first.variance * (1 + 1.2**2 / 2), rel=float64.solved)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_stack_is_its_layers_one_by_one(rank):
    weight = initializers(32, 1.6, 0.1)
    image = {"kernel_size": 3, "padding": "same"} if rank else {}
    weight["kernel_initializer"] = keras.initializers.RandomNormal(stddev=0.07 if rank else 0.2)
    layer, deep = (L.Conv2D, own.DeepConvolution) if rank else (L.Dense, own.DeepDense)
    shape = (5, 5, 3) if rank else (8,)
    x = odd_models.normal(3, *shape)

    def build(hidden):
        first, last = layer(32, activation="tanh", **image, **weight), L.Dense(2, **weight)
        return keras.Sequential([keras.Input(shape), first, *hidden, L.Flatten(), last])

    unrolled = [layer(32, activation="tanh", **image, **weight) for _ in range(4)]
    stack = deep(4, 32, activation="tanh", **image, **weight)
    plain, looped = (expected(build(hidden), x) for hidden in (unrolled, [stack]))
    for name in ("variance", "correlation", "gradient"):
        ends = [(getattr(plain[k], name), getattr(looped[k], name)) for k in (0, -1)]
        np.testing.assert_allclose(*zip(*ends), rtol=float64.solved, err_msg=name)


def test_a_normalization_divides_gradients_by_the_variance():
    weight = initializers(32, 1.5)

    def build(x):
        return L.Dense(3, **weight)(L.LayerNormalization(epsilon=0.1)(L.Dense(32, **weight)(x)))

    dense, normalized, _ = expected(odd_models.functional((8,), build), np.eye(8)[:3])
    assert dense.gradient == pytest.approx(normalized.gradient / (dense.variance + 0.1))


def convolutions(x):
    h = L.Conv2D(128, 3, padding="same", activation="relu", **initializers(27, 2.0))(x)
    h = L.Conv2D(128, 3, 2, padding="same", activation="tanh", **initializers(9 * 128, 2.0, 0.1))(h)
    h = h + L.Conv2D(128, 1, kernel_initializer="he_normal")(L.LayerNormalization()(h))
    h = L.AveragePooling2D(2)(L.Conv2D(128, 2, activation="relu")(h))
    return L.Dense(10, **initializers(128, 1.0))(L.Flatten()(h))


def branches(x):
    h = L.Dense(200, "gelu", **initializers(8, 2.0))(x)
    one = L.Dense(100, "tanh", kernel_initializer="he_normal")(h)
    h = L.Concatenate()([one, L.Dense(200, kernel_initializer="he_normal")(h)])
    h = L.Dense(200, "relu")(L.RMSNormalization()(h))
    return L.Dense(10)(h)


@pytest.mark.parametrize(
    ("build", "shape"), [(convolutions, (8, 8, 3)), (branches, (8,))], ids=["cnn", "branches"]
)
def test_a_wide_network_is_what_theory_says(build, shape):
    """Means over 12 draws: five standard errors, and corrections of the order depth / width."""
    x = odd_models.normal(4, *shape)
    report = mfcnn.diagnose(odd_models.functional(shape, build), x, draws=12, tangent_kernel=False)
    known = 0
    for layer in report.layers:
        for name in ("variance", "correlation", "gradient", "weight_gradient"):
            quantity = getattr(layer, name)
            if np.isfinite(quantity.theory):
                error = quantity.spread / np.sqrt(12)
                allowed = 5 * error + len(report.layers) / 100 * abs(quantity.theory)
                assert abs(quantity.value - quantity.theory) < allowed, (layer.name, name)
                known += 1
    assert known > 3 * len(report.layers) - 3


def test_what_has_no_rule_leaves_the_rest_blank_and_says_why():
    def build(x):
        h = L.Conv2D(8, 3, activation="relu")(x)
        return L.Dense(2)(L.Flatten()(L.MaxPooling2D()(h)))

    found = expected(odd_models.functional((8, 8, 1), build), odd_models.normal(3, 8, 8, 1))
    assert np.isfinite(found[0].variance) and np.isnan(found[0].gradient)
    assert "maximum" in found[1].reason and "before it" in found[2].reason
    assert all(np.isnan(one.variance) and np.isnan(one.gradient) for one in found[1:])


@pytest.mark.parametrize("name", odd_models.models())
def test_theory_reads_what_it_can_of_any_model(name):
    model, x = odd_models.models()[name]
    for one in expected(model, x):
        assert one.reason or np.isfinite(one.variance)


def test_runs_of_equal_layers_are_found():
    model = odd_models.plain("tanh", 7, 32, **initializers(32, 1.5, 0.1))
    x = _inputs.convert(model, odd_models.normal(2, 8), "x")
    (run,) = _theory.runs(_theory.read(model, x, True, fresh=True))
    assert run.activation.name == "tanh" and run.bias_variance == pytest.approx(0.1)
    assert run.depth == 7 and run.weight_variance == pytest.approx(1.5)


def test_trained_weights_are_not_those_of_the_initializers():
    model = odd_models.plain("tanh", 2, 32)
    x = _inputs.convert(model, odd_models.normal(2, 8), "x")
    assert not any(record.reason for record in _theory.read(model, x, True, False).records)
    model.layers[1].kernel.assign(2 * model.layers[1].kernel)
    first, second, third = _theory.read(model, x, True, fresh=False).records
    assert not first.reason and "initializers" in second.reason and third.signal is None
