"""Sweeps without networks: order, shards, points that are done."""

import pytest
from absl import flags

from experiments import sweep


@pytest.fixture
def flag_values(monkeypatch):
    values = flags.FlagValues()
    for name, value in (("shard_index", 0), ("shard_count", 1)):
        flags.DEFINE_integer(name, value, "", flag_values=values)
    flags.DEFINE_boolean("keep_runs", False, "", flag_values=values)
    values(["test"])
    monkeypatch.setattr(sweep, "FLAGS", values)
    return values


POINTS = [{"depth": depth, "rate": depth / 3} for depth in (1, 2, 3, 4, 5)]


def square(point, folder):
    return [{"step": step, "value": step * point["depth"] ** 2 / 7} for step in (1, 2)]


def test_rows_come_back_in_the_order_of_the_points_with_all_digits(flag_values, tmp_path):
    rows = sweep.run(POINTS, square, tmp_path)
    assert rows == [point | row for point in POINTS for row in square(point, None)]


def test_a_point_that_is_done_is_not_measured_again(flag_values, tmp_path):
    measured = []

    def measure(point, folder):
        measured.append(point["depth"])
        if len(measured) == 3:
            raise KeyboardInterrupt
        return square(point, folder)

    with pytest.raises(KeyboardInterrupt):
        sweep.run(POINTS, measure, tmp_path)
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 1 + 2 * 2
    sweep.run(POINTS, measure, tmp_path)
    assert measured == [1, 2, 3, 3, 4, 5]


def test_shards_together_write_the_file_of_one_host(flag_values, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    sweep.run(POINTS, square, tmp_path / "one")
    flag_values.shard_count = 2
    assert sweep.run(POINTS, square, tmp_path / "two") is None
    flag_values.shard_index = 1
    assert len(sweep.run(POINTS, square, tmp_path / "two")) == 2 * len(POINTS)
    one, two = ((tmp_path / name / "metrics.csv").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("keep", [False, True])
def test_folders_of_finished_points_go_and_those_of_other_shards_stay(flag_values, tmp_path, keep):
    flag_values.shard_count, flag_values.keep_runs = 2, keep

    def measure(point, folder):
        folder.mkdir(parents=True, exist_ok=True)
        return square(point, folder)

    other = tmp_path / "points" / "1"
    other.mkdir(parents=True)
    sweep.run(POINTS, measure, tmp_path)
    names = sorted(path.name for path in (tmp_path / "points").iterdir())
    assert names == (["0", "1", "2", "4"] if keep else ["1"])
    flag_values.shard_index = 1
    sweep.run(POINTS, measure, tmp_path)
    assert (tmp_path / "points").exists() == keep


def test_the_time_left_is_in_proportion_to_the_cost(flag_values, tmp_path, monkeypatch, capsys):
    clock = iter([0.0, 10.0, 20.0, 40.0])
    monkeypatch.setattr(sweep.time, "monotonic", lambda: next(clock))
    sweep.run(POINTS[:2], square, tmp_path, cost=lambda point: point["depth"])
    first, second = capsys.readouterr().out.splitlines()
    assert "[1/2]" in first and "about 20 s left" in first
    assert "[2/2]" in second and "about 0 s left" in second
