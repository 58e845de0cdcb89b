"""A model's file, loaded where mfcnn was not imported: Keras names what is missing."""

import subprocess
import sys

from mfcnn import models


def test_without_mfcnn_keras_names_the_module_to_import(tmp_path):
    """Keras imports only its own packages by itself: it cannot do more than to name the class."""
    path = tmp_path / "model.keras"
    models.vanilla_cnn((8, 8, 1), 2, 3, 4).save(path)
    code = f"import keras; keras.saving.load_model({str(path)!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode != 0
    message = result.stderr.splitlines()[-1]
    assert "make sure they are all imported" in message and "'module': 'mfcnn" in message
    code = code.replace("import keras", "import mfcnn, keras")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
