"""Figure 4(b): the random kernels have the theory's modes."""

import numpy as np

from experiments import kernel_modes
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table


def test_random_kernels_have_the_modes_of_their_profile():
    channels = 64
    for theory, measured in kernel_modes.kernel_modes(channels, 8, seed=0).values():
        assert theory.shape == measured.shape == (64,)
        # A mean square of c^2 normal numbers is off by sqrt(2) / c; nine of them make a mode.
        np.testing.assert_allclose(measured, theory, atol=5 * np.sqrt(2) / channels)


def test_the_binary_writes_its_files(tmp_path, pictures):
    run(kernel_modes, tmp_path, "--channels=8", "--size=4")
    pictures["kernel_modes.png"].assert_readable()
    (panel,) = pictures["kernel_modes.png"].panels
    for name in ("gs0", "gs1", "gs2", "gs3", "gs4"):
        rows = table(tmp_path / "metrics.csv", profile=name)
        index, theory = ([row[k] for row in rows] for k in ("index", "theory"))
        assert_drawn(panel.line(name.upper()), index, theory)
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 5 * 16
