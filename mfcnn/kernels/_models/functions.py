"""Activations as the layers of a model name them: dual maps and means."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import activations
from mfcnn.kernels import _blocks

__all__ = ["Function", "leaky_relu", "named"]


class Function:
    """An activation with its dual maps and means."""

    def __init__(self, activation: activations.Activation, dual: Any = None) -> None:
        """Takes an `Activation`, and its dual maps if they are known in closed form."""
        self.activation = activation
        self._dual = dual or activation.closed_form
        if self._dual is None:
            activation.table(1.0, 1.0)  # raises where there is none

    @property
    def closed_form(self) -> Any:
        """The dual maps in closed form, or None."""
        return self._dual

    @property
    def key(self) -> Any:
        """Equal for equal functions."""
        return self._dual or self.activation

    def dual(self, *variances: tf.Tensor) -> Any:
        """The dual maps for signals of these variances."""
        if self._dual is not None:
            return self._dual
        return self.activation.dual(*_blocks.extremes(*variances))

    def mean(self, variance: tf.Tensor) -> tf.Tensor:
        """E[phi(z)] for z ~ N(0, variance)."""
        return _gaussian_mean(self.activation.phi, self.activation.phi_prime, variance)

    def slope(self, variance: tf.Tensor) -> tf.Tensor:
        """E[phi'(z)], which is E[z phi(z)] / variance."""
        phi, prime = self.activation.phi, self.activation.phi_prime
        product = _gaussian_mean(lambda z: z * phi(z), lambda z: phi(z) + z * prime(z), variance)
        return product * tf.math.divide_no_nan(tf.ones_like(variance), variance)


def _gaussian_mean(
    function: Callable[[Any], Any], derivative: Callable[[Any], Any], variance: tf.Tensor
) -> tf.Tensor:
    """E[f(z)] for z ~ N(0, variance), differentiable: its slope is E[z f'(z)] / (2 variance)."""

    def numerical(f: Callable[[Any], Any], q: np.ndarray) -> np.ndarray:
        positive = np.where(q > 0, q, 1.0)
        values = activations.Activation(f, f).mean(positive)
        return np.where(q > 0, values, np.asarray(f(np.zeros(1)))[0])

    @tf.custom_gradient
    def mean(q: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        value = tf.numpy_function(lambda q: numerical(function, q), [q], tf.float64)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            moment = tf.numpy_function(
                lambda q: numerical(lambda z: z * np.asarray(derivative(z)), q), [q], tf.float64
            )
            return upstream * tf.math.divide_no_nan(tf.reshape(moment, q.shape), 2 * q)

        return tf.reshape(value, q.shape), gradient

    return mean(variance)


def leaky_relu(slope: float) -> Function:
    """max(z, slope z)."""
    activation = activations.Activation(
        lambda z: tf.where(z > 0, z, slope * z),
        lambda z: tf.where(z > 0, tf.ones_like(z), slope * tf.ones_like(z)),
        f"leaky_relu({slope})",
        moments=None,
    )
    return Function(activation, activations.get("leaky_relu", negative_slope=slope).closed_form)


def named(function: Any) -> Function | None:
    """The `Function` of a layer's activation; None for the identity.

    Raises:
        TypeError: if it is neither a name nor a function.
        ValueError: if it couples the channels or has no dual maps.
    """
    if function in (None, "linear", keras.activations.linear, activations.get("linear")):
        return None
    try:
        return Function(activations.get(function))
    except TypeError:
        if not callable(function):
            raise
    x = tf.constant([[-1.3, 0.4, 2.0]], tf.float64)
    if not np.allclose(function(x)[0, :1], function(x[:, :1])[0], rtol=1e-9):
        raise ValueError("it couples the channels")

    def derivative(z: Any) -> tf.Tensor:
        z = tf.convert_to_tensor(z)
        with tf.GradientTape() as tape:
            tape.watch(z)
            y = function(z)
        return tape.gradient(y, z)

    return Function(activations.Activation(function, derivative))
