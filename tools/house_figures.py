"""Figures of the house, counted from the files.

    python -m tools.house_figures             # of this tree
    python -m tools.house_figures ../before   # of another one
    python -m tools.house_figures --list      # names the long functions and the duplicates

Counted are mfcnn/, experiments/ and tpu/. A duplicated run is one of at least six lines of code
(without blank lines, comments, docstrings and imports) that stand elsewhere too, indents apart. A
function's lines are counted without its docstring; long is over 50, many arguments are over 8.
"""

import argparse
import ast
import pathlib
from typing import NamedTuple

ROOMS = ("mfcnn", "experiments", "tpu")
LONG, MANY, RUN = 50, 8, 6
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Figures(NamedTuple):
    """Counts, and the places that are named with --list."""

    files: int
    lines: int
    longest_file: int
    functions: int
    long_functions: list[str]
    many_arguments: list[str]
    parameters: int
    annotated: int
    duplicates: list[str]
    fmt_skips: int


def _arguments(function: Function) -> list[ast.arg]:
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return [argument for argument in every if argument.arg not in ("self", "cls")]


def _length(function: Function) -> int:
    """Lines from `def` to the end, without the docstring."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if documented else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - docstring


def _code_lines(text: str) -> list[tuple[str, int]]:
    """The lines of code with their numbers, stripped."""
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if documented or isinstance(node, (ast.Import, ast.ImportFrom)):
            skipped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = ((line.strip(), i) for i, line in enumerate(text.splitlines(), 1) if i not in skipped)
    return [(line, i) for line, i in lines if line and not line.startswith("#")]


def duplicates(texts: dict[str, str]) -> list[str]:
    """The runs of at least RUN lines of code that stand before too, by place and length."""
    seen: dict[tuple[str, ...], tuple[str, int]] = {}
    found = []
    for name, text in texts.items():
        lines = _code_lines(text)
        run, end, first = 0, -1, ("", 0)
        for start in range(len(lines) - RUN + 1):
            window = tuple(line for line, _ in lines[start : start + RUN])
            # Closing brackets and the like in a row are no duplicate: half of it must be words.
            telling = sum(len(line) > 3 for line in window) > RUN // 2
            if telling and window in seen and start > end - RUN:
                if start > end - RUN + 1 or not run:
                    first, run = (name, lines[start][1]), RUN
                    found.append(f"{name}:{first[1]} and {':'.join(map(str, seen[window]))}")
                else:
                    run += 1
                end = start + RUN
            else:
                seen.setdefault(window, (name, lines[start][1]))
    return found


def figures(root: pathlib.Path) -> Figures:
    """Counts them in a tree."""
    paths = sorted(path for room in ROOMS for path in (root / room).rglob("*.py"))
    texts = {str(path.relative_to(root)): path.read_text() for path in paths}
    functions = [
        (f"{name}:{node.lineno} {node.name}", node)
        for name, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, Function)
    ]
    arguments = [argument for _, node in functions for argument in _arguments(node)]
    return Figures(
        len(texts),
        sum(len(text.splitlines()) for text in texts.values()),
        max(len(text.splitlines()) for text in texts.values()),
        len(functions),
        [name for name, f in functions if _length(f) > LONG],
        [name for name, f in functions if len(_arguments(f)) > MANY],
        len(arguments),
        sum(argument.annotation is not None for argument in arguments),
        duplicates(texts),
        sum(text.count("# fmt: skip") for text in texts.values()),
    )


def main() -> None:
    """Prints the figures as a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("root", nargs="?", default=".", type=pathlib.Path)
    parser.add_argument("--list", action="store_true", help="name the places")
    options = parser.parse_args()
    counted = figures(options.root)
    for name, value in counted._asdict().items():
        print(f"{name:16}{len(value) if isinstance(value, list) else value:8}")
        if options.list and isinstance(value, list):
            print("".join(f"    {place}\n" for place in value), end="")


if __name__ == "__main__":
    main()
