"""The checkpoints of a run: the newest two, of which a damaged one falls back to the other."""

import contextlib
import pathlib
import re
import shutil
from collections.abc import Sequence

import tensorflow as tf

from mfcnn import files
from mfcnn.training.failure import LOST_PEER_ERRORS
from mfcnn.training.records import MetricsFile

__all__ = ["Checkpoints"]

_KEPT = 2


class _Rows(tf.train.experimental.PythonState):
    """The rows of metrics inside a checkpoint, which so is the whole truth of its step."""

    def __init__(self) -> None:
        self.text = ""

    def serialize(self) -> str:
        return self.text

    def deserialize(self, string_value: bytes | str) -> None:
        self.text = tf.compat.as_text(string_value)


class Checkpoints:
    """Saves and restores variables and rows of metrics.

    A checkpoint is `ckpt-STEP.index` and `ckpt-STEP.data-*`, as TensorFlow writes it: each piece
    with a checksum, the index last.

    Args:
        directory: of the checkpoints; made with the first one.
        step: variable, the number of steps done.
        window: variable, the sums since the last row.
        variables: all others.
        metrics: the file whose rows are kept in the checkpoints too.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> metrics = mfcnn.training.MetricsFile(folder / "metrics.csv", ("step", "loss"))
        >>> step, window, weight = (tf.Variable(value) for value in (3, [0.0], 1.5))
        >>> saved = mfcnn.training.Checkpoints(folder / "ckpt", step, window, [weight], metrics)
        >>> saved.save(3)
        >>> _ = weight.assign(0.0)
        >>> saved.restore().name, float(weight)
        ('ckpt-3', 1.5)
    """

    def __init__(
        self,
        directory: pathlib.Path,
        step: tf.Variable,
        window: tf.Variable,
        variables: Sequence[tf.Variable],
        metrics: MetricsFile,
    ) -> None:
        self._directory, self._step, self._metrics = directory, step, metrics
        self._rows = _Rows()
        self._damaged: list[pathlib.Path] = []
        self._checkpoint = tf.train.Checkpoint(
            step=step, window=window, variables=list(variables), rows=self._rows
        )

    def restore(self) -> pathlib.Path | None:
        """Takes the state of the newest checkpoint that can be read.

        Returns:
            Its path without suffix, None where there is no checkpoint.

        Raises:
            DamagedFileError: if there are some, and none of them can be read.
        """
        self._damaged, self._rows.text = [], ""
        for path in reversed(self._paths()):
            if self._read(path):
                return path
            self._damaged.append(path)
        if self._damaged:
            raise files.DamagedFileError(
                self._damaged[0],
                "or of another network, like all checkpoints there",
                f"Remove {self._directory} to train from the beginning.",
            )
        return None

    @property
    def damaged(self) -> list[str]:
        """Names of the newer checkpoints that `restore` could not read."""
        return [path.name for path in self._damaged]

    def clean(self) -> None:
        """Puts damaged checkpoints aside, and brings metrics.csv to the step of the restored one.

        For the chief, when all workers have restored.
        """
        for path in self._damaged:
            for part in path.parent.glob(f"{path.name}.*"):
                part.replace(part.with_name(f"damaged-{part.name}"))
        for rest in self._directory.glob("*_temp"):  # of a kill while saving
            shutil.rmtree(rest, ignore_errors=True)
        step = int(self._step)
        if step and self._rows.text:
            self._metrics.write(self._rows.text)
        else:  # a new run, or a checkpoint of an older version
            self._metrics.keep_until(step)

    def save(self, step: int) -> None:
        """Writes a checkpoint to the disk, then removes the one before the last.

        Raises:
            OSError: if the disk is full and the like; the checkpoints before are there.
        """
        path = self._directory / f"ckpt-{step}"
        files.about_to_write(path)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._rows.text = self._metrics.text()
        try:
            self._checkpoint.write(str(path))
        except LOST_PEER_ERRORS:
            raise
        except tf.errors.OpError as error:
            self._remove(path)
            reason = error.message.partition("\n")[0]
            raise OSError(f"The checkpoint {path} cannot be written: {reason}") from error
        for part in (*path.parent.glob(f"{path.name}.*"), path.parent):
            files.bring_to_disk(part)
        for old in self._paths()[:-_KEPT]:
            self._remove(old)

    def has(self, step: int) -> bool:
        """Whether there is a checkpoint of a step."""
        return (self._directory / f"ckpt-{step}.index").exists()

    def _paths(self) -> list[pathlib.Path]:
        """The checkpoints on the disk by step, without suffix."""
        found = {}
        for index in self._directory.glob("ckpt-*.index"):
            match = re.fullmatch(r"ckpt-(\d+)", index.stem)
            if match:
                found[int(match[1])] = index.with_suffix("")
        return [found[step] for step in sorted(found)]

    def _read(self, path: pathlib.Path) -> bool:
        try:
            self._checkpoint.restore(str(path)).expect_partial()
            return int(self._step) == int(path.name.partition("-")[2])
        except LOST_PEER_ERRORS:
            raise
        # TensorFlow reports what is damaged by errors of many kinds, some of them Python's.
        except (tf.errors.OpError, ValueError, LookupError, TypeError, RuntimeError, OSError):
            return False

    def _remove(self, path: pathlib.Path) -> None:
        # The index first: without it the rest is no checkpoint.
        for part in sorted(path.parent.glob(f"{path.name}.*"), key=lambda p: p.suffix != ".index"):
            with contextlib.suppress(OSError):
                part.unlink()
