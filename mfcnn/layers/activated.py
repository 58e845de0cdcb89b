"""Layers with an activation: how it is named, evaluated and saved."""

import keras

from mfcnn import activations

__all__ = ["ActivatedLayer"]


class ActivatedLayer(keras.layers.Layer):
    """A layer with an activation.

    Args:
        activation: a name known to `mfcnn.activations` or to Keras, an
            `mfcnn.activations.Activation`, a callable on tensors, or None: the identity.
        **kwargs: those of `keras.layers.Layer`.

    Raises:
        ValueError: for a name that neither mfcnn nor Keras knows.
    """

    def __init__(self, activation, **kwargs):
        super().__init__(**kwargs)
        if isinstance(activation, activations.Activation):
            activation = activations.keras_identifier(activation)
        self.activation = activation
        self._phi = _function(activation)

    def get_config(self):
        """The arguments of the constructor."""
        activation = self.activation
        if not isinstance(activation, str | None):
            activation = keras.saving.serialize_keras_object(activation)
        return {**super().get_config(), "activation": activation}

    @classmethod
    def from_config(cls, config):
        """Makes the layer that `get_config` described."""
        config = dict(config)
        if isinstance(config["activation"], dict):
            config["activation"] = keras.saving.deserialize_keras_object(config["activation"])
        return cls(**config)


def _function(identifier):
    if callable(identifier):
        return identifier
    if identifier in activations.NAMES:
        return activations.get(identifier).phi
    return keras.activations.get(identifier)
