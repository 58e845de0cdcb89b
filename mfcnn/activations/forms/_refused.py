"""What is no activation here, and why."""

import keras
import tensorflow as tf

from mfcnn.activations._registry import refuse

_MIXES = "it mixes channels, whereas an activation acts on each element alone"
_JUMPS = "it jumps, so that chi_1 is infinite at every variance; soft_shrink is continuous"

refuse("softmax", (tf.nn.softmax, keras.activations.softmax, keras.layers.Softmax), _MIXES)
refuse("log_softmax", (tf.nn.log_softmax, keras.activations.log_softmax), _MIXES)
refuse("glu", (keras.activations.glu,), _MIXES)
refuse("sparsemax", (keras.activations.sparsemax,), _MIXES)
refuse("hard_shrink", (keras.activations.hard_shrink,), _JUMPS)
refuse(
    "prelu",
    (keras.layers.PReLU,),
    "its slopes are trained, one for each unit; use leaky_relu with their common value",
)
