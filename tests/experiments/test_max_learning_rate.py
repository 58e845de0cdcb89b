"""The theoretical rate is where training breaks."""

import numpy as np

from experiments import max_learning_rate
from tests.experiments.running import run


def test_a_linear_network_trains_below_eta_theory_and_not_above():
    """Depth 0 is linear in its weights: its kernel is exact and constant, the law is sharp.

    At 0.9 the error falls in all directions; at 10 that of the largest eigenvalue grows by 19 in
    each step, and training ends at the first value that is not finite.
    """
    rng = np.random.default_rng(0)
    x = max_learning_rate.normalized(rng.normal(size=(20, 60)))
    split = x, np.arange(20, dtype=np.int32) % 4
    rate = max_learning_rate.eta_theory(x, "erf", 0, 1.5, 0.1)
    best = max_learning_rate.best_accuracies(
        split, split, "erf", 0, 1.5, 0.1, 8, [0.9 * rate, 10 * rate], 400, 0
    )
    assert best[0, 0] == 1.0
    assert best[1, 0] < 1.0


def test_the_binary_writes_its_files(tmp_path):
    run(
        max_learning_rate, tmp_path, "--depths=1", "--weight_stds=1.5", "--width=16",
        "--examples=20", "--steps=5", "--rates=3",
    )  # fmt: skip
    assert (tmp_path / "max_learning_rate.png").stat().st_size > 5_000
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4
