"""Keras models: the deep vanilla CNN, LeNet, AlexNet, linearized models."""

from mfcnn.models.alexnet import alexnet
from mfcnn.models.lenet import lenet
from mfcnn.models.linearized import LinearizedModel, linearize
from mfcnn.models.vanilla import INITIALIZATIONS, READOUTS, initial_variances, vanilla_cnn

__all__ = [
    "INITIALIZATIONS",
    "READOUTS",
    "LinearizedModel",
    "alexnet",
    "initial_variances",
    "lenet",
    "linearize",
    "vanilla_cnn",
]
