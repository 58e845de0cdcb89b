"""Training: distribution strategies, the loop with its checkpoints, the records of a run."""

from mfcnn.training.fused import FusedUpdate
from mfcnn.training.learning_rate import ntk_learning_rate
from mfcnn.training.records import ConfigurationError, MetricsFile, open_run, plot_curves
from mfcnn.training.strategy import STRATEGIES, make_strategy
from mfcnn.training.trainer import Trainer

__all__ = [
    "STRATEGIES",
    "ConfigurationError",
    "FusedUpdate",
    "MetricsFile",
    "Trainer",
    "make_strategy",
    "ntk_learning_rate",
    "open_run",
    "plot_curves",
]
