"""Overlap of train and test-train directions over depth."""

import numpy as np

from experiments import eigenvector_overlap, phases, samples
from mfcnn import kernels
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table
from tests.kernels import reference
from tests.tolerances import float64


def test_shares_are_those_of_a_plain_recursion(tmp_path, pictures):
    run(eigenvector_overlap, tmp_path, "--train_size=30", "--test_size=40", "--max_depth=4")
    variances = phases.variances("chaotic", "erf", 0.5)
    limit = kernels.limits("erf", *variances)
    x = [
        samples.draw("digits", s, n, 0)[0].reshape(n, -1) for s, n in (("train", 30), ("test", 40))
    ]
    x = samples.at_fixed_point(np.concatenate(x), limit, *variances)
    _, ntk = reference.fully_connected(x, 4, "erf", *variances)
    vectors = np.linalg.eigh(ntk[:30, :30])[1][:, ::-1]
    right = np.linalg.svd(ntk[30:, :30])[2]
    for k in (1, 10):
        # The share of w_1 ... w_k in the span of v_1 ... v_k, by the projector on it.
        inside = vectors[:, :k] @ (vectors[:, :k].T @ right[:k].T)
        (row,) = table(tmp_path / "overlaps.csv", phase="chaotic", depth=4, k=k)
        np.testing.assert_allclose(row["captured"], np.sum(inside**2) / k, rtol=float64.solved)
        (same,) = table(tmp_path / "metrics.csv", phase="chaotic", depth=4)
        assert same[f"captured_{k}"] == row["captured"] > 2 * k / 30
    picture = pictures["eigenvector_overlap.png"]
    picture.assert_readable()
    rows = table(tmp_path / "metrics.csv", phase="chaotic")
    depths, shares = ([r[name] for r in rows] for name in ("depth", "captured_10"))
    assert_drawn(picture.panels[-1].line("k = 10"), depths, shares)
