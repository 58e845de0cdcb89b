"""Figures on colour pictures: CIFAR-10 is not here, so random pictures in its very format.

Each binary whose document uses CIFAR-10 runs, tiny, with --dataset=cifar10 and leaves numbers.
Linearization and effective rank, which also want ImageNet's, are in `test_linearization`.
"""

import importlib

import numpy as np
import pytest

from tests.data.test_sources import prepare, small_examples
from tests.experiments.running import run, table
from tests.experiments.sweeping import TINY

VANILLA = [*(flag for flag in TINY if "dataset" not in flag), "--resize=8"]
# By binary: the sizes, and a column that has to be finite.
RUNS = {
    "train_depths": ([*VANILLA, "--depths=2", "--initializations=orthogonal"], "train_loss"),
    "trainability": ([*VANILLA, "--depths=2", "--weight_variances=1.5"], "train_accuracy"),
    "variance_profiles": (
        [*VANILLA, "--depths=2", "--profiles=gs0", "--seeds=1"],
        "test_accuracy",
    ),
    "orthogonal_speed": ([*VANILLA, "--depth=2", "--learning_rates=0.01"], "train_loss"),
    "trainability_generalization": (
        "--depths=1 --weight_variances=1 --width=8 --subset=20 --test_subset=20 --kernel_size=20 "
        "--batch_size=10 --steps=4 --eval_every=2 --checkpoint_every=2".split(),
        "train_accuracy",
    ),
    "learning_rates": (
        "--depths=1 --weight_stds=1.5 --width=16 --examples=20 --rhos=0.5 --steps=4 "
        "--eval_every=2 --checkpoint_every=2".split(),
        "train_accuracy",
    ),
    "ntk_prediction": (
        "--grid=2 --max_depth=3 --train_size=30 --test_size=30 --resize=4".split(),
        "accuracy_pool",
    ),
    "deep_predictor": ("--train_size=5 --test_size=8 --max_depth=30".split(), "size"),
    "eigenvector_overlap": ("--train_size=30 --test_size=30 --max_depth=3".split(), "captured_1"),
    "kernel_limits": ("--max_depth=20 --examples=5".split(), "ntk_median"),
    "learning_curves": ("--examples=3 --depth=1 --width=64 --seeds=2 --steps=10".split(), "learnt"),
}
SLOW = ("ntk_prediction",)


@pytest.fixture(scope="module")
def pictures_in_colour(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colour")
    splits = {
        name: small_examples("cifar10", 120, seed) for seed, name in enumerate(("train", "test"))
    }
    prepare("cifar10", folder, splits)
    return folder


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in RUNS],
)
def test_figures_run_on_colour_pictures(name, pictures_in_colour, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(pictures_in_colour))
    sizes, column = RUNS[name]
    run(importlib.import_module(f"experiments.{name}"), tmp_path, *sizes, "--dataset=cifar10")
    assert list(tmp_path.glob("*.png"))
    rows = [row for path in tmp_path.glob("*.csv") for row in table(path) if column in row]
    assert rows and np.all(np.isfinite([row[column] for row in rows]))
