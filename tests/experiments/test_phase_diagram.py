"""The phase diagram binary on a small grid."""

import json

import numpy as np
import pytest

from experiments import phase_diagram
from mfcnn import meanfield
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table
from tests.tolerances import float64


def test_the_line_separates_the_phases():
    weights, biases, points, line = phase_diagram.phase_diagram("tanh", 4.0, 1.0, 12)
    assert points.phase.shape == (12, 12) and len(line) > 50
    border = meanfield.critical_weight_variance("tanh", biases)
    for i, j in np.ndindex(12, 12):
        if abs(weights[i] - border[j]) > 1e-9:
            expected = "ordered" if weights[i] < border[j] else "chaotic"
            assert points.phase[i, j] == expected
    assert np.all(np.diff(line[:, 2]) > 0)


def test_the_binary_writes_its_files(tmp_path, pictures):
    run(phase_diagram, tmp_path, "--grid=6", "--activation=erf")
    assert json.loads((tmp_path / "config.json").read_text())["activation"] == "erf"
    rows = table(tmp_path / "metrics.csv")
    assert len(rows) == 36 and rows[-1]["chi_1"] > 0
    picture = pictures["phase_diagram.png"]
    picture.assert_readable()
    left, right = picture.panels
    line = table(tmp_path / "critical_line.csv")
    x, y = ([row[name] for row in line] for name in ("weight_variance", "bias_variance"))
    np.testing.assert_allclose(left.points[-1], np.transpose([x, y]), rtol=float64.summed)
    assert_drawn(right.line("$\\chi_1 = 1$"), x, y)
    found = {(r["weight_variance"], r["bias_variance"]): r["xi_c"] for r in rows}
    drawn = [
        found[w, b] for b in sorted({b for _, b in found}) for w in sorted({w for w, _ in found})
    ]
    np.testing.assert_allclose(right.images[0].ravel(), drawn)


def test_bad_flags_are_refused(tmp_path):
    with pytest.raises(Exception, match="activation"):
        run(phase_diagram, tmp_path, "--activation=nothing")
