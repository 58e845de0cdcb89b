"""What a run leaves on disk: its configuration, its metrics, its curves."""

import csv
import io
import json
import os
import pathlib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mfcnn import arguments, files
from mfcnn.run_directory import ConfigurationError, check_configuration

__all__ = [
    "ConfigurationError",
    "MetricsFile",
    "is_whole",
    "open_run",
    "plot_curves",
    "replace_file",
]

_REMEDY = "Remove it: the rows come back from the checkpoints, or by training again."


def open_run(
    output_dir: os.PathLike | str,
    config: Mapping[str, Any],
    may_differ: Iterable[str] = (),
    defaults: Mapping[str, Any] | None = None,
    write: bool = True,
) -> pathlib.Path:
    """Makes the directory of a run, or checks that it is that of the same run.

    `mfcnn.run_directory.RunDirectory` does the same, locks the directory, and writes the
    configuration with the first result only.

    Args:
        output_dir: the directory.
        config: dict of JSON values, written to config.json.
        may_differ: names whose values a continued run may change.
        defaults: dict of what is meant where an older config.json lacks an entry.
        write: whether config.json is written; by one worker of a run only.

    Returns:
        The directory.

    Raises:
        ConfigurationError: if the directory holds another configuration; the message names each
            differing entry with both values.
        DamagedFileError: if its configuration cannot be read.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp()
        >>> directory = mfcnn.training.open_run(path, {"depth": 3})
        >>> mfcnn.training.open_run(path, {"depth": 4})
        Traceback (most recent call last):
            ...
        mfcnn.run_directory.ConfigurationError: ...
    """
    directory = arguments.path("output_dir", output_dir)
    write = arguments.boolean("write", write)
    check_configuration(directory, config, may_differ, defaults)
    directory.mkdir(parents=True, exist_ok=True)
    if write:
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        files.write_atomically(directory / "config.json", text)
    return directory


class MetricsFile:
    """A CSV file of metrics, one row a step, that a continued run takes up again.

    Args:
        path: of the file.
        fields: the columns, the first of them the step.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "metrics.csv")
        >>> metrics = mfcnn.training.MetricsFile(path, ("step", "loss"))
        >>> metrics.append({"step": 10, "loss": 0.5})
        >>> metrics.rows()
        [{'step': 10.0, 'loss': 0.5}]
    """

    def __init__(self, path: os.PathLike | str, fields: Sequence[str]) -> None:
        self.path = arguments.path("path", path)
        self.fields = tuple(fields)

    def rows(self) -> list[dict[str, float]]:
        """The rows as numbers.

        Raises:
            DamagedFileError: if the file holds anything else.
        """
        return [{k: float(v) for k, v in row.items()} for row in self._records()]

    def text(self) -> str:
        """The file as it is on the disk, or its first line where there is none."""
        return self.path.read_text() if self.path.exists() else ",".join(self.fields) + "\n"

    def write(self, text: str) -> None:
        """Replaces the file, if it differs."""
        if not self.path.exists() or self.path.read_bytes() != text.encode():
            files.write_atomically(self.path, text)

    def keep_until(self, step: int) -> None:
        """Drops the rows after a step: those of work that was lost and will be done again.

        Raises:
            DamagedFileError: if rows are to be kept and the file is damaged.
        """
        kept = [r for r in (self._records() if step else []) if int(r[self.fields[0]]) <= step]
        lines = [",".join(self.fields)] + [",".join(r[f] for f in self.fields) for r in kept]
        self.write("\n".join(lines) + "\n")

    def append(self, row: Mapping[str, float]) -> None:
        """Adds a row and brings it to the disk."""
        files.about_to_write(self.path)
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow([_text(row[f]) for f in self.fields])
        is_new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            if is_new:
                file.write(",".join(self.fields) + "\n")
            file.write(line.getvalue())
            file.flush()
            os.fsync(file.fileno())

    def _records(self) -> list[dict[str, str]]:
        """The rows as they stand there; one that a kill cut short, at the end, does not count."""
        if not self.path.exists():
            return []
        try:
            text = self.path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise files.DamagedFileError(self.path, "it is not text", _REMEDY) from error
        whole, _, _ = text.rpartition("\n")
        lines = list(csv.reader(io.StringIO(whole)))
        if not lines or tuple(lines[0]) != self.fields:
            problem = f"its first line is not {','.join(self.fields)}"
            raise files.DamagedFileError(self.path, problem, _REMEDY)
        for number, line in enumerate(lines[1:], 2):
            if len(line) != len(self.fields) or not all(map(_is_number, line)):
                raise files.DamagedFileError(self.path, f"line {number} is no row", _REMEDY)
        return [dict(zip(self.fields, line)) for line in lines[1:]]


def plot_curves(
    rows: Sequence[Mapping[str, float]], path: os.PathLike | str, title: str = ""
) -> None:
    """Draws training and test accuracy and loss over steps from rows of metrics.

    Args:
        rows: with step, train_accuracy, test_accuracy, train_loss and test_loss.
        path: of the picture.
        title: above it.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "curves.png")
        >>> names = ("train_accuracy", "test_accuracy", "train_loss", "test_loss")
        >>> mfcnn.training.plot_curves([{"step": 1, **dict.fromkeys(names, 0.5)}], path)
        >>> path.exists()
        True
    """
    from matplotlib.figure import Figure

    path, title = arguments.path("path", path), arguments.text("title", title)
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), ("accuracy", "loss")):
        axes.plot(steps, [row[f"train_{metric}"] for row in rows], "--", label="training")
        axes.plot(steps, [row[f"test_{metric}"] for row in rows], "-", label="test")
        axes.set_xlabel("steps")
        axes.set_ylabel(metric)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.axes[0].set_ylim(0, 1.02)
    figure.suptitle(title)
    files.write_atomically(path, lambda partial: figure.savefig(partial, dpi=120))


def is_whole(path: pathlib.Path) -> bool:
    """Whether a .keras file is there, and each part of it as it was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, NotImplementedError):
        return False


def _text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.7g}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def replace_file(path: os.PathLike | str, text: str) -> None:
    """Replaces a file at once: whatever ends the process, there is the old one or the new one.

    Args:
        path: of the file; its folder exists.
        text: the new content.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "note.txt")
        >>> mfcnn.training.replace_file(path, "done")
        >>> path.read_text()
        'done'
    """
    files.write_atomically(arguments.path("path", path), arguments.text("text", text))
