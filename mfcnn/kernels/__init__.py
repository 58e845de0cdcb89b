"""Analytic kernels (NNGP and NTK) of infinitely wide networks, their spectrum and predictions."""

from mfcnn.kernels._asymptotics import offdiagonal_decay, offdiagonal_law
from mfcnn.kernels._base import Kernel
from mfcnn.kernels._eigenvalues import Spectrum, max_learning_rate, spectrum
from mfcnn.kernels._function import KernelFunction
from mfcnn.kernels._gradient_flow import Trajectory, gradient_flow
from mfcnn.kernels._limit_predictions import (
    EigenvectorOverlap,
    data_dependent_part,
    eigenvector_overlap,
    ordered_limit,
)
from mfcnn.kernels._limits import Limits, limits
from mfcnn.kernels._mode_corrections import mode_corrections
from mfcnn.kernels._models.model_kernel import from_keras
from mfcnn.kernels._models.registry import register_layer_rule
from mfcnn.kernels._models.rules_positions import position_map
from mfcnn.kernels._networks import convolutional, fully_connected
from mfcnn.kernels._prediction import (
    Ensemble,
    ensemble,
    posterior,
    predict,
    relative_ridge,
    train_mean,
)
from mfcnn.kernels._programs import clear_cache
from mfcnn.kernels._solve import Solution, solve
from mfcnn.kernels._spectrum_law import SpectrumLaw, spectrum_law

__all__ = [
    "EigenvectorOverlap",
    "Ensemble",
    "Kernel",
    "KernelFunction",
    "Limits",
    "Solution",
    "Spectrum",
    "SpectrumLaw",
    "Trajectory",
    "clear_cache",
    "convolutional",
    "data_dependent_part",
    "eigenvector_overlap",
    "ensemble",
    "from_keras",
    "fully_connected",
    "gradient_flow",
    "limits",
    "max_learning_rate",
    "mode_corrections",
    "offdiagonal_decay",
    "offdiagonal_law",
    "ordered_limit",
    "position_map",
    "posterior",
    "predict",
    "relative_ridge",
    "register_layer_rule",
    "solve",
    "spectrum",
    "spectrum_law",
    "train_mean",
]
