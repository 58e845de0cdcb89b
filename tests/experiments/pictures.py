"""What a figure shows, read from matplotlib's objects as it is saved.

    def test_the_binary_draws(tmp_path, pictures):
        run(kappa, tmp_path)
        panel = pictures["kappa.png"].panel("erf, ordered")
        assert_drawn(panel.line("0.5"), depths, ratios)

`pictures` is a fixture of tests/conftest.py: all figures that the test saves, by file
name. Positions are data, not pixels; lines without a label have matplotlib's own ("_child0").
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.tolerances import float64

__all__ = ["Panel", "Picture", "assert_drawn", "read"]


class Panel(NamedTuple):
    """One pair of axes.

    Attributes:
        title: the text above it.
        x_label: the text below it.
        y_label: the text beside it.
        scales: of x and y, "linear" or "log".
        lines: (label, x, y) of each curve with a point in it, in the order of drawing.
        points: [n, 2] of each scatter.
        images: the colours' values of each image, mesh or filled contour that is an array.
        legend: the texts of the legend.
        limits: of x and y, (low, high).
        visible: whether it is shown.
    """

    title: str
    x_label: str
    y_label: str
    scales: tuple[str, str]
    lines: list[tuple[str, np.ndarray, np.ndarray]]
    points: list[np.ndarray]
    images: list[np.ndarray]
    legend: list[str]
    limits: tuple[tuple[float, float], tuple[float, float]]
    visible: bool

    def line(self, label: str) -> tuple[np.ndarray, np.ndarray]:
        """The one curve with this label."""
        found = [(x, y) for name, x, y in self.lines if name == label]
        assert len(found) == 1, f"{len(found)} lines {label!r} of {[n for n, *_ in self.lines]}"
        return found[0]

    def has_data(self) -> bool:
        """Whether anything is drawn."""
        return bool(self.lines or self.points or self.images)


class Picture(NamedTuple):
    """A saved figure.

    Attributes:
        title: above all panels.
        panels: its axes, without those of colour bars.
        colour_labels: the labels of its colour bars.
    """

    title: str
    panels: list[Panel]
    colour_labels: list[str]

    def panel(self, title: str) -> Panel:
        """The one panel whose title contains this text."""
        found = [panel for panel in self.panels if title in panel.title]
        assert len(found) == 1, f"{len(found)} panels {title!r}: {[p.title for p in self.panels]}"
        return found[0]

    def assert_readable(self) -> None:
        """Every panel that is shown holds finite data and says what they are.

        Panels of a grid may leave the label of x to the lowest one, and say y in their title.
        """
        shown = [panel for panel in self.panels if panel.visible]
        assert shown
        for panel in shown:
            assert panel.has_data(), f"nothing is drawn in {panel.title!r}"
            for label, x, y in panel.lines:
                assert np.all(np.isfinite(x)), (panel.title, label)
                assert np.any(np.isfinite(y)), (panel.title, label)
            assert panel.title or panel.y_label
        assert any(panel.x_label for panel in shown)


def assert_drawn(line: tuple[Any, Any], x: Any, y: Any) -> None:
    """Asserts that a curve has these points; they go through float64 unchanged, or a CSV file."""
    np.testing.assert_allclose(line[0], np.asarray(x, float), rtol=float64.rounded)
    np.testing.assert_allclose(line[1], np.asarray(y, float), rtol=float64.rounded)


def read(figure: Figure) -> Picture:
    """What a figure shows."""
    bars = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    title = figure.get_suptitle()
    colours = [axes.get_ylabel() or axes.get_xlabel() for axes in bars]
    return Picture(title, [_panel(axes) for axes in figure.axes if axes not in bars], colours)


def _panel(axes: Axes) -> Panel:
    lines = [
        (
            str(line.get_label()),
            np.asarray(line.get_xdata(), float),
            np.asarray(line.get_ydata(), float),
        )
        for line in axes.lines
        if len(line.get_xdata()) and line.get_transform().contains_branch(axes.transData)
    ]
    collections = [collection for collection in axes.collections if collection.get_visible()]
    meshes = [c.get_array() for c in collections if c.get_array() is not None]
    scatters = [np.asarray(c.get_offsets()) for c in collections if len(c.get_offsets()) > 1]
    images = [np.ma.filled(np.ma.asarray(i.get_array(), float), np.nan) for i in axes.images]
    images += [np.ma.filled(np.ma.asarray(mesh, float), np.nan) for mesh in meshes]
    legend = axes.get_legend()
    return Panel(
        axes.get_title() or axes.get_title("left"),
        axes.get_xlabel(),
        axes.get_ylabel(),
        (axes.get_xscale(), axes.get_yscale()),
        lines,
        scatters,
        images,
        [text.get_text() for text in legend.get_texts()] if legend else [],
        (axes.get_xlim(), axes.get_ylim()),
        axes.get_visible() and axes.axison,
    )


def recorder(saved: dict[str, Picture]) -> Any:
    """A `Figure.savefig` that also keeps what it saves, by the file's name."""
    original = Figure.savefig

    def savefig(self: Figure, path: Any, *args: Any, **kwargs: Any) -> None:
        original(self, path, *args, **kwargs)
        file = pathlib.Path(path)
        assert file.read_bytes().startswith(b"\x89PNG")
        # A file that is not whole yet is ".name.host.process.partial.png".
        name = file.name[1:].split(".")[0] + file.suffix if file.name[0] == "." else file.name
        saved[name] = read(self)

    return savefig
