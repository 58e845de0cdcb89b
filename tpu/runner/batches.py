"""The batches of a run, from the arrays in its folder."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .program import Devices

__all__ = ["Batches"]


class Batches:
    """Batches of normalized images on the devices, each replica's part on its own.

    Args:
        folder: with data.npz.
        spec: its program.json.
        devices: where the batches go.
    """

    def __init__(self, folder: pathlib.Path, spec: Mapping[str, Any], devices: Devices) -> None:
        self._devices, self._size = devices, spec["batch_size"]
        self._first = spec["first_step"]
        with np.load(folder / "data.npz") as file:
            self._data = {name: file[name] for name in file.files}

    def train(self, step: int) -> list[Any]:
        """Images and labels of a step, counted from 0."""
        chosen = self._data["order"][step - self._first]
        return self._put(self._images("train", chosen), self._data["train_labels"][chosen])

    def test(self) -> Iterator[list[Any]]:
        """Images, labels and weights: all of the test set once, fillers of weight 0 at its end."""
        count = len(self._data["test_labels"])
        for start in range(0, count, self._size):
            chosen = np.arange(start, start + self._size)
            weights = (chosen < count).astype(np.float32)
            chosen[chosen >= count] = 0
            yield self._put(
                self._images("test", chosen), self._data["test_labels"][chosen], weights
            )

    def _images(self, split: str, chosen: np.ndarray) -> np.ndarray:
        images = self._data[f"{split}_images"][chosen]
        if "table" in self._data:  # codes of the pixels' values, channel by channel
            table = self._data["table"]
            images = table[np.arange(len(table)), images]
        return images

    def _put(self, *arrays: np.ndarray) -> list[Any]:
        replicas = len(self._devices.all)
        return [self._devices.parts(np.split(array, replicas).__getitem__) for array in arrays]
