"""Small models for the digits that train and that do not, for the verdict's confusion table."""

from collections.abc import Callable
from typing import Any

import keras

from experiments import zoo

__all__ = ["models"]

L = keras.layers


def models() -> dict[str, Callable[[], keras.Model]]:
    """Name: a function that makes the model."""
    return {**_plain(), **_others()}


def _plain() -> dict[str, Callable[[], keras.Model]]:
    he: dict[str, Any] = {"kernel_initializer": "he_normal"}
    lecun: dict[str, Any] = {"kernel_initializer": "lecun_normal"}
    orthogonal: dict[str, Any] = {"kernel_initializer": "orthogonal"}

    def normal(deviation: float) -> dict[str, Any]:
        return {"kernel_initializer": keras.initializers.RandomNormal(stddev=deviation)}

    def dense(activation: str, depth: int, **options: Any) -> Callable[[], keras.Model]:
        return lambda: zoo.plain(activation, depth, **options)

    def images(activation: str, depth: int, **options: Any) -> Callable[[], keras.Model]:
        return lambda: zoo.convolutions(activation, depth, **options)

    return {
        "relu 4": dense("relu", 4),
        "relu 12": dense("relu", 12),
        "relu 30": dense("relu", 30),
        "relu 60": dense("relu", 60),
        "relu 20, He": dense("relu", 20, **he),
        "relu 60, He": dense("relu", 60, **he),
        "relu 10, large": dense("relu", 10, **normal(1.0)),
        "relu 4, tiny": dense("relu", 4, **normal(1e-3)),
        "tanh 20": dense("tanh", 20),
        "tanh 60": dense("tanh", 60),
        "tanh 40, orthogonal": dense("tanh", 40, **orthogonal),
        "tanh 10, small": dense("tanh", 10, **normal(0.02)),
        "tanh 20, chaotic": dense("tanh", 20, **normal(0.6)),
        "tanh 30, chaotic": dense("tanh", 30, **normal(0.6)),
        "sigmoid 2": dense("sigmoid", 2),
        "sigmoid 4": dense("sigmoid", 4),
        "sigmoid 8": dense("sigmoid", 8),
        "sigmoid 20": dense("sigmoid", 20),
        "gelu 20": dense("gelu", 20),
        "gelu 20, He": dense("gelu", 20, **he),
        "swish 10": dense("swish", 10),
        "elu 30": dense("elu", 30),
        "selu 20, LeCun": dense("selu", 20, **lecun),
        "convolutions relu 4": images("relu", 4),
        "convolutions relu 40": images("relu", 40),
        "convolutions relu 20, He": images("relu", 20, **he),
        "convolutions tanh 20": images("tanh", 20),
    }


def _others() -> dict[str, Callable[[], keras.Model]]:
    return {
        "residual 10": lambda: zoo.residual(10),
        "residual 30": lambda: zoo.residual(30, 32),
        "residual 10, LayerNorm": lambda: zoo.residual(10, normalization=L.LayerNormalization),
        "residual CNN, BatchNorm": lambda: zoo.convolutional_residual(3),
        "residual CNN": lambda: zoo.convolutional_residual(4, normalization=L.Identity),
        "BatchNorm behind dense 6": lambda: zoo.normalized(6, L.BatchNormalization),
        "BatchNorm behind dense 30": lambda: zoo.normalized(30, L.BatchNormalization, 32),
        "LayerNorm behind dense 20": lambda: zoo.normalized(20, L.LayerNormalization, 32),
        "transformer": lambda: zoo.transformer(2),
        "LSTM": zoo.recurrent,
        "separable": lambda: zoo.separable(16),
    }
