"""The report: in a terminal, as a table, a picture, a page, and as a check in a test suite."""

import dataclasses
import math
import os
import textwrap
from typing import Any

import numpy as np

from mfcnn import arguments, files, meanfield
from mfcnn.diagnosis._records import Finding, Layer
from mfcnn.diagnosis._theory import Run

__all__ = ["Report"]

_SHOWN, _WIDTH = 40, 100  # rows of the table in a terminal, and its columns


@dataclasses.dataclass(frozen=True)
class Report:
    """What `mfcnn.diagnose` found; str() is a table for a terminal.

    Attributes:
        name: of the model.
        inputs: the size of the batch.
        draws: the number of fresh initializations; 0 is the weights as they were.
        layers: a `mfcnn.diagnosis.Layer` for each call of a layer, in the model's order.
        phases: runs of equal layers with `mfcnn.meanfield.fixed_point` of each; None where the
            variance grows without bound.
        findings: a `mfcnn.diagnosis.Finding` for each thing that is wrong, errors first.
        verdict: all of it in a few sentences.
        max_learning_rate: 2 over the largest eigenvalue of the NTK on the batch, of gradient
            descent on half the squared error summed over the batch, of the outputs as they are;
            NaN if not known.
        condition_number: of the NTK on the batch, the mean over outputs.
        effective_depth: the number of layers with weights that learn at one learning rate.
        note: why the NTK is not known, if it is not.
    """

    name: str
    inputs: int
    draws: int
    layers: tuple[Layer, ...]
    phases: tuple[tuple[Run, meanfield.FixedPoint | None], ...]
    findings: tuple[Finding, ...]
    verdict: str
    max_learning_rate: float
    condition_number: float
    effective_depth: int
    note: str = ""

    @property
    def trainable(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    def __str__(self) -> str:
        """The verdict, the table of layers (measured, and ~ what theory says), the findings."""
        words = [f"{self.name}: {self.verdict}", self._numbers()]
        found = [textwrap.fill(str(one), _WIDTH, subsequent_indent="  ") for one in self.findings]
        return "\n".join([*(textwrap.fill(one, _WIDTH) for one in words), self._table(), *found])

    def _numbers(self) -> str:
        """The numbers of the whole."""
        kernel = self.note
        if math.isfinite(self.max_learning_rate):
            kernel = (
                f"largest learning rate (squared error) {self.max_learning_rate:.3g}, condition "
                f"number of the NTK {self.condition_number:.3g}"
            )
        weights = f"{self.draws} fresh initializations" if self.draws else "the weights as they are"
        return f"{self.inputs} inputs, {weights}; effective depth {self.effective_depth}; {kernel}"

    def _table(self) -> str:
        head = ("layer", "variance", "~", "correl.", "~", "gradient", "~", "dead", "flat")
        rows = [head, *map(_cells, self.layers)]
        if len(rows) > _SHOWN + 1:
            half = _SHOWN // 2
            left_out = f"... {len(rows) - 1 - 2 * half} more"
            rows = [*rows[: half + 1], (left_out, *[""] * 8), *rows[-half:]]
        widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(width) if k == 0 else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(row, widths))
            ).rstrip()
            for row in rows
        ]
        return "\n".join(lines)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with a row for each call of a layer.

        Raises:
            ModuleNotFoundError: without pandas.
        """
        import pandas

        return pandas.DataFrame([layer.row() for layer in self.layers])

    def plot(self) -> Any:
        """One picture: variance, correlation and gradient against depth.

        Measurement as points with their spread over the draws, theory as lines.

        Returns:
            A matplotlib Figure.
        """
        from mfcnn.diagnosis import _page

        return _page.figure(self)

    def save(self, path: Any) -> None:
        """Writes one page with the picture, the findings and the table, which needs no other file.

        Args:
            path: of the file, `report.html`.

        Raises:
            ArgumentTypeError: if it is no path.
        """
        from mfcnn.diagnosis import _page

        files.write_atomically(arguments.path("path", path), _page.html(self))

    def assert_trainable(self) -> None:
        """Raises if a finding is an error: for a test suite.

        Raises:
            AssertionError: with the errors.
        """
        errors = [str(finding) for finding in self.findings if finding.severity == "error"]
        if errors:
            raise AssertionError(os.linesep.join([f"{self.name} will not train:", *errors]))


def _cells(layer: Layer) -> tuple[str, ...]:
    name = layer.name if not layer.call else f"{layer.name} ({layer.call + 1})"
    cells = [name if len(name) <= 28 else name[:27] + "…"]
    for quantity in (layer.variance, layer.correlation, layer.gradient):
        cells += [_number(quantity.value), _number(quantity.theory)]
    return (*cells, _share(layer.dead.value), _share(layer.saturated.value))


def _number(value: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.1e}"


def _share(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.0%}"
