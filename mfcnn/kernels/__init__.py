"""Analytic kernels (NNGP and NTK) of infinitely wide networks, their spectrum and predictions."""

from mfcnn.kernels.networks import convolutional, fully_connected
from mfcnn.kernels.prediction import (
    Ensemble,
    data_dependent_part,
    ensemble,
    ordered_limit,
    posterior,
    predict,
    train_mean,
)
from mfcnn.kernels.spectrum import Spectrum, max_learning_rate, spectrum

__all__ = [
    "Ensemble",
    "Spectrum",
    "convolutional",
    "data_dependent_part",
    "ensemble",
    "fully_connected",
    "max_learning_rate",
    "ordered_limit",
    "posterior",
    "predict",
    "spectrum",
    "train_mean",
]
