"""-1 below zero, 1 above."""

import math

import keras
import tensorflow as tf

from mfcnn.activations._activation import Activation
from mfcnn.activations._dual import Dual, Side, angle_of_gap
from mfcnn.activations._registry import form


class _Sign(Dual):
    """T = 1 - 2 t / pi, c = cos t; T' is zero, since sign is flat wherever it has a derivative."""

    def moments(self, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.ones_like(q), tf.zeros_like(q)

    def side(self, q: tf.Tensor) -> Side:
        return (q,)

    def pair(self, side1: Side, side2: Side, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        gap = gap + tf.zeros_like(side1[0] * side2[0])
        return (2 / math.pi) * angle_of_gap(gap), tf.zeros_like(gap)


@form("sign", functions=(tf.sign, tf.math.sign, keras.ops.sign))
def build() -> Activation:
    """It has kernels, with gradients zero; mean field theory refuses it."""
    refusal = (
        "sign jumps at zero: its derivative has no finite second moment, chi_1 is infinite at "
        "every variance. Its kernels exist (mfcnn.kernels, the NTK being that of the readout); for "
        "mean field theory use hard_tanh or erf with a large weight_variance."
    )
    return Activation(tf.sign, tf.zeros_like, dual=_Sign(), refusal=refusal)
