"""A figure is a binary of its own: what several of them need is in modules without a main."""

import ast
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "experiments"
BINARIES = {p.stem for p in FOLDER.glob("*.py") if '\nif __name__ == "__main__"' in p.read_text()}


def imported(path):
    """Names of the modules of experiments/ that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("experiments"):
            yield from [node.module.partition(".")[2], *(alias.name for alias in node.names)]
        if isinstance(node, ast.Import):
            yield from (alias.name.rpartition(".")[2] for alias in node.names)


@pytest.mark.parametrize("name", sorted(BINARIES))
def test_a_figure_imports_no_other_figure(name):
    assert not BINARIES & set(imported(FOLDER / f"{name}.py"))
