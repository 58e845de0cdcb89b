"""`mfcnn diagnose model.keras` and the tables of `experiments.repairs`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from experiments import binary, diagnose, repairs, reports
from tests.diagnosis import odd_models
from tests.experiments.running import run, table
from tests.tolerances import float32

L = keras.layers


@pytest.fixture
def path(tmp_path):
    model = odd_models.plain("relu", 12)
    model.save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def test_a_file_is_diagnosed_and_repaired(path, tmp_path, capsys):
    given = [f"--model={path}", "--draws=2", "--repair", "--notangent_kernel"]
    run(diagnose, tmp_path / "run", *given)
    shown = capsys.readouterr().out
    assert shown.count("inputs, ") == 2 and "orthogonal" in shown
    rows = table(tmp_path / "run" / "metrics.csv")
    assert len(rows) == 13 and rows[0]["gradient"] < rows[-1]["gradient"]
    assert {"report.html", "repaired.html", "diagnosis.png"} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }
    assert len(keras.saving.load_model(tmp_path / "run" / "repaired.keras").layers) == 13


def test_images_that_do_not_fit_are_refused(path, tmp_path):
    with pytest.raises(ValueError, match="dataset must have images that fit") as error:
        run(diagnose, tmp_path / "run", f"--model={path}", "--dataset=digits")
    assert isinstance(error.value, binary._REASONS) and not (tmp_path / "run").exists()


def test_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="give one model"):
        run(diagnose, tmp_path / "run")


@pytest.mark.slow  # trains several networks
def test_the_tables_of_repairs(tmp_path, capsys):
    small = ["--activations=relu", "--depth=30", "--steps=60", "--models=1"]
    run(repairs, tmp_path, *small, "--learning_rates=0.001")
    rows = {row["start"]: row for row in table(tmp_path / "plain.csv")}
    before, after, other = (rows[name] for name in ("before", "after", "autoinit"))
    assert before["trainable"] == "False" and after["trainable"] == "True"
    assert before["log10_gradient_ratio"] < -6 and abs(after["log10_gradient_ratio"]) < 0.1
    assert abs(other["log10_gradient_ratio"]) < 2 and other["log10_distance_ratio"] < -0.3
    assert before["test_accuracy"] < 0.3 < 0.5 < after["test_accuracy"]
    assert table(tmp_path / "verdicts.csv")[0]["model"] == "relu 4"
    assert "did not learn" in capsys.readouterr().out


def test_adam_on_one_vector_is_keras_adam():
    images, labels, *_ = repairs._digits()
    model = odd_models.functional((8, 8, 1), lambda x: L.Dense(10, "softmax")(L.Flatten()(x)))
    before = model.get_weights()
    run_, rate = repairs._trainer(model, images, labels), 1e-2
    flat = np.concatenate([np.ravel(w) for w in before])
    rows = np.random.default_rng(0).integers(len(images), size=(5, 32))
    found, _ = run_(tf.constant(flat), [], tf.constant(rows), tf.constant(rate))
    assert all(map(np.array_equal, before, model.get_weights()))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(images[rows.ravel()], labels[rows.ravel()], 32, shuffle=False, verbose=0)
    for one, other in zip(found, model.get_weights()):
        np.testing.assert_allclose(one, other, atol=rate * float32.deep)


@pytest.mark.slow  # a model of keras.applications
def test_the_table_of_reports(tmp_path):
    run(reports, tmp_path, "--models=1", "--draws=3")
    (row,) = table(tmp_path / "metrics.csv")
    assert row["known"] > 3 and row["unexplained"] == 0 and row["median_deviation"] < 0.1
