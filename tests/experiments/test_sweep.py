"""Sweeps without networks: order, shards, points that are done."""

import functools

import pytest

from experiments import sweep

# A sweep of one host that keeps nothing, whatever the flags say.
sweep_alone = functools.partial(sweep.run, shard=(0, 1), keep_runs=False)
POINTS = [{"depth": depth, "rate": depth / 3} for depth in (1, 2, 3, 4, 5)]


def square(point, folder):
    return [{"step": step, "value": step * point["depth"] ** 2 / 7} for step in (1, 2)]


def test_rows_come_back_in_the_order_of_the_points_with_all_digits(tmp_path):
    rows = sweep_alone(POINTS, square, tmp_path)
    assert rows == [point | row for point in POINTS for row in square(point, None)]


def test_a_point_that_is_done_is_not_measured_again(tmp_path):
    measured = []

    def measure(point, folder):
        measured.append(point["depth"])
        if len(measured) == 3:
            raise KeyboardInterrupt
        return square(point, folder)

    with pytest.raises(KeyboardInterrupt):
        sweep_alone(POINTS, measure, tmp_path)
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 1 + 2 * 2
    sweep_alone(POINTS, measure, tmp_path)
    assert measured == [1, 2, 3, 3, 4, 5]


def test_shards_together_write_the_file_of_one_host(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    sweep_alone(POINTS, square, tmp_path / "one")
    assert sweep_alone(POINTS, square, tmp_path / "two", shard=(0, 2)) is None
    rows = sweep_alone(POINTS, square, tmp_path / "two", shard=(1, 2))
    assert len(rows) == 2 * len(POINTS)
    one, two = ((tmp_path / name / "metrics.csv").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("keep", [False, True])
def test_folders_of_finished_points_go_and_those_of_other_shards_stay(tmp_path, keep):
    def measure(point, folder):
        folder.mkdir(parents=True, exist_ok=True)
        return square(point, folder)

    other = tmp_path / "points" / "1"
    other.mkdir(parents=True)
    sweep.run(POINTS, measure, tmp_path, shard=(0, 2), keep_runs=keep)
    names = sorted(path.name for path in (tmp_path / "points").iterdir())
    assert names == (["0", "1", "2", "4"] if keep else ["1"])
    sweep.run(POINTS, measure, tmp_path, shard=(1, 2), keep_runs=keep)
    assert (tmp_path / "points").exists() == keep


def test_the_time_left_is_in_proportion_to_the_cost(tmp_path, capsys):
    clock = iter([0.0, 10.0, 20.0, 40.0])
    options = {"cost": lambda point: point["depth"], "clock": lambda: next(clock)}
    sweep_alone(POINTS[:2], square, tmp_path, **options)
    first, second = capsys.readouterr().out.splitlines()
    assert "[1/2]" in first and "about 20 s left" in first
    assert "[2/2]" in second and "about 0 s left" in second
