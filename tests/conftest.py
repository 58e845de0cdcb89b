"""Fixtures of several folders."""

import pytest


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> dict:
    """All figures that the test saves, a `tests.experiments.pictures.Picture` by file name."""
    from matplotlib.figure import Figure  # half a second that other tests need not spend

    from tests.experiments.pictures import recorder

    saved: dict = {}
    monkeypatch.setattr(Figure, "savefig", recorder(saved))
    return saved
