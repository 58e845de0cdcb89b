"""Mean field theory, analytic kernels and very deep training of plain convolutional networks."""

import mfcnn._backend  # noqa: F401 (before all else)
from mfcnn import (
    activations,
    data,
    diagnosis,
    empirical,
    estimators,
    initializers,
    kernels,
    layers,
    meanfield,
    models,
    training,
)
from mfcnn.diagnosis import diagnose, repair
from mfcnn.version import __version__

__all__ = [
    "__version__",
    "activations",
    "data",
    "diagnose",
    "diagnosis",
    "empirical",
    "estimators",
    "initializers",
    "kernels",
    "layers",
    "meanfield",
    "models",
    "repair",
    "training",
]


def __dir__() -> list[str]:
    """What completion shows: the public names, not the modules that are shared inside."""
    return list(__all__)
