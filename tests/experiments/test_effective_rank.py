"""Effective ranks of LeNet's features."""

from experiments import effective_rank
from tests.experiments.running import run


def test_the_binary_finds_ranks_that_grow_with_width(tmp_path):
    run(effective_rank, tmp_path, "--dataset=digits", "--width_factors=0.3,1", "--examples=10")
    rows = (tmp_path / "metrics.csv").read_text().splitlines()[1:]
    ranks = [float(row.split(",")[4]) for row in rows]
    assert 1 < ranks[0] < ranks[1] <= 100
    assert (tmp_path / "effective_rank.png").stat().st_size > 5_000
