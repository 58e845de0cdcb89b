"""Traces are of the model as it is; the programs made of them are few."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import empirical
from mfcnn.empirical import _identity, _inputs, _traces
from tests.empirical.random_models import jacobian

_X = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")


def _model(activation="tanh"):
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, activation), keras.layers.Dense(2)]
    )


def _exact(model):
    rows = np.concatenate([jacobian(model, one[None]) for one in _X])
    return np.einsum("iap,jap->ij", rows, rows) / 2


class _Scaled(keras.layers.Layer):
    """Depends on an attribute, a list and a global."""

    def __init__(self):
        super().__init__()
        self.factor, self.factors = 2.0, [1.0, 1.0]

    def call(self, x):
        return x * self.factor * self.factors[0] * _GLOBAL["factor"]


_GLOBAL = {"factor": 1.0}


def _other_activation(model):
    model.layers[0].activation = keras.activations.softplus


def _another_function(model):
    model.layers[0].activation = lambda x: x**2


def _another_layer(model):
    model.pop()
    model.add(keras.layers.Dense(2, "tanh"))


def _another_weight(model):
    dense = model.layers[-1]
    dense.bias = None
    dense.use_bias = False


def _frozen(model):
    model.layers[0].trainable = False


def _frozen_weight(model):
    model.layers[0].kernel.trainable = False


@pytest.mark.parametrize(
    "change",
    [
        _other_activation,
        _another_function,
        _another_layer,
        _another_weight,
        _frozen,
        _frozen_weight,
    ],
)
def test_the_next_call_sees_the_change(change):
    keras.utils.set_random_seed(0)
    model = _model()
    before = empirical.ntk(model, _X).numpy()
    change(model)
    expected = _exact(model)
    assert np.abs(expected - before).max() > 1e-3
    np.testing.assert_allclose(empirical.ntk(model, _X), expected, rtol=1e-4)


def _attribute(layer):
    layer.factor = 3.0


def _entry(layer):
    layer.factors[0] = 5.0


def _global(layer):
    _GLOBAL["factor"] = 0.5


@pytest.mark.parametrize("change", [_attribute, _entry, _global])
def test_code_of_a_user_may_depend_on_anything(change, monkeypatch):
    monkeypatch.setitem(_GLOBAL, "factor", 1.0)
    layer = _Scaled()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), layer])
    before = empirical.ntk(model, _X).numpy()
    np.testing.assert_allclose(empirical.ntk(model, _X), before)
    change(layer)
    ratio = (layer.factor / 2 * layer.factors[0] * _GLOBAL["factor"]) ** 2
    np.testing.assert_allclose(empirical.ntk(model, _X), ratio * before, rtol=1e-5)


def test_an_unchanged_model_is_traced_once():
    model = _model()
    x = _inputs.convert(model, _X, "x")
    assert _traces.trace_of(model, x) is _traces.trace_of(model, x)
    model.set_weights([2 * w for w in model.get_weights()])
    model.compile("sgd", "mse")
    first = _traces.trace_of(model, x)
    model.fit(_X, np.zeros([3, 2]), verbose=0)
    model.predict(_X, verbose=0)
    assert _traces.trace_of(model, x) is first
    foreign = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), _Scaled()])
    assert _identity.Attributes(foreign).foreign and not _identity.Attributes(model).foreign
    assert _traces.trace_of(foreign, x) is _traces.trace_of(foreign, x)


def test_equal_graphs_have_equal_content_and_others_not():
    def content(factor):
        @tf.function(autograph=False)
        def f(x):
            return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y * factor), (0, x))[1]

        return _identity.graph_content(f.get_concrete_function(tf.TensorSpec([2])).graph)

    assert content(2.0) == content(2.0) != content(3.0)


def test_many_shapes_keep_few_traces():
    model = keras.Sequential([keras.Input((None, 2)), keras.layers.Dense(3)])
    model.add(keras.layers.GlobalAveragePooling1D())
    for length in range(1, 13):
        empirical.choose_method(model, np.ones([2, length, 2]))
    assert len(_traces._MODELS[model]._traces) <= 8


def _function_graphs():
    graph = type(tf.function(lambda: 1).get_concrete_function().graph)
    gc.collect()
    return sum(isinstance(thing, graph) for thing in gc.get_objects())


@pytest.mark.parametrize("method", ["structured", "products"])
def test_a_model_that_is_gone_leaves_no_graph(method):
    x = np.ones([3, 4], np.float32)

    def once():
        dense = [keras.layers.Dense(4, "tanh") for _ in range(2)]
        inputs = keras.Input((4,))
        # Sums of products: their cotangents are equal, which a tape pays for with its graph.
        z = keras.layers.add([keras.layers.Dense(4)(inputs), dense[1](dense[0](inputs)), inputs])
        empirical.ntk(keras.Model(inputs, keras.layers.Dense(2)(z)), x, method=method)

    once()
    before = _function_graphs()
    once()
    assert _function_graphs() <= before
