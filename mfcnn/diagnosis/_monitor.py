"""A Keras callback that measures during training what `diagnose` measures before."""

import csv
import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments, empirical, files
from mfcnn.diagnosis import _probes, _records
from mfcnn.diagnosis._diagnose import inputs_of
from mfcnn.empirical import _inputs

__all__ = ["Monitor"]


def _check(x: Any) -> None:
    """As far as it can be checked before there is a model."""
    several = isinstance(x, (list, tuple)) and any(hasattr(one, "shape") for one in x)
    for leaf in x.values() if isinstance(x, dict) else x if several else [x]:
        if not arguments.array("x", leaf).ndim:
            raise ValueError(f"x must be [n, ...]. Received: x={x!r}")


class Monitor(keras.callbacks.Callback):
    """Signals and gradients of every layer while a model trains, into a table and TensorBoard.

    Each row of the table is one layer at one step: `step`, `layer`, `call`, and the quantities of
    `mfcnn.diagnosis.Layer`, for the weights of that moment and random cotangents at the outputs.
    With `tangent_kernel` a row of the layer "model" holds `lambda_max`, the largest eigenvalue of
    the NTK on x, and with y `alignment`, <Theta, y y'> / (|Theta| |y y'|).

    Args:
        x: a small batch of inputs, as for `mfcnn.diagnose`.
        every: number of training steps between two measurements; the first is before the first.
        path: of the table, a CSV file that is written anew.
        log_dir: of TensorBoard's files; None writes none.
        tangent_kernel: whether the NTK is measured too.
        y: targets [n, k] of x, for the alignment.

    Raises:
        TypeError: for arguments of the wrong kind.
        ValueError: for every < 1; when training starts, for an x that does not fit the model.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "monitor.csv")
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="dense")])
        >>> model.compile("sgd", "mse")
        >>> monitor = mfcnn.diagnosis.Monitor(np.eye(2), every=2, path=path)
        >>> y = np.array([0.0, 1.0])
        >>> _ = model.fit(np.eye(2), y, batch_size=1, verbose=0, callbacks=[monitor])
        >>> [line.split(",")[:2] for line in open(path)]
        [['step', 'layer'], ['0', 'dense'], ['2', 'dense']]
    """

    def __init__(
        self,
        x: Any,
        every: int = 100,
        path: Any = "monitor.csv",
        log_dir: Any = None,
        tangent_kernel: bool = False,
        y: Any = None,
    ) -> None:
        super().__init__()
        _check(x)
        self.x, self.every = x, arguments.integer("every", every, 1)
        self.path = arguments.path("path", path)
        self.log_dir: pathlib.Path | None = None
        if log_dir is not None:
            self.log_dir = arguments.path("log_dir", log_dir)
        self.tangent_kernel = arguments.boolean("tangent_kernel", tangent_kernel)
        self.y = None if y is None else arguments.matrix("y", y)
        self._columns = ["step", "layer", "call", *_records.QUANTITIES]
        if self.tangent_kernel:
            self._columns += ["lambda_max", "alignment"]
        self._step, self._writer = 0, None

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts the table and measures once."""
        self._inputs = inputs_of(self.model, self.x)
        if self.y is not None and len(self.y) != _inputs.length(self._inputs):
            raise ValueError(
                f"y must hold a target for each input. Received: {len(self.y)} of them for "
                f"{_inputs.length(self._inputs)} inputs"
            )
        self._step = 0
        files.about_to_write(self.path)
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerow(self._columns)
        if self.log_dir is not None:
            self._writer = tf.summary.create_file_writer(str(self.log_dir))
        self._measure()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Measures after every so many steps."""
        self._step += 1
        if self._step % self.every == 0:
            self._measure()

    def on_train_end(self, logs: Any = None) -> None:
        """Closes TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _measure(self) -> None:
        weights = self.model.get_weights()
        probes = _probes.measure(self.model, self._inputs, weights, self._step, training=True)
        rows = [
            {"step": self._step, "layer": probe.layer.name, "call": probe.occurrence}
            | {name: getattr(probe, name) for name in _records.QUANTITIES}
            for probe in probes
        ]
        if self.tangent_kernel:
            rows.append({"step": self._step, "layer": "model", "call": 0} | self._kernel())
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerows(rows)
        self._summarize(rows)

    def _kernel(self) -> dict[str, float]:
        """The largest eigenvalue of the NTK, and how it is aligned with the targets."""
        result = {"lambda_max": float(empirical.lambda_max(self.model, self._inputs))}
        if self.y is not None:
            theta = np.asarray(empirical.ntk(self.model, self._inputs), np.float64)
            gram = self.y @ self.y.T
            sizes = np.linalg.norm(theta) * np.linalg.norm(gram)
            result["alignment"] = float(np.sum(theta * gram) / sizes)
        return result

    def _summarize(self, rows: list[dict[str, Any]]) -> None:
        if self._writer is None:
            return
        with self._writer.as_default(step=self._step):
            for row in rows:
                for name, value in row.items():
                    if name not in ("step", "layer", "call") and np.isfinite(value):
                        tf.summary.scalar(f"{name}/{row['layer']}_{row['call']}", value)
        self._writer.flush()
