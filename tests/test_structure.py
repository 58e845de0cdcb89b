"""The house: data flows one way, only binaries read flags, nothing below knows what is above."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# A room may use those on the lines before its own.
_LEVELS = (
    ("version", "_backend"),
    ("arguments",),
    ("numerics", "profiles", "borrowed", "files", "ownership"),
    ("run_directory",),
    ("activations",),
    ("meanfield",),
    ("initializers",),
    ("layers", "empirical"),
    ("kernels",),
    ("models", "estimators", "data"),
    ("diagnosis", "training"),
)
_LEVEL = {room: level for level, rooms in enumerate(_LEVELS) for room in rooms}


def _modules(folder: str) -> list[pathlib.Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def _imports(path: pathlib.Path) -> Iterator[str]:
    """The full names of all modules that a file imports, wherever the statement stands.

    But for `__getattr__`, where a package still answers to names that have moved up.
    """
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", "") != "__getattr__"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _room(path: pathlib.Path) -> str:
    return path.relative_to(ROOT / "mfcnn").with_suffix("").parts[0]


@pytest.mark.parametrize("path", _modules("mfcnn"), ids=lambda p: str(p.relative_to(ROOT)))
def test_data_flows_one_way(path):
    room = _room(path)
    if room in ("__init__", "__main__", "commands"):
        return  # the public face, and the command line, which starts the binaries
    assert room in _LEVEL, f"say in _LEVELS where mfcnn.{room} stands"
    for name in _imports(path):
        parts = name.split(".")
        assert parts[0] not in ("experiments", "tpu", "benchmarks", "tests"), name
        assert parts[0] != "absl" or "flags" not in parts and "app" not in parts, name
        if parts[0] == "mfcnn":
            other = parts[1] if len(parts) > 1 else ""
            assert other == room or _LEVEL.get(other, 99) < _LEVEL[room], f"{room} imports {name}"


@pytest.mark.parametrize("path", _modules("experiments"), ids=lambda p: p.name)
def test_experiments_know_nothing_of_pods(path):
    assert not any(name.split(".")[0] in ("tpu", "tests", "benchmarks") for name in _imports(path))


def test_no_text_names_a_machine_of_ours():
    """Paths of one machine and registries' addresses have no place in the project."""
    forbidden = ["/wo" + "rk/", "/tm" + "p/", "python" + "hosted.org"]
    for path in ROOT.rglob("*"):
        inside = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part != ".ci" for part in inside[:-1])
        if hidden or inside[0] in ("build", "dist", "runs", ".git") or not path.is_file():
            continue
        if path.suffix in (".py", ".md", ".toml", ".cfg", ".flags", ".cff", ".yaml", ".csv", ""):
            text = path.read_text(errors="ignore")
            assert not [word for word in forbidden if word in text], path
