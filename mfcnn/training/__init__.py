"""Training: distribution strategies, the loop with its checkpoints, the records of a run."""

from mfcnn.training.failure import EXIT_START_AGAIN, PeerLostError, leave
from mfcnn.training.fused import FusedUpdate
from mfcnn.training.learning_rate import ntk_learning_rate
from mfcnn.training.records import (
    ConfigurationError,
    MetricsFile,
    open_run,
    plot_curves,
    replace_file,
)
from mfcnn.training.step import LOSSES, TrainingStep
from mfcnn.training.strategy import STRATEGIES, is_chief, make_strategy, use_logical_cpus
from mfcnn.training.trainer import Trainer

__all__ = [
    "EXIT_START_AGAIN",
    "LOSSES",
    "STRATEGIES",
    "ConfigurationError",
    "FusedUpdate",
    "MetricsFile",
    "PeerLostError",
    "Trainer",
    "TrainingStep",
    "is_chief",
    "leave",
    "make_strategy",
    "ntk_learning_rate",
    "open_run",
    "plot_curves",
    "replace_file",
    "use_logical_cpus",
]
