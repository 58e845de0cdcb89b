"""Kernels as scikit-learn estimators: fit, predict, score, pipelines, grid searches.

    grid = {"kernel__depth": [1, 3, 10], "kernel__weight_variance": [1.5, 2.0], "ridge": [1e-4]}
    search = GridSearchCV(KernelClassifier(fully_connected(3, "relu", 2.0, 0.1)), grid).fit(x, y)

A kernel's arguments are reached as `kernel__depth`, `kernel__weight_variance` and so on. For
Gaussian processes of scikit-learn's own there is `GaussianProcessKernel`, whose variances are
hyperparameters with bounds and gradients.
"""

from mfcnn.estimators._gaussian_process import GaussianProcessKernel
from mfcnn.estimators._regression import KernelClassifier, KernelRegressor

__all__ = ["GaussianProcessKernel", "KernelClassifier", "KernelRegressor"]
