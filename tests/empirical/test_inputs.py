"""Inputs as Keras takes them: dtypes, lists, structures, tokens, empty batches, tapes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import empirical, models

_X = np.random.default_rng(0).integers(0, 3, (3, 4))


def _dense():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(2)]
    )


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype("float64"),
        lambda x: x.astype("uint8"),
        lambda x: x.tolist(),
        lambda x: tf.constant(x, tf.int64),
        lambda x: [x.astype("float32")],
        lambda x: x.astype("float16"),
    ],
)
def test_inputs_are_cast_as_keras_casts_them(convert):
    model = _dense()
    expected = empirical.ntk(model, _X.astype("float32"))
    np.testing.assert_array_equal(empirical.ntk(model, convert(_X)), expected)


class Tokens(keras.Model):
    def __init__(self):
        super().__init__()
        self.embedding, self.dense = keras.layers.Embedding(5, 3), keras.layers.Dense(2)

    def call(self, x):
        return self.dense(tf.reduce_mean(tf.tanh(self.embedding(x)), 1))


def test_a_subclassed_model_takes_tokens():
    model = Tokens()
    model(_X)
    found = empirical.ntk(model, _X, method="structured")
    np.testing.assert_allclose(found, empirical.ntk(model, _X, method="products"), rtol=1e-5)
    assert empirical.lambda_max(model, _X) > 0


def _two_inputs(names):
    keras.utils.set_random_seed(0)
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    y = keras.layers.Dense(2)(keras.layers.Concatenate()([keras.layers.Dense(3, "tanh")(a), b]))
    return keras.Model({"a": a, "b": b} if names else [a, b], y)


@pytest.mark.parametrize("names", [False, True])
def test_models_of_several_inputs_take_lists_and_dicts(names):
    model, rng = _two_inputs(names), np.random.default_rng(0)
    a, b = rng.normal(size=(4, 2)), rng.normal(size=(4, 3))
    whole = empirical.ntk(model, {"a": a, "b": b}, batch_size=3).numpy()
    np.testing.assert_allclose(empirical.ntk(model, [a, b]), whole, rtol=1e-5)
    for method in ("jacobian", "products"):
        np.testing.assert_allclose(empirical.ntk(model, [a, b], method=method), whole, rtol=1e-4)
    linear = models.linearize(model)
    inputs = {"a": a.astype("float32"), "b": b.astype("float32")}
    inputs = inputs if names else list(inputs.values())
    np.testing.assert_array_equal(linear(inputs), model(inputs))
    with pytest.raises(ValueError, match="x1 must have the keys"):
        empirical.ntk(model, {"a": a, "c": b})
    with pytest.raises(ValueError, match="one length"):
        empirical.ntk(model, [a, b[:2]])


def test_empty_batches_give_empty_results():
    model, none = _dense(), np.zeros([0, 4])
    assert empirical.ntk(model, none).shape == (0, 0)
    assert empirical.ntk(model, _X, none, outputs="full").shape == (3, 0, 2, 2)
    assert empirical.nngp(model, none, _X).shape == (0, 3)
    assert empirical.ntk_vector_product(model, none, _X, np.ones([3, 2])).shape == (0, 2)
    product = empirical.ntk_vector_product(model, _X, none, np.ones([0, 2]))
    np.testing.assert_array_equal(product, np.zeros([3, 2]))
    with pytest.raises(ValueError, match="at least one"):
        empirical.lambda_max(model, none)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_refused(bad):
    with pytest.raises(ValueError, match="x1 must be finite"):
        empirical.ntk(_dense(), np.full([2, 4], bad))


def test_a_tape_gets_a_refusal_and_not_none():
    model, x = _dense(), tf.constant(_X, tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        results = (
            empirical.ntk(model, x),
            empirical.nngp(model, x),
            empirical.ntk_vector_product(model, x, None, np.ones([3, 2])),
        )
    for result in results:
        assert np.all(np.isfinite(result))
        for source in (x, model.trainable_variables[0].value):
            with pytest.raises(NotImplementedError, match="not differentiable"):
                tape.gradient(result, source)


def test_inside_a_function_it_says_where_to_call_it():
    model = _dense()
    with pytest.raises(RuntimeError, match="outside of a tf.function"):
        tf.function(lambda x: empirical.ntk(model, x), autograph=False)(tf.constant(_X, tf.float32))


def test_a_model_of_several_outputs_is_refused_by_their_names():
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(2, name=name)(inputs) for name in ("mean", "spread")]
    two = keras.Model(inputs, outputs)
    for function in (lambda m: empirical.ntk(m, _X), models.linearize):
        with pytest.raises(ValueError, match="one output.*mean, spread"):
            function(two)
