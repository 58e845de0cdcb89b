"""The gallery: every picture of the papers' figures with the command that makes it.

Pictures and words are those of experiments/README.md, commands are made from the settings that lie
beside each picture (config.json): neither can be forgotten when a figure is drawn anew.
"""

import importlib
import json
import pathlib
import re
from typing import Any, NamedTuple

from absl import flags

from tools.site import repository

__all__ = ["Figure", "command", "figures", "page"]

ROOT = pathlib.Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
_PICTURE = re.compile(r"\[([^\]]*)\]\((results/[^)]+\.png)\)")
_NOT_SETTINGS = {"binary", "preset", "versions"}


class Figure(NamedTuple):
    """A row of experiments/README.md's tables of figures.

    Attributes:
        title: the document's number of it.
        pictures: paths under experiments/.
        minutes: CPU minutes, as written.
        paper: what the paper shows.
        here: what the quick run shows.
    """

    title: str
    pictures: tuple[str, ...]
    minutes: str
    paper: str
    here: str


def figures() -> list[Figure]:
    """The figures, in their order."""
    found = []
    for line in (EXPERIMENTS / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        pictures = tuple(path for _, path in _PICTURE.findall(cells[1])) if cells[1:] else ()
        if len(cells) == 5 and pictures and re.fullmatch(r"[\d., ]+", cells[2]):
            found.append(Figure(cells[0], pictures, *cells[2:]))
    return found


def command(picture: str) -> str:
    """The command that makes a picture of results/ again, as `mfcnn figure` takes it.

    Example:
        >>> command("results/phase_diagram/phase_diagram.png")
        'mfcnn figure phase_diagram'
    """
    folder = EXPERIMENTS / pathlib.Path(picture).parent
    config = json.loads((folder / "config.json").read_text())
    name = _program(folder)
    usual = _usual_settings(name)
    given = [
        _flag(key, value)
        for key, value in config.items()
        if key not in _NOT_SETTINGS and key in usual and value != usual[key]
    ]
    return " ".join(["mfcnn figure", name, *given])


def _program(folder: pathlib.Path) -> str:
    """What config.json names, or else the program whose name the folder's starts with."""
    config = json.loads((folder / "config.json").read_text())
    names = [path.stem for path in EXPERIMENTS.glob("*.py") if folder.name.startswith(path.stem)]
    return config.get("binary") or max(names, key=len)


def _usual_settings(name: str) -> dict[str, Any]:
    """The flags of a program with their values in its quick preset."""
    module = importlib.import_module(f"experiments.{name}")
    before = set(flags.FLAGS)
    module.define_flags()
    own = set(flags.FLAGS) - before
    defaults = {flag: flags.FLAGS[flag].default for flag in own}
    for flag in own:
        delattr(flags.FLAGS, flag)
    return defaults | getattr(module, "_QUICK", {})


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{'' if value else 'no'}{name}"
    return f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}"


def page() -> str:
    """Markdown of the gallery."""
    parts = [
        "# Gallery",
        "Every figure of the papers that is drawn here, and the command that draws it; in a "
        "checkout `make figures` runs all of them. The commands are made from the settings that "
        "were stored with each picture. What agrees with the papers and what does not is in "
        "[the table of figures](figures.md).",
    ]
    for figure in figures():
        parts.append(f"## {figure.title}")
        parts.append(f"**The paper:** {figure.paper}. **Here:** {figure.here}.")
        parts += [_shown(figure.title, picture) for picture in figure.pictures]
        parts.append(f"CPU minutes: {figure.minutes}.")
    of_papers = {picture for figure in figures() for picture in figure.pictures}
    for picture in sorted(repository.pictures().keys() - of_papers):
        title = pathlib.Path(picture).stem
        parts += [f"## {title}", _first_line(picture), _shown(title, picture)]
    return "\n\n".join(parts) + "\n"


def _shown(title: str, picture: str) -> str:
    name = pathlib.Path(picture).stem
    return f"![{title}, {name}]({picture})\n\n```sh\n{command(picture)}\n```"


def _first_line(picture: str) -> str:
    """What the picture's program says of itself."""
    program = EXPERIMENTS / f"{_program(EXPERIMENTS / pathlib.Path(picture).parent)}.py"
    return program.read_text().split('"""')[1].strip().splitlines()[0]
