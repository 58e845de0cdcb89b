"""Activations as the layers of a model name them, what becomes of several, and their means."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn import activations
from mfcnn.activations import Activation
from mfcnn.kernels import _blocks

__all__ = ["composed", "dual", "joined", "mean", "named", "slope"]


def named(identifier: Any) -> Activation | None:
    """The activation of a layer, or an activation layer's own; None for the identity.

    Raises:
        TypeError: if it is neither a name nor a function.
        ValueError: if it couples the channels or has no dual maps.
    """
    activation = None if identifier is None else activations.get(identifier)
    if activation is None or activation is activations.get("linear"):
        return None
    return _with_dual(activation)


def _with_dual(activation: Activation) -> Activation:
    """The activation, if it has dual maps."""
    activation.dual(1.0, 1.0)
    return activation


def composed(outer: Activation, inner: Activation) -> Activation:
    """outer(inner(z)).

    Raises:
        ValueError: if it has no dual maps.
    """

    def prime(z: Any) -> Any:
        return outer.phi_prime(inner.phi(z)) * inner.phi_prime(z)

    name = f"{outer.name} of {inner.name}"
    return _with_dual(Activation(lambda z: outer.phi(inner.phi(z)), prime, name))


def joined(terms: Sequence[tuple[float, Activation]]) -> Activation:
    """The weighted sum of activations.

    Raises:
        ValueError: if it has no dual maps.
    """

    def phi(z: Any) -> Any:
        return sum(factor * one.phi(z) for factor, one in terms)

    def prime(z: Any) -> Any:
        return sum(factor * one.phi_prime(z) for factor, one in terms)

    name = " + ".join(f"{factor:g} {one.name}" for factor, one in terms)
    return _with_dual(Activation(phi, prime, name))


def dual(activation: Activation, *variances: tf.Tensor) -> Any:
    """The dual maps for signals of these variances."""
    known = activation.closed_form
    if known is not None:
        return known
    low, high = _blocks.extremes(*variances)
    try:
        return activation.dual(*_rounded(low, high))
    except ValueError:  # no table reaches as far
        return activation.dual(low, high)


def _rounded(low: float, high: float) -> tuple[float, float]:
    """A range of powers of four around the variances, so that layers share their tables."""
    if not 0 < low <= high < np.inf:
        return low, high
    return 4.0 ** np.floor(np.log2(low) / 2), 4.0 ** np.ceil(np.log2(high) / 2)


def mean(activation: Activation, variance: tf.Tensor) -> tf.Tensor:
    """E[phi(z)] for z ~ N(0, variance)."""
    return _gaussian_mean(activation, variance)


def slope(activation: Activation, variance: tf.Tensor) -> tf.Tensor:
    """E[phi'(z)], which is E[z phi(z)] / variance."""
    return tf.math.divide_no_nan(_gaussian_mean(_times_z(activation), variance), variance)


def _times_z(activation: Activation) -> Activation:
    """The function z phi(z)."""
    phi, prime = activation.phi, activation.phi_prime
    return Activation(lambda z: z * phi(z), lambda z: phi(z) + z * prime(z))


def _gaussian_mean(activation: Activation, variance: tf.Tensor) -> tf.Tensor:
    """E[f(z)] for z ~ N(0, q), differentiable: its slope is (E[z^2 f(z)] - q E[f(z)]) / (2 q^2)."""

    def numerical(f: Activation) -> Callable[[np.ndarray], np.ndarray]:
        def expectation(q: np.ndarray) -> np.ndarray:
            positive = np.where(q > 0, q, 1.0)
            return np.where(q > 0, f.mean(positive), np.asarray(f.phi(np.zeros(1)))[0])

        return expectation

    @tf.custom_gradient
    def expectation(q: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        value = tf.reshape(tf.numpy_function(numerical(activation), [q], tf.float64), q.shape)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            second = numerical(_times_z(_times_z(activation)))
            moment = tf.reshape(tf.numpy_function(second, [q], tf.float64), q.shape)
            return upstream * tf.math.divide_no_nan(moment - q * value, 2 * q * q)

        return value, gradient

    return expectation(variance)
