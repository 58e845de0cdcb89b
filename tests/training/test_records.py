"""The records of a run survive kills and refuse another run's directory."""

import json

import pytest

from mfcnn.training import ConfigurationError, MetricsFile, open_run, plot_curves
from tests.experiments.pictures import assert_drawn

ROW = {"step": 10, "loss": 0.123456789, "accuracy": 0.5}


def test_a_directory_of_another_configuration_is_refused_with_the_differences_named(tmp_path):
    open_run(tmp_path, {"depth": 10, "seed": 0, "steps": 5})
    with pytest.raises(ConfigurationError, match="depth: 10 there, 20 now") as error:
        open_run(tmp_path, {"depth": 20, "seed": 0, "steps": 9}, may_differ=("steps",))
    assert "steps" not in str(error.value) and "seed" not in str(error.value)


def test_a_longer_run_of_the_same_configuration_is_accepted(tmp_path):
    open_run(tmp_path, {"depth": 10, "steps": 5})
    open_run(tmp_path, {"depth": 10, "steps": 9}, may_differ=("steps",))
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 9


def test_rows_of_lost_work_are_dropped_and_the_others_kept_to_the_letter(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.csv", ("step", "loss", "accuracy"))
    metrics.keep_until(0)
    metrics.append(ROW)
    before = metrics.path.read_text()
    metrics.append({**ROW, "step": 20})
    metrics.keep_until(10)
    assert metrics.path.read_text() == before
    assert metrics.rows() == [{"step": 10, "loss": 0.1234568, "accuracy": 0.5}]


def test_a_row_cut_short_by_a_kill_is_dropped(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.csv", ("step", "loss", "accuracy"))
    metrics.path.write_text("step,loss,accuracy\n10,0.5,0.25\n20,0.4")
    metrics.keep_until(20)
    assert [row["step"] for row in metrics.rows()] == [10]


def test_curves_are_drawn(tmp_path, pictures):
    values = {"train_loss": 2.0, "train_accuracy": 0.5, "test_loss": 3.0, "test_accuracy": 0.25}
    rows = [{"step": s} | {name: value / s for name, value in values.items()} for s in (10, 20)]
    plot_curves(rows, tmp_path / "curves.png", title="a run")
    picture = pictures["curves.png"]
    picture.assert_readable()
    assert picture.title == "a run"
    for panel, metric in zip(picture.panels, ("accuracy", "loss"), strict=True):
        assert (panel.x_label, panel.y_label) == ("steps", metric)
        for label, split in (("training", "train"), ("test", "test")):
            drawn = [row[f"{split}_{metric}"] for row in rows]
            assert_drawn(panel.line(label), [10, 20], drawn)
