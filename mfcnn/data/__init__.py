"""Image classification data: tf.data pipelines for training, arrays for kernels.

digits = mfcnn.data.load("digits", batch_size=32, seed=0)
for images, labels in digits.train_batches(start_step=0): ...   # endless, resumes at any step
for images, labels, weights in digits.test_batches(): ...       # each test example once
x_train, y_train = mfcnn.data.load_arrays("digits", "train", subset=200)
"""

from mfcnn.data.pipeline import ImageData, load, load_arrays
from mfcnn.data.sources import NAMES, SNAKE_WORDNET_IDS, DatasetNotPreparedError

__all__ = [
    "NAMES",
    "SNAKE_WORDNET_IDS",
    "DatasetNotPreparedError",
    "ImageData",
    "load",
    "load_arrays",
]


def __dir__() -> list[str]:
    return list(__all__)
