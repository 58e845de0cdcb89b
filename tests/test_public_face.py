"""Every public name is annotated, and documented in one form with an example that runs."""

import inspect

import pytest

from tests import public_face

# Names that are not in order yet. The list only shrinks: an entry that is fine fails.
NOT_YET: frozenset[str] = frozenset()

# Modules whose completion shows internals: they get an underscore, or the folder a `__dir__`.
NOT_TIDY: frozenset[str] = frozenset()

_NAMES = public_face.public_names()


@pytest.mark.parametrize("public", _NAMES, ids=[public.name for public in _NAMES])
def test_a_public_name_is_annotated_and_documented(public):
    faults = public_face.docstring_faults(public.value)
    missing = public_face.missing_annotations(public.value)
    faults += [f"no types for {', '.join(missing)}"] if missing else []
    if public.name in NOT_YET:
        assert faults, f"{public.name} is in order: take it off NOT_YET"
    else:
        assert not faults, "\n".join([f"{public.name}:", *faults])


def test_the_list_of_exceptions_names_public_names():
    assert NOT_YET <= {public.name for public in _NAMES}


@pytest.mark.parametrize("name", public_face.rooms())
def test_tab_completion_shows_what_is_public(name):
    module = public_face.rooms()[name]
    shown = {entry for entry in dir(module) if not entry.startswith("_")}
    public = {entry for entry in module.__all__ if not entry.startswith("_")}
    assert (shown == public) == (name not in NOT_TIDY), f"shown beyond __all__: {shown - public}"


@pytest.mark.parametrize("name", public_face.rooms())
def test_every_public_name_exists_once(name):
    module = public_face.rooms()[name]
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, entry) for entry in module.__all__)


GOOD = """One line.

    Args:
        first: a number.
        second: None is
            the default.

    Returns:
        Something.

    Example:
        >>> function(1)
        1

    Source: CNN paper, eq. 2.7; with
    a second line.
    """


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("", "", ""),
        ("One line.", "One line", "no sentence"),
        ("first: a", "first: A", ""),
        ("first: a number", "first: Number of", "lower case"),
        ("        second", "      second", "fours"),
        ("first: a", "first - a", "no entry"),
        ("second:", "third:", "Args must name"),
        ("    Args:", "    Arguments:", "unknown section"),
        ("Returns:", "Raises:", "no section Returns"),
        (">>> ", "", "no example"),
        ("Source: CNN", "    Source: CNN", "Source"),
        ("a second line.", "\n    more", "not last"),
    ],
)
def test_the_check_sees_each_fault(old, new, fault):
    def function(first, second=None) -> int:
        return first

    assert old in GOOD
    function.__doc__ = inspect.cleandoc(GOOD.replace(old, new, 1))
    found = public_face.docstring_faults(function)
    assert bool(found) == bool(fault)
    assert fault in "; ".join(found)
    assert public_face.missing_annotations(function) == ["first", "second"]
