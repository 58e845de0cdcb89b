"""Layers with an activation: how it is named, evaluated and saved."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from mfcnn import activations, arguments

__all__ = ["ActivatedLayer"]

Function = Callable[[tf.Tensor], tf.Tensor]


class ActivatedLayer(keras.layers.Layer):
    """A layer with an activation.

    Args:
        activation: a name known to `mfcnn.activations` or to Keras, an
            `mfcnn.activations.Activation`, a callable on tensors, or None: the identity.
        **kwargs: those of the next class, `keras.layers.Layer` in the end.

    Raises:
        ValueError: for a name that neither mfcnn nor Keras knows, or another object.
    """

    def __init__(self, activation: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = activation

    @property
    def activation(self) -> str | Function | None:
        """The activation as it was named, or its function; may be set to another one."""
        return self._activation

    @activation.setter
    def activation(self, activation: Any) -> None:
        if isinstance(activation, activations.Activation):
            activation = activations.keras_identifier(activation)
        self._activation = activation
        self._phi = _function(activation)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        activation = self.activation
        if not isinstance(activation, str | None):
            activation = keras.saving.serialize_keras_object(activation)
        return {**super().get_config(), "activation": activation}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ActivatedLayer":
        """Makes the layer that `get_config` described."""
        config = dict(config)
        if isinstance(config["activation"], dict):
            config["activation"] = keras.saving.deserialize_keras_object(config["activation"])
        return cls(**config)


def _function(identifier: str | Function | None) -> Function:
    if callable(identifier):
        return identifier
    if identifier in activations.NAMES:
        return activations.get(identifier).phi
    return arguments.interpreted(
        "activation",
        identifier,
        keras.activations.get,
        "a name known to mfcnn.activations or to Keras, an Activation, a function or None",
    )
