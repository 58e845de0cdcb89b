"""A Keras model against the theory, layer by layer, and the same model repaired.

    mfcnn diagnose model.keras
    python -m experiments.diagnose --model=model.keras --dataset=digits --repair

Prints the report and writes it as report.html, its table as metrics.csv and its picture as
diagnosis.png. With --repair the model with new weights is repaired.keras, its report
repaired.html. The inputs are standard normal numbers, or the first images of a data set, which are
reshaped to what the model takes.
"""

import hashlib
import os
import pathlib
from typing import Any

import keras
import numpy as np
from absl import flags

import mfcnn
from experiments import binary, common
from mfcnn import data, files

FLAGS = flags.FLAGS
_NORMAL = "normal"
_QUICK = {"inputs": 16, "draws": 3}
_PAPER = {"inputs": 32, "draws": 10}
_OTHERS = ("dataset", "training", "tangent_kernel", "repair")


def batch(model: keras.Model, dataset: str, count: int, seed: int) -> np.ndarray:
    """Inputs for a model: normal numbers, or images of a data set in the model's shape.

    Raises:
        ValueError: for a model of several inputs or of unknown shape, and a data set whose images
            do not fit.
    """
    symbols = getattr(model, "inputs", None) or []
    if len(symbols) != 1 or None in symbols[0].shape[1:]:
        raise ValueError(
            "model must have one input of known shape here; in Python mfcnn.diagnose takes any. "
            f"Received: {[tuple(symbol.shape) for symbol in symbols]}"
        )
    shape = tuple(symbols[0].shape[1:])
    if dataset == _NORMAL:
        return np.random.default_rng(seed).standard_normal((count, *shape)).astype("float32")
    images, _ = data.load_arrays(dataset, "train", subset=count)
    if images[0].size != np.prod(shape):
        raise ValueError(
            f"dataset must have images that fit the model's inputs {shape}. "
            f"Received: dataset={dataset!r} with images {images.shape[1:]}"
        )
    return images.reshape(count, *shape)


def write(report: mfcnn.diagnosis.Report, directory: Any, name: str) -> None:
    """The page of a report."""
    files.about_to_write(directory / f"{name}.html")
    report.save(directory / f"{name}.html")
    print(report)


def main(argv: list[str]) -> None:
    """Diagnoses, and repairs if asked."""
    path = FLAGS.model or (argv[1] if len(argv) > 1 else None)
    if path is None or len(argv) > 2:
        raise ValueError("give one model: mfcnn diagnose model.keras")
    if not os.path.isfile(path):
        raise FileNotFoundError(2, "there is no such file", path)
    settings = common.settings(_QUICK, _PAPER, _OTHERS)
    digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    directory = common.prepare_output_dir({**settings, "model": digest})
    model = keras.saving.load_model(path, compile=False)
    x = batch(model, settings["dataset"], settings["inputs"], settings["seed"])
    options = {key: settings[key] for key in ("training", "tangent_kernel", "seed")}
    report = mfcnn.diagnose(model, x, draws=settings["draws"], **options)
    write(report, directory, "report")
    common.write_csv(directory / "metrics.csv", [layer.row() for layer in report.layers])
    common.save_figure(report.plot(), directory / "diagnosis.png")
    if settings["repair"]:
        repaired = mfcnn.repair(model, x, seed=settings["seed"])
        print(f"\n{repaired.table}\n")
        files.write_atomically(directory / "repaired.keras", repaired.save)
        write(mfcnn.diagnose(repaired, x, draws=0, **options), directory, "repaired")


def define_flags() -> None:
    """Defines the flags of this binary."""
    common.define_flags("diagnose")
    flags.DEFINE_string("model", None, "A .keras file; or the command's argument.")
    flags.register_validator(
        "model", lambda path: path is None or os.path.isfile(path), "model must be a file"
    )
    flags.DEFINE_enum("dataset", _NORMAL, [_NORMAL, *data.NAMES], "Where the inputs are from.")
    common.define_override("inputs", "The number of inputs.", lower_bound=2)
    common.define_override(
        "draws", "Fresh initializations; 0 takes the weights as they are.", lower_bound=0
    )
    flags.DEFINE_bool("training", True, "Batch normalization by the statistics of the batch.")
    flags.DEFINE_bool("tangent_kernel", True, "Condition number and largest learning rate.")
    flags.DEFINE_bool("repair", False, "Also writes the model with new weights.")


if __name__ == "__main__":
    binary.start(define_flags, main, arguments=True)
