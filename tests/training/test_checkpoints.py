"""The newest checkpoint that can be read is taken; the rows of metrics are in it."""

import numpy as np
import pytest
import tensorflow as tf

from mfcnn.training import Checkpoints, DamagedFileError, MetricsFile

FIELDS = ("step", "loss")


def make(directory):
    step, window = tf.Variable(0, dtype=tf.int64), tf.Variable(tf.zeros([3], tf.float64))
    weights = [tf.Variable(tf.zeros([50])), tf.Variable(tf.zeros([3, 4]))]
    metrics = MetricsFile(directory / "metrics.csv", FIELDS)
    return Checkpoints(directory / "checkpoints", step, window, weights, metrics), step, weights


def saved(directory, steps=(2, 4, 6)):
    """Checkpoints at some steps, with a row of metrics before each."""
    checkpoints, step, weights = make(directory)
    for number in steps:
        step.assign(number)
        weights[0].assign(tf.fill([50], float(number)))
        checkpoints._metrics.append({"step": number, "loss": number / 7})
        checkpoints.save(number)
    return (directory / "metrics.csv").read_bytes()


def test_the_newest_two_are_kept(tmp_path):
    saved(tmp_path)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {f"ckpt-{n}.{end}" for n in (4, 6) for end in ("index", "data-00000-of-00001")}


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("how", ["cut", "emptied", "gone", 0, 1, 2, 3])
def test_a_damaged_newest_one_falls_back_to_the_one_before(tmp_path, part, how):
    saved(tmp_path)
    path = tmp_path / "checkpoints" / f"ckpt-6.{part}"
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif isinstance(how, int):  # a flipped byte at four places
        content[how * len(content) // 4] ^= 255
        path.write_bytes(content)
    else:
        path.write_bytes(content[: len(content) // 2] if how == "cut" else b"")
    checkpoints, step, weights = make(tmp_path)
    assert checkpoints.restore().name == "ckpt-4"
    seen = not (how == "gone" and part == "index")  # without its index it is no checkpoint
    assert checkpoints.damaged == ["ckpt-6"] * seen
    assert step.numpy() == 4 and np.all(weights[0].numpy() == 4)
    checkpoints.clean()
    rows = checkpoints._metrics.rows()
    assert [row["step"] for row in rows] == [2, 4]
    if seen:
        assert list((tmp_path / "checkpoints").glob("damaged-ckpt-6.*"))
    assert make(tmp_path)[0].restore().name == "ckpt-4"


def test_without_one_that_can_be_read_it_says_what_to_do(tmp_path):
    saved(tmp_path)
    for path in (tmp_path / "checkpoints").glob("*.index"):
        path.write_bytes(b"x" * 100)
    with pytest.raises(DamagedFileError, match="ckpt-6 is damaged.*Remove .*checkpoints to train"):
        make(tmp_path)[0].restore()


def test_a_lost_host_is_no_damage(tmp_path, monkeypatch):
    saved(tmp_path)

    def restore(self, path):
        raise tf.errors.UnavailableError(None, None, "gone")

    monkeypatch.setattr(tf.train.Checkpoint, "restore", restore)
    with pytest.raises(tf.errors.UnavailableError):
        make(tmp_path)[0].restore()


@pytest.mark.parametrize("content", [None, b"", b"step,loss\n2,0.5\n", b"\xff\x00", b"step,loss\n"])
def test_the_rows_come_back_from_the_checkpoint_byte_for_byte(tmp_path, content):
    expected = saved(tmp_path)
    path = tmp_path / "metrics.csv"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    checkpoints, *_ = make(tmp_path)
    checkpoints.restore()
    checkpoints.clean()
    assert path.read_bytes() == expected


def test_a_checkpoint_of_an_older_version_takes_the_rows_of_the_file(tmp_path):
    step, window = tf.Variable(4, dtype=tf.int64), tf.Variable(tf.zeros([3], tf.float64))
    weights = [tf.Variable(tf.ones([50])), tf.Variable(tf.ones([3, 4]))]
    old = tf.train.Checkpoint(step=step, window=window, variables=weights)
    manager = tf.train.CheckpointManager(old, str(tmp_path / "checkpoints"), 2)
    manager.save(checkpoint_number=4)
    (tmp_path / "metrics.csv").write_text("step,loss\n2,0.5\n4,0.25\n6,0.1\n")
    checkpoints, step, weights = make(tmp_path)
    assert checkpoints.restore().name == "ckpt-4" and np.all(weights[1].numpy() == 1)
    checkpoints.clean()
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n2,0.5\n4,0.25\n"
    (tmp_path / "metrics.csv").write_text("step,loss\n2,0.5\n4,0.x25\n")
    with pytest.raises(DamagedFileError, match="metrics.csv is damaged .line 3"):
        checkpoints.clean()
