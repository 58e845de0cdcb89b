"""The API pages: every public name of every room, from `__all__`."""

import importlib
import inspect
from types import ModuleType

__all__ = ["pages"]

ORDER = (
    "meanfield",
    "activations",
    "kernels",
    "estimators",
    "empirical",
    "diagnosis",
    "initializers",
    "layers",
    "models",
    "data",
    "training",
)


def pages() -> dict[str, str]:
    """Address in the site and Markdown of each page."""
    rooms = {name: importlib.import_module(f"mfcnn.{name}") for name in ORDER}
    package = importlib.import_module("mfcnn")
    missing = {
        name for name in package.__all__ if inspect.ismodule(getattr(package, name))
    } - rooms.keys()
    if missing:
        raise ValueError(f"ORDER must name every room. Missing: {', '.join(sorted(missing))}")
    found = {f"api/{name}.md": _page(module) for name, module in rooms.items()}
    table = "".join(
        f"| [mfcnn.{name}]({name}.md) | {_first_line(module)} |\n" for name, module in rooms.items()
    )
    found["api/index.md"] = (
        f"# Reference\n\n{_first_line(package)}\n\n| room | what it holds |\n|---|---|\n{table}\n"
        "`mfcnn.diagnose` and `mfcnn.repair` are those of [mfcnn.diagnosis](diagnosis.md). Every\n"
        "example is a test: it ran as it stands, with `mfcnn`, `keras`, `np` and `tf` imported.\n"
    )
    return found


def _first_line(module: ModuleType) -> str:
    return inspect.cleandoc(module.__doc__ or "").splitlines()[0]


def _page(module: ModuleType) -> str:
    names = {name: getattr(module, name) for name in module.__all__}
    described = [n for n, v in names.items() if inspect.isclass(v) or inspect.isroutine(v)]
    functions = [name for name in described if not inspect.isclass(names[name])]
    classes = [name for name in described if inspect.isclass(names[name])]
    parts = [f"# {module.__name__}", inspect.cleandoc(module.__doc__ or "")]
    constants = [name for name in names if name not in described]
    if constants:
        parts.append("\n".join(f"- `{name}` = `{_shown(names[name])}`" for name in constants))
    for name in functions + classes:
        parts.append(f"::: {module.__name__}.{name}")
    return "\n\n".join(parts) + "\n"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) < 1500 else f"{text[:1500]}..."
