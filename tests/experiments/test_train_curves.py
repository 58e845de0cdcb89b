"""The table and the picture of trainings that were run before."""

import json

import pytest
import tensorflow as tf

from experiments import binary, train_curves
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table
from tests.experiments.sweeping import assert_figure


def make_run(folder, depth, losses, times, batch_size=4, binary="train"):
    """A run of one row each 10 steps, whose processes wrote rows at these times."""
    folder.mkdir(parents=True)
    config = {"binary": binary, "depth": depth, "batch_size": batch_size}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [f"{10 * i},{loss},0.5,{loss},{1 - loss}" for i, loss in enumerate(losses, 1)]
    head = "step,train_loss,train_accuracy,test_loss,test_accuracy"
    (folder / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    (folder / "tensorboard").mkdir()
    step = 0
    for index, process in enumerate(times):
        path = str(folder / "tensorboard" / f"events.out.tfevents.{index}")
        with tf.io.TFRecordWriter(path) as file:
            file.write(tf.compat.v1.Event(wall_time=0.0, step=0).SerializeToString())
            for time in process:
                step += 10
                event = tf.compat.v1.Event(wall_time=time, step=step)
                file.write(event.SerializeToString())
    return folder


def test_rows_and_picture_are_those_of_the_runs(tmp_path, capsys, pictures):
    # 36 s a step; the second process starts a year later.
    deep = make_run(tmp_path / "deep", 100, [0.4, 0.2, 0.1, 0.05], [(360, 720), (4e7, 4e7 + 360)])
    flat = make_run(tmp_path / "flat", 10, [0.3, 0.1], [(5.0, 41.0)])
    run(train_curves, tmp_path / "out", f"--runs={deep},{flat}")
    rows = table(tmp_path / "out" / "metrics.csv", run="deep")
    assert [row["steps"] for row in rows] == [10, 20, 30, 40]
    assert [row["images"] for row in rows] == [40, 80, 120, 160]
    assert [row["hours"] for row in rows] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    picture = assert_figure(tmp_path / "out", pictures, "train_curves.png")
    assert_drawn(picture.panels[2].line("100 layers"), [0.1, 0.2, 0.3, 0.4], [0.4, 0.2, 0.1, 0.05])
    assert_drawn(picture.panels[3].line("10 layers"), [10, 20], [0.7, 0.9])
    assert (
        "deep: test accuracy 95.00% after 40 steps, 160 images, 0.40 h" in capsys.readouterr().out
    )


def test_what_is_no_run_is_refused(tmp_path):
    good = make_run(tmp_path / "a" / "x", 10, [0.3, 0.1], [(5.0, 41.0)])
    same = make_run(tmp_path / "b" / "x", 10, [0.3, 0.1], [(5.0, 41.0)])
    other = make_run(tmp_path / "y", 10, [0.3, 0.1], [(5.0, 41.0)], binary="kappa")
    alone = make_run(tmp_path / "z", 10, [0.3, 0.1], [(5.0,), (41.0,)])
    for runs, words in (
        ([], "runs must name folders"),
        ([good, same], "runs must differ in name"),
        ([other], "runs must be folders of experiments.train"),
        ([alone], "runs must have two rows by one process"),
    ):
        given = [f"--runs={','.join(map(str, runs))}"] if runs else []
        with pytest.raises(binary._REASONS, match=words):
            run(train_curves, tmp_path / "out", *given)
    assert not (tmp_path / "out" / "config.json").exists()
