"""Mean field theory, analytic kernels and very deep training of plain convolutional networks."""

from mfcnn.version import __version__

__all__ = ["__version__"]
