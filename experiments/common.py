"""What all binaries share: flags, the output directory, CSV files and the style of figures.

A binary reads

    def main(_):
        settings = common.settings(quick={"grid": 60}, paper={"grid": 200})
        directory = common.prepare_output_dir(settings)
        ...
        common.write_csv(directory / "metrics.csv", rows)
        common.save_figure(figure, directory / "phase_diagram.png")

    def define_flags():
        common.define_flags("phase_diagram")
        common.define_override("grid", "Points in each direction.", lower_bound=2)

    if __name__ == "__main__":  # flags are defined here only: a test can import many binaries
        define_flags()
        app.run(main)
"""

import csv
import io
import json
import pathlib

import matplotlib
import numpy as np
from absl import flags

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (after the choice of a backend without a screen)

from mfcnn import training  # noqa: E402

__all__ = [
    "csv_text",
    "define_flags",
    "define_override",
    "prepare_output_dir",
    "save_figure",
    "settings",
    "subplots",
    "write_csv",
]

_STYLE = {
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


def define_flags(name):
    """Defines output_dir, preset and seed, the flags that every binary has."""
    flags.DEFINE_string("output_dir", f"runs/{name}", "Folder for config.json, CSV and PNG files.")
    flags.DEFINE_enum(
        "preset",
        "quick",
        ["quick", "paper"],
        "Sizes: quick ends in minutes on two cores, paper has the paper's.",
    )
    flags.DEFINE_integer("seed", 0, "Seed of all random numbers.", lower_bound=0)


def define_override(name, default_help, kind=flags.DEFINE_integer, **bounds):
    """Defines a flag whose default is the preset's value."""
    kind(name, None, help=f"{default_help} Default: the preset's.", **bounds)


def settings(quick, paper=None):
    """The values of the chosen preset, with the flags that were given in their place.

    Args:
      quick: dict of setting to value for --preset=quick.
      paper: dict of those that differ for --preset=paper.

    Returns:
      dict with the preset, the seed and all settings; a flag of the same name wins if it is given.
    """
    values = dict(quick)
    if flags.FLAGS.preset == "paper":
        values.update(paper or {})
    for name in values:
        if name in flags.FLAGS and flags.FLAGS[name].value is not None:
            values[name] = flags.FLAGS[name].value
    return {"preset": flags.FLAGS.preset, "seed": flags.FLAGS.seed, **values}


def prepare_output_dir(configuration):
    """Makes --output_dir and writes the configuration to config.json there.

    Returns:
      The directory as a pathlib.Path.
    """
    directory = pathlib.Path(flags.FLAGS.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(configuration, indent=2, sort_keys=True, default=_plain)
    training.replace_file(directory / "config.json", text + "\n")
    return directory


def _plain(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else str(value)


def write_csv(path, rows):
    """Writes a list of dicts with the same keys, at once; floats keep all their digits."""
    rows = list(rows)
    if not rows:
        raise ValueError(f"No rows to write to {path}.")
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_text(value) for key, value in row.items()} for row in rows)
    training.replace_file(pathlib.Path(path), text.getvalue())


def csv_text(value):
    """A value as the text that `write_csv` writes; floats keep all their digits."""
    if isinstance(value, float | np.floating):
        return repr(float(value))
    return "" if value is None else str(value)


def subplots(*args, **kwargs):
    """Makes a figure and its axes in the style of the project, as pyplot.subplots."""
    return plt.subplots(*args, layout="constrained", **kwargs)


def save_figure(figure, path):
    """Writes a figure as PNG and closes it."""
    figure.savefig(path)
    plt.close(figure)
