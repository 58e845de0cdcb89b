"""max(x, 0), with the three parameters that Keras gives it."""

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._piecewise import piecewise
from mfcnn.activations._registry import form


@form(
    "relu",
    functions=(tf.nn.relu, keras.activations.relu, keras.ops.relu),
    layers=(keras.layers.ReLU,),
)
def build(
    negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0
) -> Activation:
    """min(x, max_value) from the threshold on, below it negative_slope (x - threshold)."""
    polynomials = [[-negative_slope * threshold, negative_slope], [0.0, 1.0]]
    kinks = [threshold]
    if max_value is not None:
        kinks, polynomials = [threshold, max_value], [*polynomials, [max_value]]
    plain = (negative_slope, max_value, threshold) == (0.0, None, 0.0)
    return piecewise(kinks, polynomials, tf.nn.relu if plain else None)
