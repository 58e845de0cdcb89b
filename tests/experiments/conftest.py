"""Fixtures of the binaries' tests."""

import pytest
from matplotlib.figure import Figure

from tests.experiments.pictures import Picture, recorder


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Picture]:
    """All figures that the test saves, by file name."""
    saved: dict[str, Picture] = {}
    monkeypatch.setattr(Figure, "savefig", recorder(saved))
    return saved
