"""The loop: the same numbers as Keras's own, the same file after an interruption."""

import keras
import numpy as np
import pytest

from mfcnn import data, models
from mfcnn.training import Trainer


def make_trainer(directory, optimizer=None, **options):
    dataset = data.load("digits", batch_size=16, seed=1)
    directory.mkdir(exist_ok=True)
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
    assert row["train_loss"] == pytest.approx(history["loss"][0], rel=1e-5)
    assert row["test_loss"] == pytest.approx(test_loss, rel=1e-5)
    assert row["train_accuracy"] == pytest.approx(history["accuracy"][0])
    assert row["test_accuracy"] == pytest.approx(test_accuracy)


def test_a_continued_run_leaves_the_file_of_an_uninterrupted_one(tmp_path):
    # 3 divides neither 4 nor 10, and the checkpoint at 12 lies in the middle of a row's window.
    options = {"eval_every": 10, "checkpoint_every": 4, "steps_per_execution": 3}
    make_trainer(tmp_path / "whole", **options).run(30)
    interrupted = make_trainer(tmp_path / "parts", **options)
    save = interrupted._manager.save

    def save_and_die(checkpoint_number):
        save(checkpoint_number=checkpoint_number)
        if checkpoint_number == 12:
            raise KeyboardInterrupt

    interrupted._manager.save = save_and_die
    with pytest.raises(KeyboardInterrupt):
        interrupted.run(30)
    make_trainer(tmp_path / "parts", **options).run(30)
    whole, parts = ((tmp_path / run / "metrics.csv").read_text() for run in ("whole", "parts"))
    assert parts == whole and whole.count("\n") == 4


def test_the_saved_model_has_the_accuracy_of_the_last_row(tmp_path):
    trainer = make_trainer(tmp_path, eval_every=20)
    row = trainer.run(20)
    images, labels = trainer.dataset.arrays("test")
    logits = keras.models.load_model(tmp_path / "model.keras").predict(images, verbose=0)
    assert np.mean(logits.argmax(-1) == labels) == pytest.approx(row["test_accuracy"])
    assert (tmp_path / "curves.png").exists()
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_loss_that_is_no_longer_finite_ends_the_run_with_the_step_named(tmp_path):
    trainer = make_trainer(tmp_path, lambda _: keras.optimizers.SGD(1e38), eval_every=10)
    with pytest.raises(FloatingPointError, match="no longer finite at step 10"):
        trainer.run(100)
