"""The phase diagram binary on a small grid."""

import csv
import json

import numpy as np
import pytest

from experiments import phase_diagram
from mfcnn import meanfield
from tests.experiments.running import run


def test_the_line_separates_the_phases():
    weights, biases, points, line = phase_diagram.phase_diagram("tanh", 4.0, 1.0, 12)
    assert points.phase.shape == (12, 12) and len(line) > 50
    border = meanfield.critical_weight_variance("tanh", biases)
    for i, j in np.ndindex(12, 12):
        if abs(weights[i] - border[j]) > 1e-9:
            expected = "ordered" if weights[i] < border[j] else "chaotic"
            assert points.phase[i, j] == expected
    assert np.all(np.diff(line[:, 2]) > 0)


def test_the_binary_writes_its_files(tmp_path):
    run(phase_diagram, tmp_path, "--grid=6", "--activation=erf")
    assert json.loads((tmp_path / "config.json").read_text())["activation"] == "erf"
    with open(tmp_path / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36 and float(rows[-1]["chi_1"]) > 0
    assert (tmp_path / "phase_diagram.png").stat().st_size > 10_000


def test_bad_flags_are_refused(tmp_path):
    with pytest.raises(Exception, match="activation"):
        run(phase_diagram, tmp_path, "--activation=nothing")
