"""Keras models: the deep vanilla CNN."""

from mfcnn.models.vanilla import INITIALIZATIONS, READOUTS, initial_variances, vanilla_cnn

__all__ = ["INITIALIZATIONS", "READOUTS", "initial_variances", "vanilla_cnn"]
