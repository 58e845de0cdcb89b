"""Keras models: the deep vanilla CNN, LeNet, AlexNet, linearized models."""

from mfcnn.models._alexnet import alexnet
from mfcnn.models._lenet import lenet
from mfcnn.models._linearized import LinearizedModel, linearize
from mfcnn.models._vanilla import INITIALIZATIONS, READOUTS, initial_variances, vanilla_cnn

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


def __dir__() -> list[str]:
    return list(__all__)
