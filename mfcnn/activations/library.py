"""The activations known by name, and the TF and Keras functions that mean the same."""

import math

import keras
import tensorflow as tf

from mfcnn.activations import closed_forms
from mfcnn.activations.activation import Activation

__all__ = ["NAMES", "get", "keras_identifier"]

_SLOPE = 0.2  # leaky_relu's slope for x < 0, the default of Keras and TF


def _constant(value, x):
    # Straight to the dtype of x: a cast would pass through float32.
    return tf.constant(value, tf.convert_to_tensor(x).dtype)


def _step(x):
    x = tf.convert_to_tensor(x)
    return tf.cast(x > 0, x.dtype)


def _normal_density(x):
    return tf.exp(-tf.square(x) / 2) * _constant(1 / math.sqrt(2 * math.pi), x)


def _normal_distribution(x):
    return tf.math.erfc(x * _constant(-math.sqrt(0.5), x)) / 2


def _tanh_prime(x):
    t = tf.tanh(x)
    return (1 - t) * (1 + t)


def _erf_prime(x):
    return tf.exp(-tf.square(x)) * _constant(2 / math.sqrt(math.pi), x)


def _sigmoid_prime(x):
    return tf.sigmoid(x) * tf.sigmoid(-x)


def _swish_prime(x):
    return tf.sigmoid(x) * (1 + x * tf.sigmoid(-x))


def _gaussian(x):
    return tf.exp(-tf.square(x))


def _hard_tanh_prime(x):
    x = tf.convert_to_tensor(x)
    return tf.cast(tf.abs(x) < 1, x.dtype)


def _leaky_relu(x):
    return tf.maximum(x, x * _constant(_SLOPE, x))  # tf.nn.leaky_relu rounds its slope to float32


def _leaky_relu_prime(x):
    return _constant(_SLOPE, x) + (1 - _SLOPE) * _step(x)


_FUNCTIONS = {
    "tanh": (tf.tanh, _tanh_prime),
    "erf": (tf.math.erf, _erf_prime),
    "relu": (tf.nn.relu, _step),
    "leaky_relu": (_leaky_relu, _leaky_relu_prime),
    "abs": (tf.abs, lambda x: 2 * _step(x) - 1),
    "linear": (tf.identity, tf.ones_like),
    "hard_tanh": (lambda x: tf.clip_by_value(x, -1.0, 1.0), _hard_tanh_prime),
    "sigmoid": (tf.sigmoid, _sigmoid_prime),
    "softplus": (tf.math.softplus, tf.sigmoid),
    "swish": (lambda x: x * tf.sigmoid(x), _swish_prime),
    "gelu": (
        lambda x: x * _normal_distribution(x),
        lambda x: _normal_distribution(x) + x * _normal_density(x),
    ),
    "sin": (tf.sin, tf.cos),
    "cos": (tf.cos, lambda x: -tf.sin(x)),
    "exp": (tf.exp, tf.exp),
    "gaussian": (_gaussian, lambda x: -2 * x * _gaussian(x)),
}
_KINKS_AND_SLOPES = {
    "relu": ([0.0], [0.0, 1.0]),
    "leaky_relu": ([0.0], [_SLOPE, 1.0]),
    "abs": ([0.0], [-1.0, 1.0]),
    "linear": ([], [1.0]),
    "hard_tanh": ([-1.0, 1.0], [0.0, 1.0, 0.0]),
}
_CLOSED_FORMS = {
    "erf": closed_forms.erf,
    "sin": closed_forms.sine,
    "cos": closed_forms.cosine,
    "exp": closed_forms.exponential,
    "gaussian": closed_forms.gaussian,
}


def _build(name):
    phi, phi_prime = _FUNCTIONS[name]
    moments = None
    if name in _CLOSED_FORMS:
        moments = _CLOSED_FORMS[name]()
    elif name in _KINKS_AND_SLOPES:
        moments = closed_forms.PiecewiseLinear(phi, phi_prime, *_KINKS_AND_SLOPES[name])
    return Activation(phi, phi_prime, name, moments=moments)


_ACTIVATIONS = {name: _build(name) for name in _FUNCTIONS}
NAMES = tuple(_ACTIVATIONS)

# Keras has no name for these: registered, so that layers with them can be saved and loaded.
_NOT_IN_KERAS = ("erf", "abs", "sin", "cos", "exp", "gaussian")
for _name in _NOT_IN_KERAS:
    keras.saving.register_keras_serializable("mfcnn", _name)(_FUNCTIONS[_name][0])

_KNOWN_FUNCTIONS = {
    "tanh": (tf.tanh, tf.nn.tanh, keras.activations.tanh),
    "erf": (tf.math.erf, keras.ops.erf),
    "relu": (tf.nn.relu, keras.activations.relu, keras.ops.relu),
    "leaky_relu": (tf.nn.leaky_relu, keras.activations.leaky_relu),
    "abs": (abs, tf.abs, keras.ops.abs, keras.ops.absolute),
    "linear": (tf.identity, keras.activations.linear),
    "hard_tanh": (keras.activations.hard_tanh,),
    "sigmoid": (tf.sigmoid, tf.nn.sigmoid, keras.activations.sigmoid),
    "softplus": (tf.math.softplus, tf.nn.softplus, keras.activations.softplus),
    "swish": (tf.nn.silu, tf.nn.swish, keras.activations.silu),
    "sin": (tf.sin, tf.math.sin, keras.ops.sin),
    "cos": (tf.cos, tf.math.cos, keras.ops.cos),
    "exp": (tf.exp, tf.math.exp, keras.activations.exponential, keras.ops.exp),
    "gelu": (keras.activations.gelu,),
}


def get(identifier):
    """The Activation that a name or a known function stands for.

    Args:
      identifier: a name of `NAMES`, an `Activation`, or a TF or Keras function that equals one of
        the named ones (`tf.tanh`, `keras.activations.relu`).

    Returns:
      An `Activation`; the same object for the same name.

    Raises:
      ValueError: for an unknown name; the message lists the accepted ones.
      TypeError: for a bare callable whose derivative is not known, and for anything else.
    """
    if isinstance(identifier, Activation):
        return identifier
    if isinstance(identifier, str):
        if identifier not in _ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(NAMES)}. Received: {identifier!r}"
            )
        return _ACTIVATIONS[identifier]
    for name, activation in _ACTIVATIONS.items():
        functions = (activation.phi, *_KNOWN_FUNCTIONS.get(name, ()))
        if any(identifier is function for function in functions):
            return activation
    if callable(identifier):
        raise TypeError(
            "activation is a function without its derivative: give "
            f"mfcnn.activations.Activation(phi, phi_prime). Received: {identifier!r}"
        )
    raise TypeError(
        "activation must be a name, an Activation or a known TF or Keras function. "
        f"Received: {identifier!r}"
    )


def keras_identifier(activation):
    """What Keras's layers take for an `Activation`: Keras's name if there is one, else phi."""
    named = _ACTIVATIONS.get(activation.name) is activation
    return activation.name if named and activation.name not in _NOT_IN_KERAS else activation.phi
