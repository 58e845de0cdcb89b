"""The folder of a program: the modules, the data, the first values, and a runner of them.

    program.json  config.json  initial/  data.npz  train.mlir  test.mlir  runner/  README.md

`python -m runner` trains it in an environment of jax and NumPy alone.
"""

import json
import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from experiments import train
from mfcnn import data, initializers
from tpu import lowering
from tpu.runner.arrays import write_array

__all__ = ["CARRIED", "first_values", "write"]

# Bytes of a variable that is carried; a larger one is drawn where it runs.
CARRIED = 2**24

_RUNNER = pathlib.Path(__file__).with_name("runner")
_CODES = 256

_README = """\
# A training program for {replicas} replicas

Needs Python 3.11 or newer with jax and NumPy, and no TensorFlow:

    pip install jax==0.10.2               # on a GPU jax[cuda13]==0.10.2, on a TPU jax[tpu]==0.10.2
    python -m runner --platform=cpu       # or gpu, tpu; from inside this folder

It trains {steps} steps of {batch_size} images and writes run/metrics.csv and run/checkpoints/
(state-STEP: the variables of the unsharded network, a .npy file each). Started again it goes on
from the newest checkpoint; --minutes=10 ends it after that time. On a CPU the replicas are virtual
devices; on a GPU or TPU machine there must be {replicas} devices.

On a pod the same command on every host, the folder and --output_dir on storage that they share:

    python -m runner --platform=tpu --coordinator=auto
    python -m runner --platform=gpu --coordinator=host0:1234 --processes=4 --process=0   # to 3

Where mfcnn is installed, `python -m tpu.execute --output_dir=run` with the flags of config.json
takes the run over: checkpoints for experiments.train, model.keras and curves.png.
"""

# A variable's values, or the law by which the runner draws them.
Values = Mapping[str, np.ndarray | dict[str, Any]]


def write(
    folder: pathlib.Path,
    config: Mapping[str, Any],
    dataset: data.ImageData,
    step: lowering.Step,
    values: Values,
    first_step: int = 0,
    window: tuple[float, ...] = (0.0, 0.0, 0.0),
    rows: str = "step,train_loss,train_accuracy,test_loss,test_accuracy\n",
) -> int:
    """Writes a folder, which is not there yet.

    Args:
        folder: its path.
        config: dict of the main job's flags.
        dataset: the data of the run.
        step: its program, from `lowering.make_step`.
        values: of the unsharded program's variables by path, see `first_values`.
        first_step: steps that are done.
        window: sums of loss, hits and examples since the last row.
        rows: the text of metrics.csv so far.

    Returns:
        Its size in bytes.

    Raises:
        FileExistsError: if there is something at its place.
        ValueError: training images that are moved.
    """
    if dataset.shift:
        raise ValueError(
            "the exported program trains on images as they are; leave --shift at 0, or train by "
            f"experiments.train. Received: shift={dataset.shift}"
        )
    programs = {"train": step.train(), "test": step.test()}
    spec = {
        "replicas": step.replicas,
        "batch_size": config["batch_size"],
        "steps": config["steps"],
        "eval_every": config["eval_every"],
        "checkpoint_every": config["checkpoint_every"] or config["eval_every"],
        "first_step": first_step,
        "window": [float(each) for each in window],
        "rows": rows,
        "forward_flops": lowering.forward_flops(step.model) * config["batch_size"],
        "shards": step.shards,
        "variables": {path: _variable(value) for path, value in values.items()},
    }
    for name, program in programs.items():
        spec[name] = {"arguments": program.arguments, "updated": program.updated}
    folder.mkdir(parents=True)
    for name, program in programs.items():
        (folder / f"{name}.mlir").write_text(program.text, encoding="utf-8")
    (folder / "initial").mkdir()
    for path, value in values.items():
        if not isinstance(value, dict):
            write_array(folder / "initial", path, value)
    order = dataset.train_order(config["steps"] - first_step, first_step)
    kind = np.uint16 if dataset.train_size <= 2**16 else np.int32
    np.savez_compressed(folder / "data.npz", order=order.astype(kind), **_images(dataset))
    (folder / "README.md").write_text(_README.format(**spec))
    shutil.copytree(_RUNNER, folder / "runner", ignore=shutil.ignore_patterns("__pycache__"))
    run_config, may_differ, _ = train.identity(dict(config))
    spec["may_differ"] = sorted(may_differ)
    (folder / "config.json").write_text(json.dumps(run_config, indent=2, sort_keys=True) + "\n")
    (folder / "program.json").write_text(json.dumps(spec, indent=1) + "\n")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def first_values(step: lowering.Step) -> dict[str, np.ndarray | dict[str, Any]]:
    """The first values of the unsharded program: those that were filled, laws of the others."""
    shards: dict[str, list[str]] = step.shards
    found: dict[str, np.ndarray | dict[str, Any]] = {}
    variables = {v.path: v for v in step.model.variables}
    variables |= {path: v for path, v in step.variables.items() if path not in shards}
    laws = _laws(step.model)
    for path, variable in variables.items():
        size = math.prod(variable.shape) * np.dtype(variable.dtype).itemsize
        law = {**laws.get(path, _ZEROS), "shape": list(variable.shape), "dtype": variable.dtype}
        found[path] = _short(variable.numpy()) if size <= CARRIED else law
    slots = {path: parts for path, parts in shards.items() if path.startswith("optimizer/")}
    for parts in slots.values():
        for path, weight in zip(parts, step.model.get_layer("deep").weights):
            found[path] = {**_ZEROS, "shape": list(weight.shape), "dtype": weight.dtype}
    return found


