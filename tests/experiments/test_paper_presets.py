"""The presets and flagfiles of the CNN paper beside the paper's set-up.

`python -m pytest tests/experiments/test_paper_presets.py -s` prints them.
"""

import pathlib

import pytest
from absl import flags

from experiments import (
    orthogonal_speed,
    train_depths,
    trainability,
    vanilla,
    vanilla_sweep,
    variance_profiles,
)

CONFIGS = pathlib.Path(__file__).parents[2] / "tpu" / "configs"
# Section 3 of the paper; where it is silent the authors' public demo. Written out here again, so
# that a change of `PAPER_NETWORK` shows.
PAPER = {
    "activation": "tanh",
    "strides": ["1", "2", "2"],
    "padding": "circular",
    "stem_padding": "same",
    "readout": "pool",
    "readout_scale": 1.0,
    "critical_readout": True,
    "optimizer": "momentum",
    "learning_rate": "0.001",
}
FIGURES = {
    train_depths: {  # figure 1
        "dataset": "cifar10",
        "depths": ["1250", "2500", "5000", "10000"],
        "initializations": ["delta_orthogonal"],
        "weight_variance": 1.05,
        "bias_variance": 2.01e-5,
        "batch_size": 100,
    },
    trainability: {  # figure 2
        "dataset": "mnist",
        "bias_variance": 2e-5,
        "initialization": "gaussian",
        "steps": 100_000,
        "panels": ["500", "2500", "10000", "100000"],
        "batch_size": 100,
    },
    orthogonal_speed: {  # figure 5: 90,000 steps, about 60 epochs of 60,000 images
        "dataset": "mnist",
        "depth": 4000,
        "initializations": ["orthogonal", "gaussian"],
        "steps": 90_000,
        "batch_size": 40,
    },
    variance_profiles: {  # figure 4(a)
        "dataset": "cifar10",
        "profiles": ["gs0", "gs1", "gs2", "gs3", "gs4"],
        "batch_size": 100,
    },
}
# What differs in a flagfile by choice, with the reason in the file.
CHOICES = {
    "figure1_mnist_10000_v5e_16": {"optimizer", "learning_rate"},  # momentum does not fit
    "cifar10_50_no_downsampling_v5e_1": {"strides"},  # the paper's own exception
}


@pytest.mark.parametrize("binary", list(FIGURES), ids=lambda module: module.__name__)
def test_a_preset_is_the_papers_set_up(binary):
    settings = binary._QUICK | binary._PAPER
    rows = [(name, value, settings.get(name)) for name, value in (PAPER | FIGURES[binary]).items()]
    if binary is orthogonal_speed:  # learning rates are there in units of 1 / depth
        assert [float(r) / settings["depth"] for r in settings["learning_rates"]] == [0.001]
        rows = [row for row in rows if row[0] != "learning_rate"]
    for name, paper, preset in rows:
        print(f"{binary.__name__:32} {name:18} paper {paper!s:48.48} preset {preset!s:.48}")
    assert [row for row in rows if row[1] != row[2]] == []
    assert settings["filters"] is None and settings["resize"] is None
    widths = {depth: vanilla_sweep.paper_width(depth) for depth in (2, 256, 257, 10_000)}
    assert widths == {2: 256, 256: 256, 257: 128, 10_000: 128}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*_*.flags")), ids=lambda path: path.stem)
def test_a_flagfile_is_the_papers_set_up_and_should_train(path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parents[1])
    values = flags.FlagValues()
    vanilla.define_flags(values)
    values(["train", f"--flagfile={path}"])
    config = {name: values[name].value for name in values if name != "output_dir"}
    paper = PAPER | {"bias_scale": 1.0, "weight_variance": 1.05, "bias_variance": 2.01e-5}
    differ = {name for name, value in paper.items() if config[name] != value}
    assert differ == CHOICES.get(path.stem, set())
    assert config["filters"] == (256 if config["depth"] <= 256 else 128)
    shape = (28, 28, 1) if config["dataset"] == "mnist" else (32, 32, 3)
    verdict = vanilla.verdict(config | {"depth": min(config["depth"], 2000)}, shape)
    # Depth scale and modes are those of the fixed point, for 2,000 layers as for 10,000.
    print(f"{path.stem}: {verdict}")
    assert verdict.max_depth >= config["depth"] and verdict.trainable
