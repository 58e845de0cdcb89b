"""Analytic kernels (NNGP and NTK) of infinitely wide networks, their spectrum and predictions."""

from mfcnn.kernels.asymptotics import (
    Limits,
    SpectrumLaw,
    limits,
    mode_corrections,
    offdiagonal_decay,
    offdiagonal_law,
    spectrum_law,
)
from mfcnn.kernels.keras_models import from_keras
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
    "Limits",
    "Spectrum",
    "SpectrumLaw",
    "convolutional",
    "data_dependent_part",
    "ensemble",
    "from_keras",
    "fully_connected",
    "limits",
    "max_learning_rate",
    "mode_corrections",
    "offdiagonal_decay",
    "offdiagonal_law",
    "ordered_limit",
    "posterior",
    "predict",
    "spectrum",
    "spectrum_law",
    "train_mean",
]
