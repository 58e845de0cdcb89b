"""The loop: the same numbers as Keras's own, the same file after an interruption."""

import json
import pathlib
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import data, models
from mfcnn.training import DirectoryInUseError, StoppedError, Trainer, records
from tests.tolerances import float32


def make_trainer(directory, optimizer=None, **options):
    dataset = data.load("digits", batch_size=16, seed=1)
    return Trainer(
        lambda: models.vanilla_cnn((8, 8, 1), 6, 4, 10, padding="same", seed=2),
        optimizer or (lambda _: keras.optimizers.Adam(1e-2)),
        dataset,
        directory,
        verbose=False,
        **options,
    )


def test_the_steps_are_those_of_keras(tmp_path):
    trainer = make_trainer(tmp_path, lambda _: keras.optimizers.SGD(0.01), eval_every=5)
    row = trainer.run(5)
    model = models.vanilla_cnn((8, 8, 1), 6, 4, 10, padding="same", seed=2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, metrics=["accuracy"])
    dataset = data.load("digits", batch_size=16, seed=1)
    history = model.fit(dataset.train_batches().take(5), verbose=0).history
    test_loss, test_accuracy = model.evaluate(*dataset.arrays("test"), verbose=0)
    # Float32 sums over at most 360 examples, some 10 updates of rounding 6e-8.
    assert row["train_loss"] == pytest.approx(history["loss"][0], rel=float32.summed)
    assert row["test_loss"] == pytest.approx(test_loss, rel=float32.summed)
    assert row["train_accuracy"] == pytest.approx(history["accuracy"][0])
    assert row["test_accuracy"] == pytest.approx(test_accuracy)


def test_a_continued_run_leaves_the_file_of_an_uninterrupted_one(tmp_path):
    # 3 divides neither 4 nor 10, and the checkpoint at 12 lies in the middle of a row's window.
    options = {"eval_every": 10, "checkpoint_every": 4, "steps_per_execution": 3}
    make_trainer(tmp_path / "whole", **options).run(30)
    interrupted = make_trainer(tmp_path / "parts", **options)
    save = interrupted.checkpoints.save

    def save_and_die(step):
        save(step)
        if step == 12:
            raise KeyboardInterrupt

    interrupted.checkpoints.save = save_and_die
    with pytest.raises(KeyboardInterrupt):
        interrupted.run(30)
    make_trainer(tmp_path / "parts", **options).run(30)
    whole, parts = ((tmp_path / run / "metrics.csv").read_text() for run in ("whole", "parts"))
    assert parts == whole and whole.count("\n") == 4


def test_the_saved_model_and_the_curves_have_the_accuracy_of_the_last_row(tmp_path, pictures):
    trainer = make_trainer(tmp_path, eval_every=20)
    row = trainer.run(20)
    images, labels = trainer.dataset.arrays("test")
    logits = keras.models.load_model(tmp_path / "model.keras").predict(images, verbose=0)
    assert np.mean(logits.argmax(-1) == labels) == pytest.approx(row["test_accuracy"])
    steps, accuracies = pictures["curves.png"].panels[0].line("test")
    assert (steps[-1], accuracies[-1]) == (20, pytest.approx(row["test_accuracy"], abs=1e-7))
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_loss_that_is_no_longer_finite_ends_the_run_with_the_step_named(tmp_path):
    trainer = make_trainer(tmp_path, lambda _: keras.optimizers.SGD(1e38), eval_every=10)
    with pytest.raises(FloatingPointError, match="no longer finite at step 10"):
        trainer.run(100)


TINY = data.load("digits", batch_size=8, seed=1, subset=32, test_subset=16)


def make_tiny(directory, optimizer=None, **options):
    """Two layers of two channels, where it is not the network that is tested."""
    return Trainer(
        lambda: models.vanilla_cnn((8, 8, 1), 2, 2, 10, strides=(2, 2, 2), seed=2),
        optimizer or (lambda _: keras.optimizers.SGD(1e-2, momentum=0.9)),
        TINY,
        directory,
        verbose=False,
        **{"eval_every": 4, "checkpoint_every": 2, **options},
    )


OVERFLOWS = [pytest.param(2, id="looked at often"), pytest.param(20, id="at the row only")]


