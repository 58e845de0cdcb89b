"""Fourier modes of a CNN's kernels."""

import numpy as np
import pytest

from experiments import ntk_modes, phases, samples
from mfcnn import kernels, profiles
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table
from tests.tolerances import float64


@pytest.mark.parametrize("phase", ntk_modes._PHASES)
def test_the_mean_over_positions_is_the_kernel_of_cnn_f(phase):
    variances = phases.variances(phase, "erf", 0.5)
    limit = kernels.limits("erf", *variances)
    x = np.random.default_rng(0).normal(size=(2, 6, 3))
    x = samples.at_fixed_point(x, limit, *variances, pixels=True)
    profile = profiles.parse(None, rank=1)
    first = np.mean(x[0] * x[1], axis=-1)
    first = variances[0] * sum(s * np.roll(first, 1 - i) for i, s in enumerate(profile))
    first = first + variances[1]
    found = ntk_modes.recursion("erf", variances, limit, (first, first), 7, profile)
    expected = kernels.convolutional([1, 7], "erf", *variances)(x[:1], x[1:])
    for fields, matrices in zip(found, expected):
        mean = fields.mean(axis=1)[[1, 7]]
        np.testing.assert_allclose(mean, np.ravel(matrices), rtol=float64.deep)


def test_the_binary_shows_the_law_on_the_recursion(tmp_path, pictures):
    run(ntk_modes, tmp_path, "--max_depth=12", "--positions=6")
    rows = table(tmp_path / "metrics.csv")
    largest = {(r["phase"], r["kernel"], r["layer"]): r["recursion"] for r in rows if not r["mode"]}
    for row in rows:
        # Quadratic terms, 1e-4 of the linear ones and a few times that in the NTK, mix the modes.
        mixed = 1e-3 * largest[row["phase"], row["kernel"], row["layer"]]
        assert row["law"] == pytest.approx(row["recursion"], abs=mixed, rel=0)
    picture = pictures["ntk_modes.png"]
    picture.assert_readable()
    mine = table(tmp_path / "metrics.csv", phase="chaotic", kernel="ntk", mode=0)
    panel = picture.panel("chaotic phase: $|\\delta_k|$")
    assert_drawn(panel.line("0"), [r["layer"] for r in mine], [r["recursion"] for r in mine])
