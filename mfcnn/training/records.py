"""What a run leaves on disk: its configuration, its metrics, its curves."""

import csv
import json
import os
import pathlib
import socket

__all__ = ["ConfigurationError", "MetricsFile", "open_run", "plot_curves", "replace_file"]


class ConfigurationError(ValueError):
    """The output directory belongs to a run with another configuration."""


def open_run(output_dir, config, may_differ=(), defaults=None, write=True):
    """Makes the directory of a run, or checks that it is that of the same run.

    Args:
        output_dir: the directory.
        config: dict of JSON values, written to config.json.
        may_differ: names whose values a continued run may change.
        defaults: dict of what is meant where an older config.json lacks an entry.
        write: whether config.json is written; by one worker of a run only.

    Returns:
        The directory as a `pathlib.Path`.

    Raises:
        ConfigurationError: if the directory holds another configuration; the message names each
            differing entry with both values.
    """
    directory = pathlib.Path(output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "config.json"
    if path.exists():
        old = {**(defaults or {}), **json.loads(path.read_text())}
        names = sorted((set(old) | set(config)) - set(may_differ))
        differing = [name for name in names if old.get(name) != config.get(name)]
        if differing:
            changes = ", ".join(
                f"{n}: {old.get(n)!r} there, {config.get(n)!r} now" for n in differing
            )
            raise ConfigurationError(
                f"{directory} holds a run with another configuration ({changes}). "
                "Give another output_dir, or the same flags to go on with that run."
            )
    if write:
        replace_file(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
    return directory


class MetricsFile:
    """A CSV file of metrics, one row a step, that a continued run takes up again."""

    def __init__(self, path, fields):
        """Opens or makes the file; `fields` are the columns, the first of them the step."""
        self.path = pathlib.Path(path)
        self.fields = tuple(fields)

    def rows(self):
        """The rows as a list of dicts of numbers."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]

    def keep_until(self, step):
        """Drops the rows after a step: those of work that was lost and will be done again."""
        kept = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                # A row that a kill cut short has no last field.
                complete = (row for row in csv.DictReader(file) if row[self.fields[-1]])
                kept = [row for row in complete if int(row[self.fields[0]]) <= step]
        lines = [",".join(self.fields)] + [",".join(r[f] for f in self.fields) for r in kept]
        replace_file(self.path, "\n".join(lines) + "\n")

    def append(self, row):
        """Adds a row and brings it to the disk."""
        with self.path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow([_text(row[f]) for f in self.fields])
            file.flush()
            os.fsync(file.fileno())


def plot_curves(rows, path, title=""):
    """Draws training and test accuracy and loss over steps from rows of metrics."""
    from matplotlib.figure import Figure

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
    figure.savefig(path, dpi=120)


def _text(value):
    return str(int(value)) if float(value).is_integer() else f"{value:.7g}"


def replace_file(path, text):
    """Writes a file of text such that a kill leaves the old one or the new one, never half of it.

    Several processes and hosts may do so at the same time: one of them wins.
    """
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
