"""Any Keras model against the theory, layer by layer, and the repair of its initialization."""

from mfcnn.diagnosis._diagnose import diagnose
from mfcnn.diagnosis._monitor import Monitor
from mfcnn.diagnosis._records import Change, Changes, Finding, Layer, Quantity
from mfcnn.diagnosis._repair import repair
from mfcnn.diagnosis._report import Report
from mfcnn.diagnosis._theory import Run

__all__ = [
    "Change",
    "Changes",
    "Finding",
    "Layer",
    "Monitor",
    "Quantity",
    "Report",
    "Run",
    "diagnose",
    "repair",
]