_ZEROS: dict[str, Any] = {"name": "constant", "value": 0.0}


def _short(value: np.ndarray) -> np.ndarray | dict[str, Any]:
    """A value, or its law where it is zero throughout, as optimizer's slots are."""
    if np.any(value) or value.size == 1:
        return value
    return {**_ZEROS, "shape": list(value.shape), "dtype": str(value.dtype)}


def _laws(model: keras.Model) -> dict[str, dict[str, Any]]:
    """The laws of the deep stack's weights, by path."""
    deep = model.get_layer("deep")
    kernel, bias = deep.kernel_initializer, deep.bias_initializer
    if isinstance(kernel, initializers.ConvolutionGaussian):
        variances = kernel.entry_variances(tuple(deep.kernel.shape[1:]))
        law = {"name": "gaussian", "stddev": np.sqrt(variances).tolist()}
    else:
        names = {
            initializers.ConvolutionDeltaOrthogonal: "delta_orthogonal",
            initializers.ConvolutionOrthogonal: "orthogonal",
        }
        law = {"name": names[type(kernel)], "gain": kernel.gain}
    stddev = bias.stddev / deep.bias_scale
    return {
        deep.kernel.path: {**law, "seed": kernel.seed},
        deep.bias.path: {"name": "gaussian", "stddev": stddev, "seed": bias.seed},
    }


def _variable(value: np.ndarray | dict[str, Any]) -> dict[str, Any]:
    if isinstance(value, dict):
        law = {name: entry for name, entry in value.items() if name not in ("shape", "dtype")}
        return {"shape": value["shape"], "dtype": value["dtype"], "law": law}
    return {"shape": list(value.shape), "dtype": str(value.dtype)}


def _images(dataset: data.ImageData) -> dict[str, Any]:
    """Both splits as the batches have them; as codes where a channel has a byte's values."""
    found = {}
    for split in ("train", "test"):
        found[f"{split}_images"], found[f"{split}_labels"] = dataset.arrays(split)
    images = [found[f"{split}_images"] for split in ("train", "test")]
    channels = range(dataset.image_shape[-1])
    levels = [np.unique(np.concatenate([x[..., c].ravel() for x in images])) for c in channels]
    if max(map(len, levels)) > _CODES:
        return found
    for split, x in zip(("train", "test"), images):
        codes = [np.searchsorted(levels[c], x[..., c]).astype(np.uint8) for c in channels]
        found[f"{split}_images"] = np.stack(codes, axis=-1)
    table = np.zeros([len(levels), _CODES], np.float32)
    for row, values in zip(table, levels):
        row[: len(values)] = values
    return {**found, "table": table}
