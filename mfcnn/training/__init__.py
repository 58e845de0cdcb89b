"""Training: distribution strategies, the loop with its checkpoints, the records of a run."""

from mfcnn.files import DamagedFileError
from mfcnn.ownership import DirectoryInUseError
from mfcnn.run_directory import RunDirectory
from mfcnn.training.checkpoints import Checkpoints
from mfcnn.training.failure import EXIT_START_AGAIN, PeerLostError, leave, lost_peers
from mfcnn.training.fused import FusedUpdate
from mfcnn.training.layer_rates import scaled_rates
from mfcnn.training.learning_rate import (
    LAW_SAFETY,
    LAW_SPREAD,
    extrapolated_learning_rate,
    ntk_learning_rate,
)
from mfcnn.training.records import (
    ConfigurationError,
    MetricsFile,
    open_run,
    plot_curves,
    replace_file,
)
from mfcnn.training.step import LOSSES, TrainingStep
from mfcnn.training.stopping import StoppedError
from mfcnn.training.strategy import STRATEGIES, is_chief, make_strategy, use_logical_cpus
from mfcnn.training.trainer import Trainer

__all__ = [
    "EXIT_START_AGAIN",
    "LAW_SAFETY",
    "LAW_SPREAD",
    "LOSSES",
    "STRATEGIES",
    "Checkpoints",
    "ConfigurationError",
    "DamagedFileError",
    "DirectoryInUseError",
    "FusedUpdate",
    "MetricsFile",
    "PeerLostError",
    "RunDirectory",
    "StoppedError",
    "Trainer",
    "TrainingStep",
    "extrapolated_learning_rate",
    "is_chief",
    "leave",
    "lost_peers",
    "make_strategy",
    "ntk_learning_rate",
    "open_run",
    "plot_curves",
    "replace_file",
    "scaled_rates",
    "use_logical_cpus",
]


def __dir__() -> list[str]:
    return list(__all__)
