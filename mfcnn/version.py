"""The version of the package, in one place for the code and for the packaging."""

__version__ = "0.1.0"