@pytest.mark.parametrize("checkpoint_every", OVERFLOWS)
def test_the_checkpoints_that_are_kept_are_finite_and_the_rows_the_same(tmp_path, checkpoint_every):
    options = {"eval_every": 20, "checkpoint_every": checkpoint_every, "steps_per_execution": 1}
    trainer = make_tiny(tmp_path, lambda _: keras.optimizers.SGD(1e38), **options)
    with pytest.raises(FloatingPointError, match="at step 20.*Lower the learning rate"):
        trainer.run(100)
    assert [row["step"] for row in trainer.metrics.rows()] == [20]
    for index in (tmp_path / "checkpoints").glob("*.index"):
        reader = tf.train.load_checkpoint(str(index.with_suffix("")))
        for name, dtype in reader.get_variable_to_dtype_map().items():
            if dtype.is_floating:
                assert np.all(np.isfinite(reader.get_tensor(name))), (index, name)


def test_weights_that_are_not_finite_in_the_end_are_no_result(tmp_path):
    # One step: the loss before it is finite, the weights after it are not.
    trainer = make_tiny(tmp_path, lambda _: keras.optimizers.SGD(3e38, momentum=0.9), eval_every=1)
    with pytest.raises(FloatingPointError, match="no longer finite at step"):
        trainer.run(2)
    assert not (tmp_path / "model.keras").exists()


def test_a_finite_loss_that_diverged_is_named(tmp_path, capsys):
    trainer = make_tiny(tmp_path, lambda _: keras.optimizers.SGD(1e12), eval_every=5)
    trainer.verbose = True
    try:
        trainer.run(5)
    except FloatingPointError:
        pytest.skip("this rate goes all the way")
    assert "the training has diverged (a constant prediction has 2.3)" in capsys.readouterr().err


def weights_of(directory):
    return [w.numpy() for w in keras.models.load_model(directory / "model.keras").weights]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "run"
    make_tiny(directory).run(8)
    return directory


def copy(whole, tmp_path):
    return pathlib.Path(shutil.copytree(whole, tmp_path / "copy"))


def assert_recovered(directory, whole, steps=8):
    make_tiny(directory).run(steps)
    assert (directory / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    for found, expected in zip(weights_of(directory), weights_of(whole), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("how", ["missing", "cut", "flipped", "emptied"])
def test_a_model_file_that_is_not_whole_is_seen(whole, tmp_path, how):
    path = copy(whole, tmp_path) / "model.keras"
    assert records.is_whole(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes({"cut": content[:-40], "flipped": content, "emptied": b""}[how])
    assert not records.is_whole(path)


def test_model_and_rows_of_a_finished_run_come_back_from_its_checkpoint(whole, tmp_path):
    directory = copy(whole, tmp_path)
    (directory / "model.keras").write_bytes(b"PK")
    (directory / "metrics.csv").unlink()
    assert_recovered(directory, whole)


def test_a_damaged_newest_checkpoint_falls_back_and_the_run_ends_the_same(whole, tmp_path, capsys):
    directory = copy(whole, tmp_path)
    path = directory / "checkpoints" / "ckpt-8.data-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)
    trainer = make_tiny(directory)
    trainer.verbose = True
    trainer.run(8)
    output = capsys.readouterr().out
    assert "ckpt-8 is damaged" in output and "Going on from step 6" in output
    assert_recovered(directory, whole)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_once_and_the_same_run_goes_on(whole, tmp_path, signum):
    def ended(*arguments):
        raise AssertionError("the signal was carried out")

    before = signal.signal(signum, ended)
    trainer = make_tiny(tmp_path / "run", steps_per_execution=1)
    original, calls = trainer._programs.train, []

    def step(*arguments):
        calls.append(len(calls))
        if len(calls) == 5:
            signal.raise_signal(signum)
        return original(*arguments)

    trainer._programs.train = step
    with pytest.raises(StoppedError, match=f"stopped at step 5 by {signum.name}") as stopped:
        trainer.run(8)
    assert (stopped.value.signum, stopped.value.step) == (signum, 5)
    assert signal.getsignal(signum) is ended
    signal.signal(signum, before)
    assert_recovered(tmp_path / "run", whole)


def test_two_trainers_do_not_share_a_directory(whole, tmp_path, monkeypatch):
    directory = copy(whole, tmp_path)
    record = {"host": "elsewhere", "boot": "", "pid": 7, "since": "today", "token": ""}
    (directory / ".owner.json").write_text(json.dumps(record))
    with pytest.raises(DirectoryInUseError, match="in use by pid 7 on elsewhere since today"):
        make_tiny(directory).run(8)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "2", None, np.nan])
@pytest.mark.parametrize(
    "name", ["eval_every", "checkpoint_every", "steps_per_execution", "eval_batch_size"]
)
def test_counts_are_checked_before_anything_is_built(tmp_path, name, value):
    if value is None and name in ("checkpoint_every", "eval_batch_size"):
        return
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1"):
        make_tiny(tmp_path, **{name: value})
