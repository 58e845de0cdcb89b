"""What all binaries share: flags, the output directory, CSV files and the style of figures.

A binary reads

    _QUICK = {"grid": 60}
    _PAPER = {"grid": 200}

    def measure(settings):
        ...  # the rows of the table, dicts

    def draw(rows):
        ...  # a figure of them, whether they were measured now or read from the table

    def main(_):
        settings = common.settings(_QUICK, _PAPER)
        directory = common.prepare_output_dir(settings)
        rows = measure(settings)
        common.write_csv(directory / "metrics.csv", rows)
        common.save_figure(draw(rows), directory / "phase_diagram.png")

    def define_flags():
        common.define_flags("phase_diagram")
        common.define_override("grid", "Points in each direction.", lower_bound=2)

    if __name__ == "__main__":  # flags are defined here only: a test can import many binaries
        binary.start(define_flags, main)
"""

import csv
import io
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from absl import flags
from matplotlib.figure import Figure

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (after the choice of a backend without a screen)

from experiments import binary, ranges  # noqa: E402
from mfcnn import files  # noqa: E402
from mfcnn.run_directory import RunDirectory  # noqa: E402

__all__ = [
    "csv_of",
    "csv_text",
    "define_flags",
    "define_names",
    "define_numbers",
    "define_override",
    "prepare_output_dir",
    "save_figure",
    "settings",
    "subplots",
    "write_csv",
]

_STYLE: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
}
plt.rcParams.update(_STYLE)  # legends and ticks are made after the axes, and take it too


_binary = ""


def define_flags(name: str) -> None:
    """Defines output_dir, preset and seed, the flags that every binary has."""
    global _binary
    _binary = name
    flags.DEFINE_string("output_dir", f"runs/{name}", "Folder for config.json, CSV and PNG files.")
    flags.DEFINE_enum(
        "preset",
        "quick",
        ["quick", "paper"],
        "Sizes: quick ends in minutes on two cores, paper has the paper's.",
    )
    flags.DEFINE_integer("seed", 0, "Seed of all random numbers.", lower_bound=0)


def define_override(
    name: str, default_help: str, kind: Callable = flags.DEFINE_integer, **bounds: Any
) -> None:
    """Defines a flag whose default is the preset's value."""
    kind(name, None, help=f"{default_help} Default: the preset's.", **bounds)


def define_numbers(
    name: str,
    default: Sequence[str] | None,
    help: str,
    integers: bool = False,
    lower_bound: float = -math.inf,
    above: float = -math.inf,
    upper_bound: float = ranges.MOST,
    empty: bool = False,
) -> None:
    """Defines a flag for numbers separated by commas, which come as a list of texts.

    Args:
        name: of the flag.
        default: list of texts or None.
        help: for --help.
        integers: whether all have to be integers.
        lower_bound: the least that is accepted.
        above: a bound that is itself refused.
        upper_bound: the greatest that is accepted.
        empty: whether there may be none.
    """
    bound = f" above {above:g}" if above > -math.inf else ""
    bound = f" of at least {lower_bound:g}" if lower_bound > -math.inf else bound
    bound += f" and at most {upper_bound:g}"
    kind = "integers" if integers else "numbers"

    def fits(texts: Sequence[str] | None) -> bool:
        try:
            values = [int(text) if integers else float(text) for text in texts or ()]
        except ValueError:
            return False
        inside = all(lower_bound <= v <= upper_bound and v > above for v in values)
        return inside and (texts is None or empty or bool(values))

    flags.DEFINE_list(name, default, help)
    flags.register_validator(name, fits, f"{name} must be {kind}{bound}, separated by commas")


def define_names(
    name: str, default: Sequence[str] | None, help: str, accepted: Sequence[str]
) -> None:
    """Defines a flag for some of a few names, separated by commas."""
    flags.DEFINE_list(name, default, help)
    flags.register_validator(
        name,
        lambda texts: texts is None or (bool(texts) and set(texts) <= set(accepted)),
        f"{name} must be some of {', '.join(accepted)}, separated by commas",
    )


def settings(
    quick: dict[str, Any], paper: dict[str, Any] | None = None, others: Iterable[str] = ()
) -> dict[str, Any]:
    """The values of the chosen preset, with the flags that were given in their place.

    Args:
        quick: dict of setting to value for --preset=quick.
        paper: dict of those that differ for --preset=paper.
        others: names of the flags that decide too and have one default for both presets.

    Returns:
        dict with the preset, the seed and all settings; a flag of the same name that was given
        wins.
    """
    values = dict(quick)
    if flags.FLAGS.preset == "paper":
        values.update(paper or {})
    for name in values:
        if name in flags.FLAGS and flags.FLAGS[name].value is not None:
            values[name] = flags.FLAGS[name].value
    values |= {name: flags.FLAGS[name].value for name in others}
    return {"preset": flags.FLAGS.preset, "seed": flags.FLAGS.seed, **values}


def prepare_output_dir(
    configuration: Mapping[str, Any], part: tuple[int, int] = (0, 1)
) -> RunDirectory:
    """Makes --output_dir, or checks that it is free and of the same configuration, and locks it.

    The configuration is written to config.json with the first result. The directory is given back
    when the binary's main ends.

    Args:
        configuration: of the run.
        part: (index, count) of a shard.

    Returns:
        The directory; `directory / name` is the path of a file.
    """
    name = {"binary": _binary}  # two figures may have the same settings
    directory = RunDirectory(
        flags.FLAGS.output_dir, {**configuration, **name}, defaults=name, part=part
    )
    return binary.keep_open(directory)


def csv_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """A list of dicts with the same keys as the text of a CSV file; floats keep all digits.

    Raises:
        ValueError: without rows.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("No rows to write.")
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_text(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def write_csv(path: os.PathLike | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a list of dicts with the same keys, at once; see `csv_of`."""
    files.write_atomically(path, csv_of(rows))


def csv_text(value: Any) -> str:
    """A value as the text that `write_csv` writes; floats keep all their digits."""
    if isinstance(value, float | np.floating):
        return repr(float(value))
    return "" if value is None else str(value)


def subplots(*args: Any, **kwargs: Any) -> tuple[Figure, Any]:
    """Makes a figure and its axes in the style of the project, as pyplot.subplots."""
    return plt.subplots(*args, layout="constrained", **kwargs)


def save_figure(figure: Figure, path: os.PathLike | str) -> None:
    """Writes a figure as PNG and closes it."""
    files.write_atomically(path, figure.savefig)
    plt.close(figure)
