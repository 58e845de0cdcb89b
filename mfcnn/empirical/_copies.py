"""Copies of a Keras model: with its weights, or with new initial ones."""

import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

__all__ = ["copy_of", "new_initial_weights"]


def copy_of(model: keras.Model) -> keras.Model:
    """A model of its own with the same layers, weights and trainable variables.

    Raises:
        ValueError: for a model that cannot be serialized.
    """
    copy = _make(model, _config(model))
    copy.set_weights(model.get_weights())
    for mine, theirs in zip(copy.variables, model.variables):
        mine.trainable = theirs.trainable
    return copy


def new_initial_weights(model: keras.Model, seed: int) -> Iterator[list[np.ndarray]]:
    """Weights of the model as initialized anew, again and again.

    Every seed in the configuration, an initializer's or a layer's, is replaced; initializers
    without one draw theirs from Python's generator, which is left as it was.

    Raises:
        ValueError: for a model that cannot be serialized.
    """
    rng = np.random.default_rng(seed)
    while True:
        state = random.getstate()
        random.seed(int(rng.integers(2**31)))
        try:
            weights = _make(model, _with_seeds(_config(model), rng)).get_weights()
        finally:
            random.setstate(state)
        yield weights


def _config(model: keras.Model) -> Any:
    try:
        return keras.saving.serialize_keras_object(model)
    except (TypeError, NotImplementedError, ValueError) as error:
        raise _not_serializable(model, error) from error


def _make(model: keras.Model, config: Any) -> keras.Model:
    try:
        copy = keras.saving.deserialize_keras_object(config)
    except (TypeError, NotImplementedError, ValueError) as error:
        raise _not_serializable(model, error) from error
    if not copy.built:
        copy.build(model.input_shape)
    return copy


def _not_serializable(model: keras.Model, error: Exception) -> ValueError:
    return ValueError(
        "model must be serializable, since it is copied: register its classes by "
        "keras.saving.register_keras_serializable and give them a get_config. "
        f"Received: {model.name!r}, {type(error).__name__}: {error}"
    )


def _with_seeds(config: Any, rng: np.random.Generator) -> Any:
    """The configuration with a new integer for every seed."""
    if isinstance(config, (list, tuple)):
        return type(config)(_with_seeds(entry, rng) for entry in config)
    if not isinstance(config, dict):
        return config
    return {
        key: int(rng.integers(2**31)) if key == "seed" else _with_seeds(value, rng)
        for key, value in config.items()
    }
