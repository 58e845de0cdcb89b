"""`mfcnn diagnose model.keras` and the tables of `experiments.repairs`."""

import keras
import pytest

from experiments import binary, diagnose, repairs
from tests.diagnosis import odd_models
from tests.experiments.running import run, table


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


@pytest.mark.slow
def test_the_tables_of_repairs(tmp_path, capsys):
    small = ["--activations=relu", "--depth=30", "--steps=30", "--models=1", "--draws=2"]
    run(repairs, tmp_path, *small, "--learning_rates=0.001")
    (row,) = table(tmp_path / "plain.csv")
    assert row["trainable_before"] == "False" and row["trainable_after"] == "True"
    assert row["log10_gradient_ratio_before"] < -6 < -1 < row["log10_gradient_ratio_after"]
    assert table(tmp_path / "deviations.csv")[0]["known"] > 10
    assert table(tmp_path / "verdicts.csv")[0]["model"] == "relu 4"
    assert "did not learn" in capsys.readouterr().out
