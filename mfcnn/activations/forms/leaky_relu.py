"""max(x, negative_slope x)."""

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._piecewise import piecewise
from mfcnn.activations._registry import form


@form(
    "leaky_relu",
    functions=(tf.nn.leaky_relu, keras.activations.leaky_relu, keras.ops.leaky_relu),
    layers=(keras.layers.LeakyReLU,),
    aliases={"alpha": "negative_slope"},
)
def build(negative_slope: float = 0.2) -> Activation:
    """The slope of Keras's and TF's functions; Keras's layer has 0.3."""
    return piecewise([0.0], [[0.0, negative_slope], [0.0, 1.0]])
