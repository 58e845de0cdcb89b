"""The binary of condition numbers against a plain recursion."""

import numpy as np

from experiments import condition_numbers, phases
from mfcnn import kernels
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table
from tests.kernels import reference
from tests.tolerances import float64


def test_curves_are_those_of_a_plain_recursion():
    depths, m, size, seed = [2, 9], 4, 3, 3
    rows = condition_numbers.measure_curve("chaotic", "fcn", m, size, depths, 0.5, seed)
    variances = phases.variances("chaotic", "erf", 0.5)
    limit = kernels.limits("erf", *variances)
    x = condition_numbers.inputs(np.random.default_rng(seed), m, size, limit, *variances)
    for row, depth in zip(rows, depths):
        _, ntk = reference.fully_connected(x.reshape(m, -1), depth, "erf", *variances)
        values = np.linalg.eigvalsh(ntk)
        np.testing.assert_allclose(
            row["condition_number"], values[-1] / values[0], rtol=float64.solved
        )
        np.testing.assert_allclose(
            row["first_to_second"], values[-1] / values[-2], rtol=float64.solved
        )
        assert row["chi_1"] > 1


def test_the_binary_writes_its_files(tmp_path, pictures):
    run(condition_numbers, tmp_path, "--max_depth=4", "--architectures=fcn")
    rows = table(tmp_path / "metrics.csv")
    assert len(rows) == 2 * 3 * 4
    picture = pictures["condition_numbers.png"]
    picture.assert_readable()
    for phase, title in (("chaotic", "chaotic"), ("critical", "(m+2)/2")):
        for inputs, size in ((6, 4), (12, 6)):
            chosen = table(tmp_path / "metrics.csv", phase=phase, inputs=inputs, size=size)
            depths, kappa = ([row[k] for row in chosen] for k in ("depth", "condition_number"))
            assert_drawn(picture.panel(title).line(f"{inputs}-{size} FCN"), depths, kappa)
    limits = {r["leading_order"] for r in rows if r["phase"] == "critical"}
    assert sorted({round(float(x), 9) for x in limits}) == [4.0, 7.0]


def test_pooling_multiplies_the_limit_by_the_positions():
    (row,) = condition_numbers.measure_curve("critical", "cnn_p", 3, 3, [4], 0.5, 0)
    np.testing.assert_allclose(row["leading_order"], (3 * 9 + 2) / 2)
    assert row["condition_number"] > 3 * 9 / 2
