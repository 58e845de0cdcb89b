"""What the package shows, and the one form of its docstrings.

One line that says what it is.

Then what a reader needs: formulas, limits.

Args:
    name: what it is, in lower case, with its shape or unit.

Returns:
    What comes back, with shape and dtype.

Raises:
    ValueError: when.

Example:
    >>> mfcnn.meanfield.critical_weight_variance("relu", 0.0)
    2.0

Source: CNN paper, eq. 2.7.
"""

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import keras

import mfcnn

SECTIONS = ("Args", "Attributes", "Input shape", "Output shape", "Returns", "Raises", "Example")
_HEADING = re.compile(r"^([A-Z]\w+(?: \w+)?):$")
_ENTRY = re.compile(r"^    (\*{0,2}\w+(?:, \w+)*): (.*)$")
# Words that are written with a capital in the middle of a sentence too.
_PROPER = re.compile(r"(True|False|None|Keras|Gauss|Fourier|Chebyshev|Jacobian|Adam|Gram|Cholesky)")


class Public(NamedTuple):
    """A public function or class and the name that users write."""

    name: str
    value: Any


def rooms() -> dict[str, ModuleType]:
    """The public modules by the name that users write, mfcnn itself among them."""
    found = {"mfcnn": mfcnn}
    for name in mfcnn.__all__:
        if inspect.ismodule(value := getattr(mfcnn, name)):
            found[f"mfcnn.{name}"] = value
    return found


def public_names() -> list[Public]:
    """Every function and class of every `__all__` that users can reach, each once."""
    found = {}
    for room, module in rooms().items():
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isroutine(value):
                found.setdefault(id(value), Public(f"{room}.{name}", value))
    return sorted(found.values())


def modules() -> Iterator[ModuleType]:
    """Every module of the package, imported."""
    for info in pkgutil.walk_packages(mfcnn.__path__, "mfcnn."):
        if not info.name.endswith("__main__"):
            yield importlib.import_module(info.name)


def is_record(value: Any) -> bool:
    """Whether it is a result or an error, which users read and do not make."""
    return inspect.isclass(value) and (
        issubclass(value, (tuple, BaseException)) or dataclasses.is_dataclass(value)
    )


def methods(value: Any) -> Iterator[tuple[str, Any]]:
    """The functions of a class that are its own and public, its constructor among them.

    Keras asks for methods by its own names and signatures; those keep Keras's docstrings.
    """
    for name, member in vars(value).items():
        function = member.fget if isinstance(member, property) else member
        function = getattr(function, "__func__", function)
        if inspect.isfunction(function) and (name == "__init__" or not name.startswith("_")):
            yield name, function


def missing_annotations(value: Any) -> list[str]:
    """The parameters, and "return", without a type, of a function or of a class's methods."""
    if inspect.isclass(value):
        if is_record(value):
            return []
        return [f"{n}({m})" for n, f in methods(value) for m in missing_annotations(f)]
    signature = inspect.signature(value)
    missing = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.annotation is parameter.empty and name not in ("self", "cls")
    ]
    return missing + ["return"] * (signature.return_annotation is signature.empty)


def docstring_faults(value: Any) -> list[str]:
    """In what a docstring differs from the form in this module's heading."""
    text = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    if not text:
        return ["no docstring"]
    lines = inspect.cleandoc(text).splitlines()
    sections = _sections(lines)
    faults = [] if re.search(r"[.:?]$", lines[0]) else ["the first line is no sentence"]
    order = [name for name in sections if name]
    faults += [f"unknown section {name}" for name in order if name not in SECTIONS]
    if order != sorted(order, key=lambda name: (*SECTIONS, name).index(name)):
        faults.append(f"sections out of order: {', '.join(order)}")
    for name in ("Args", "Attributes", "Raises"):
        faults += _entry_faults(name, sections.get(name, []))
    faults += _argument_faults(value, sections)
    if not is_record(value):
        if not any(line.lstrip().startswith(">>> ") for line in sections.get("Example", [])):
            faults.append("no example")
        returned = getattr(value, "__annotations__", {}).get("return")
        if inspect.isroutine(value) and returned is not None and "Returns" not in sections:
            faults.append("no section Returns")
    sources = [i for i, line in enumerate(lines) if re.match(r"\s*(Source|Reference)s?:", line)]
    if sources and not (len(sources) == 1 and lines[sources[0]].startswith("Source: ")):
        faults.append("the source is given by one unindented line `Source: ...`")
    if sources and "" in lines[sources[0] :]:
        faults.append("the source is not last")
    return faults


def _sections(lines: list[str]) -> dict[str, list[str]]:
    """The lines of each section; under "" what comes before the first."""
    found: dict[str, list[str]] = {"": []}
    current = ""
    for before, line in zip(["", *lines], lines):
        heading = _HEADING.match(line)
        if heading and not before:
            current = heading[1]
        elif line.startswith("Source: "):
            current = ""
        found.setdefault(current, [])
        if not heading:
            found[current].append(line)
    return found


def _entry_faults(section: str, lines: list[str]) -> list[str]:
    faults = []
    for line in filter(None, lines):
        indent = len(line) - len(line.lstrip())
        if indent < 4 or indent % 4:
            faults.append(f"{section}: not indented by fours: {line.strip()[:40]!r}")
        elif indent == 4 and not _ENTRY.match(line):
            faults.append(f"{section}: no entry `name: description`: {line.strip()[:40]!r}")
        elif indent == 4 and section != "Raises":
            name, description = _ENTRY.match(line).groups()
            first = description.split(" ")[0]
            if re.match(r"[A-Z][a-z]+\W*$", first) and not _PROPER.match(first):
                faults.append(f"{section}: {name}: lower case for {first!r}")
    return faults


def _argument_faults(value: Any, sections: dict[str, list[str]]) -> list[str]:
    """Whether Args names all parameters, in their order, and no other."""
    if is_record(value):
        return []
    function = value
    if inspect.isclass(value):
        function = vars(value).get("__init__", object.__init__)
        if function is object.__init__ or issubclass(value, keras.Model):
            return []
    named = [m[1].lstrip("*") for line in sections.get("Args", []) if (m := _ENTRY.match(line))]
    parameters = inspect.signature(function).parameters.values()
    optional = {p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    wanted = [p.name for p in parameters if p.name not in optional | {"self", "cls"}]
    if [name for name in named if name not in optional] == wanted:
        return []
    return [f"Args must name {', '.join(wanted)}. It names {', '.join(named) or 'none'}"]
