"""Rates by layer: each variable moves as under an optimizer of its own rate."""

import keras
import numpy as np
import pytest

from mfcnn import models, training

OPTIMIZERS = {
    "sgd": keras.optimizers.SGD,
    "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "rmsprop": keras.optimizers.RMSprop,
    "adam": keras.optimizers.Adam,
    "adamw": lambda rate: keras.optimizers.AdamW(rate, weight_decay=0.0),
}


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
    make = OPTIMIZERS[name]
    slow, fast = moved(make(1e-3)), moved(make(1e-2))
    both = moved(training.scaled_rates(make(1e-3), {"logits": 10.0, "stem_1": 10.0}))
    for path, change in both.items():
        expected = fast[path] if {"logits", "stem_1"} & set(path.split("/")) else slow[path]
        # Rounding of the weights, of order one, in each of three steps.
        np.testing.assert_allclose(change, expected, rtol=1e-4, atol=1e-6, err_msg=path)


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
