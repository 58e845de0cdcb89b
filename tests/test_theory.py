"""docs/theory.md: no number of the five documents is missing, and every name in it exists."""

import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "theory.md").read_text()


def _numbers(prefix, first, last):
    return {f"{prefix}{number}" for number in range(first, last + 1)}


# What the documents number; the slides have titles instead.
NUMBERED = {
    "CNN paper": _numbers("2.", 1, 17)
    | _numbers("S", 1, 22)
    | _numbers("Figure ", 1, 5)
    | _numbers("Figure S", 1, 4)
    | {"Algorithm 1", "Algorithm 2", "Definition 2.1", "Definition 2.2"}
    | {"Lemma A.1", "Corollary A.2", "Theorem B.1", "Lemma B.2"},
    "NTK paper": _numbers("", 1, 34) | _numbers("Figure ", 1, 4) | {"Table C.1"},
    "Slides": {"Recap: NNGP", "Trainability (II)", "Ordered Regime: Generalization (III)"},
    "Finite-width paper": _numbers("", 1, 10)
    | _numbers("Figure ", 1, 11)
    | {"Lemma 5.1", "Lemma 5.2", "Theorem 5.3", "Appendix E.1", "Appendix E.2"},
    "Linearization paper": _numbers("", 1, 3) | _numbers("Figure ", 1, 6) | {"Table 1"},
}


def _rows(document):
    """The cells of a document's table."""
    section = TEXT.split(f"## {document}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def _labels(cell):
    """The numbers in a first cell: "2.2, 2.3" or "S15 to S22"."""
    found = set()
    for part in cell.split(", "):
        first, _, last = part.strip().partition(" to ")
        if last:
            prefix = first.rstrip("0123456789")
            found |= _numbers(prefix, int(first[len(prefix) :]), int(last[len(prefix) :]))
        else:
            found.add(first)
    return found


@pytest.mark.parametrize("document", NUMBERED)
def test_every_number_of_a_document_has_its_row(document):
    labels = [label for row in _rows(document) for label in _labels(row[0])]
    assert len(set(labels)) == len(labels)
    assert NUMBERED[document] <= set(labels), NUMBERED[document] - set(labels)


@pytest.mark.parametrize("document", NUMBERED)
def test_every_row_names_a_function_or_says_why_not_and_a_test(document):
    for row in _rows(document):
        assert len(row) == 5, row
        assert "`" in row[2] or row[2].startswith("not used, because"), row
        assert "`" in row[4], row


_NAMES = sorted(set(re.findall(r"`([\w./:]+)`", TEXT)))


@pytest.mark.parametrize("name", [name for name in _NAMES if re.match(r"[\w/]+\.py", name)])
def test_every_test_that_is_named_exists(name):
    file, _, function = name.partition("::")
    path = ROOT / file if file.startswith("tests/") else ROOT / "tests" / file
    assert path.is_file(), path
    assert not function or f"def {function}(" in path.read_text(), name


@pytest.mark.parametrize("name", [n for n in _NAMES if n.startswith("experiments.")])
def test_every_binary_that_is_named_exists(name):
    if name != "experiments.NAME":
        assert (ROOT / (name.replace(".", "/") + ".py")).is_file()


@pytest.mark.parametrize(
    "name", [n for n in _NAMES if re.fullmatch(r"[a-z]+\.\w+", n) and "experiments" not in n]
)
def test_every_function_that_is_named_is_public(name):
    room, _, function = name.partition(".")
    if name != "mfcnn.":
        module = importlib.import_module(f"mfcnn.{room}")
        assert function in module.__all__ and hasattr(module, function)
