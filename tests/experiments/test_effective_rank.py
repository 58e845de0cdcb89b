"""Effective ranks of LeNet's features."""

from experiments import effective_rank
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table


def test_the_binary_finds_ranks_that_grow_with_width(tmp_path, pictures):
    run(effective_rank, tmp_path, "--dataset=digits", "--width_factors=0.3,1", "--examples=10")
    ranks = [row["effective_rank"] for row in table(tmp_path / "metrics.csv")]
    assert 1 < ranks[0] < ranks[1] <= 100
    pictures["effective_rank.png"].assert_readable()
    assert_drawn(pictures["effective_rank.png"].panel("lenet").lines[0][1:], [0.3, 1], ranks)
