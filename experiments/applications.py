"""Thirteen models of keras.applications, untrained, at their least size, with a batch for each."""

import keras
import numpy as np

__all__ = ["SIZES", "make"]

_PIXELS = ("EfficientNet", "MobileNetV3", "ConvNeXt")  # that scale pixels themselves
# The least side of each, or 32.
SIZES = {
    "VGG16": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "ConvNeXtTiny": 32,
    "InceptionV3": 75,
    "Xception": 71,
    "NASNetMobile": 32,
}


def make(name: str, count: int, seed: int) -> tuple[keras.Model, np.ndarray]:
    """One of them with ten classes, and `count` images of random pixels or normal numbers.

    Example:
        >>> model, images = make("MobileNet", 2, seed=0)
        >>> model.output_shape, images.shape
        ((None, 10), (2, 32, 32, 3))
    """
    size = SIZES[name]
    make_one = getattr(keras.applications, name)
    model = make_one(weights=None, input_shape=(size, size, 3), classes=10)
    rng, shape = np.random.default_rng(seed), (count, size, size, 3)
    x = rng.uniform(0, 255, shape) if name.startswith(_PIXELS) else rng.standard_normal(shape)
    return model, x.astype("float32")
