"""Rates by layer: each variable moves as under an optimizer of its own rate."""

import inspect

import keras
import numpy as np
import pytest

from mfcnn import models, training

# All that Keras has and that make steps of their own, without what is not their rate's: decay.
OPTIMIZERS = {
    name: kind
    for name, kind in vars(keras.optimizers).items()
    if isinstance(kind, type)
    and issubclass(kind, keras.optimizers.Optimizer)
    and kind.update_step is not keras.optimizers.Optimizer.update_step
}


def make(name, rate):
    arguments = inspect.signature(OPTIMIZERS[name]).parameters
    return OPTIMIZERS[name](rate, **{a: 0.0 for a in arguments if "weight_decay" in a})


def moved(optimizer, steps=3):
    """What the variables of one network change by under the same gradients, by path."""
    model = models.vanilla_cnn((8, 8, 1), 3, 2, 10, seed=0)
    variables = model.trainable_variables
    optimizer.build(variables)
    before = [v.numpy() for v in variables]
    rng = np.random.default_rng(0)
    for _ in range(steps):
        gradients = [rng.normal(size=v.shape).astype("float32") for v in variables]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
    return {v.path: v.numpy() - b for v, b in zip(variables, before)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_variable_moves_at_its_own_rate(name):
    slow, fast = moved(make(name, 1e-3)), moved(make(name, 1e-2))
    both = moved(training.scaled_rates(make(name, 1e-3), {"logits": 10.0, "stem_1": 10.0}))
    for path, change in both.items():
        expected = fast[path] if {"logits", "stem_1"} & set(path.split("/")) else slow[path]
        # Rounding of the weights, of order one, in each of three steps.
        np.testing.assert_allclose(change, expected, rtol=1e-4, atol=1e-6, err_msg=path)


def test_momentum_is_of_the_scaled_steps():
    slow, fast = (keras.optimizers.SGD(rate, momentum=0.9) for rate in (1e-3, 1e-2))
    both = moved(training.scaled_rates(slow, {"logits": 10.0}))
    expected = moved(fast)
    for path in (path for path in both if "logits" in path):
        np.testing.assert_allclose(both[path], expected[path], rtol=1e-4, atol=1e-6)


def test_a_compiled_model_is_saved_and_goes_on(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="readout")])
    model.compile(training.scaled_rates(keras.optimizers.Adam(1e-3), {"readout": 2.0}), "mse")
    data = np.ones([4, 3]), np.zeros([4, 2])
    model.fit(*data, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.optimizer.rates == {"readout": 2.0} and int(again.optimizer.iterations) == 1
    for one in (model, again):
        one.fit(*data, verbose=0)
    for one, other in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_an_optimizer_that_leaves_its_steps_to_others_is_refused():
    inner = keras.optimizers.SGD(0.1)
    with pytest.raises(TypeError, match="optimizer must make its steps itself.*Received"):
        training.scaled_rates(keras.optimizers.LossScaleOptimizer(inner), {})


def test_a_schedule_is_scaled_as_it_runs():
    def make(rate):
        return keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(rate, 4))

    fast = moved(make(1e-2))
    both = moved(training.scaled_rates(make(1e-3), {"logits": 10.0}))
    for path in (path for path in both if "logits" in path):
        np.testing.assert_allclose(both[path], fast[path], rtol=1e-4, atol=1e-6)


def test_the_optimizer_is_made_again_from_its_configuration():
    optimizer = training.scaled_rates(keras.optimizers.Adam(1e-3), {"deep": 0.1})
    again = type(optimizer).from_config(optimizer.get_config())
    assert again.rates == {"deep": 0.1}
    first, second = moved(optimizer), moved(again)
    for path, change in first.items():
        np.testing.assert_array_equal(change, second[path])


@pytest.mark.parametrize(
    ("rates", "sentence"),
    [
        ({"logits": 0.0}, r"rates\['logits'\] must be .*0.0"),
        ({"logits": float("nan")}, r"rates\['logits'\] must be .*nan"),
        ({"stem": 2.0}, "rates must name layers that have trainable variables.*stem"),
        ({"deep": 2.0, "kernel": 3.0}, "rates must name each variable once.*deep, kernel"),
    ],
)
def test_factors_and_names_are_checked(rates, sentence):
    with pytest.raises(ValueError, match=sentence):
        moved(training.scaled_rates(keras.optimizers.SGD(0.1), rates))


@pytest.mark.parametrize("bad", ["adam", None, 0.1])
def test_only_an_optimizer_is_taken(bad):
    with pytest.raises(TypeError, match="optimizer must be a Keras optimizer"):
        training.scaled_rates(bad, {})
    with pytest.raises(TypeError, match="rates must map names"):
        training.scaled_rates(keras.optimizers.SGD(0.1), bad)


def test_a_fused_update_refuses_rates_by_layer():
    model = models.vanilla_cnn((8, 8, 1), 3, 2, 10, seed=0)
    optimizer = training.scaled_rates(keras.optimizers.SGD(0.1), {"logits": 2.0})
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="The fused update knows keras.optimizers.SGD"):
        training.FusedUpdate(model, optimizer)
