"""Activations as the layers of a model name them: dual maps and means."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import activations
from mfcnn.activations import dual as dual_lib
from mfcnn.activations import dual_numerical
from mfcnn.kernels import _blocks

__all__ = ["Function", "leaky_relu", "named"]


class Function:
    """An activation with its dual maps and means."""

    def __init__(
        self, activation: activations.Activation, dual: Any = None, key: Any = None
    ) -> None:
        """Takes an `Activation`, its dual maps if they are known in closed form, and its key.

        The key is equal for equal functions.
        """
        self.activation, self.key = activation, activation if key is None else key
        self._dual = dual or dual_lib.closed_form_dual(activation)
        if self._dual is None:
            dual_numerical.build_table(activation, 1.0, 1.0)  # raises where there is none

    @property
    def closed_form(self) -> Any:
        """The dual maps in closed form, or None."""
        return self._dual

    def dual(self, *variances: tf.Tensor) -> Any:
        """The dual maps for signals of these variances."""
        if self._dual is not None:
            return self._dual
        table = dual_numerical.build_table(self.activation, *_blocks.extremes(*variances))
        return dual_numerical.TabulatedDual(table, tf.float64)

    def mean(self, variance: tf.Tensor) -> tf.Tensor:
        """E[phi(z)] for z ~ N(0, variance)."""
        return _gaussian_mean(self.activation, variance)

    def slope(self, variance: tf.Tensor) -> tf.Tensor:
        """E[phi'(z)], which is E[z phi(z)] / variance."""
        product = _gaussian_mean(_times_z(self.activation), variance)
        return tf.math.divide_no_nan(product, variance)

    def after(self, inner: "Function") -> "Function":
        """The function of a function.

        Raises:
            ValueError: if it has no dual maps.
        """
        outer, first = self.activation, inner.activation

        def prime(z: Any) -> Any:
            return outer.phi_prime(first.phi(z)) * first.phi_prime(z)

        composed = activations.Activation(
            lambda z: outer.phi(first.phi(z)), prime, f"{outer.name} of {first.name}"
        )
        return Function(composed, key=(self.key, inner.key))


def _times_z(activation: activations.Activation) -> activations.Activation:
    """The function z phi(z)."""
    phi, prime = activation.phi, activation.phi_prime
    return activations.Activation(lambda z: z * phi(z), lambda z: phi(z) + z * prime(z))


def _gaussian_mean(activation: activations.Activation, variance: tf.Tensor) -> tf.Tensor:
    """E[f(z)] for z ~ N(0, q), differentiable: its slope is (E[z^2 f(z)] - q E[f(z)]) / (2 q^2)."""

    def numerical(f: activations.Activation) -> Callable[[np.ndarray], np.ndarray]:
        def mean(q: np.ndarray) -> np.ndarray:
            positive = np.where(q > 0, q, 1.0)
            return np.where(q > 0, f.mean(positive), np.asarray(f.phi(np.zeros(1)))[0])

        return mean

    @tf.custom_gradient
    def mean(q: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        value = tf.reshape(tf.numpy_function(numerical(activation), [q], tf.float64), q.shape)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            second = numerical(_times_z(_times_z(activation)))
            moment = tf.reshape(tf.numpy_function(second, [q], tf.float64), q.shape)
            return upstream * tf.math.divide_no_nan(moment - q * value, 2 * q * q)

        return value, gradient

    return mean(variance)


def leaky_relu(slope: float) -> Function:
    """max(z, slope z)."""
    if slope == 0:
        return Function(activations.get("relu"))
    activation = activations.Activation(
        lambda z: tf.where(z > 0, z, slope * z),
        lambda z: tf.where(z > 0, tf.ones_like(z), slope * tf.ones_like(z)),
        f"leaky_relu({slope})",
    )
    return Function(activation, dual_lib.leaky_relu_dual(slope), ("leaky_relu", slope))


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
        slope = tape.gradient(y, z)
        if slope is None:
            raise ValueError("TensorFlow knows no derivative of it")
        return slope

    return Function(activations.Activation(function, derivative), key=function)
