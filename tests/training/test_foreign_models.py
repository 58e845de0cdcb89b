"""Models from strangers: weights and known layers are loaded, code is not."""

import pathlib
import re

import keras
import numpy as np
import pytest

from mfcnn import models

ROOT = pathlib.Path(__file__).parents[2]


def test_own_models_are_loaded(tmp_path):
    model = models.vanilla_cnn((8, 8, 1), 2, 2, 10, seed=0)
    model.save(tmp_path / "model.keras")
    x = np.ones([1, 8, 8, 1], "float32")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))


def test_a_file_that_holds_code_is_refused_and_the_code_not_run(tmp_path):
    witness = tmp_path / "was_run"
    code = f"lambda x: (__import__('pathlib').Path({str(witness)!r}).touch(), x)[1]"
    layers = [keras.Input((2,)), keras.layers.Lambda(eval(code), output_shape=(2,))]
    keras.Sequential(layers).save(tmp_path / "model.keras")
    witness.unlink(missing_ok=True)
    with pytest.raises(ValueError, match="safe_mode|unsafe|Lambda"):
        keras.models.load_model(tmp_path / "model.keras")
    assert not witness.exists()


@pytest.mark.parametrize("folder", ["mfcnn", "experiments", "tpu"])
def test_nothing_turns_the_safe_mode_off_or_reads_pickles(folder):
    unsafe = (
        r"safe_mode\s*=\s*False|enable_unsafe|allow_pickle\s*=\s*True|\bpickle\.load|yaml\.load"
    )
    for path in (ROOT / folder).glob("**/*.py"):
        assert not re.search(unsafe, path.read_text()), path


def test_an_array_file_with_a_pickle_is_refused(tmp_path):
    path = tmp_path / "block_0_0.npz"
    np.savez(path, nngp=np.array([print], dtype=object))
    with np.load(path) as saved, pytest.raises(ValueError, match="allow_pickle=False"):
        saved["nngp"]
