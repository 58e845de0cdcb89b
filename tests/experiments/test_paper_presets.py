"""The presets and flagfiles beside the papers' set-ups.

`python -m pytest tests/experiments/test_paper_presets.py -s` prints them.
"""

import pathlib

import numpy as np
import pytest
from absl import flags

from experiments import (
    condition_numbers,
    deep_predictor,
    effective_rank,
    eigenvector_overlap,
    kernel_limits,
    learning_curves,
    learning_rates,
    linearization,
    ntk_change,
    ntk_modes,
    ntk_prediction,
    ntk_spectrum,
    ntk_variance,
    orthogonal_speed,
    train_depths,
    trainability,
    trainability_generalization,
    vanilla,
    vanilla_sweep,
    variance_profiles,
)
from tests.experiments import running

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
# Sections 2 and 4 of the NTK paper: what it prints, and what it leaves open, which are our choices.
NTK_FIGURES = {
    learning_rates: (  # figure 2: "width 2048 using 1k training samples"
        {
            "dataset": "cifar10",
            "resize": None,
            "activation": "erf",
            "bias_std": 0.43,
            "depths": ["5", "10", "20", "40"],
            "width": 2048,
            "examples": 1000,
        },
        {"weight_stds", "steps", "eval_every", "early_steps", "checkpoint_every", "rhos"},
    ),
    trainability_generalization: (  # figure 3, top: 16k samples, b = 1024, eta = 0.3 eta_theory
        {
            "dataset": "cifar10",
            "resize": None,
            "activation": "erf",
            "rho": 0.3,
            "subset": 16384,
            "test_subset": None,
            "batch_size": 1024,
        },
        {
            "bias_variance",
            "weight_variances",
            "depths",
            "width",
            "kernel_size",
            "steps",
            "eval_every",
            "checkpoint_every",
        },
    ),
    ntk_prediction: (  # figure 3, bottom: "1k train set", 20 x 20 configurations
        {
            "dataset": "cifar10",
            "resize": None,
            "activation": "erf",
            "train_size": 1000,
            "grid": 20,
            "normalization": "fixed_point",  # section 3: inputs "normalized to have variance q*"
        },
        {"test_size", "max_depth", "bias_variance", "ridge"},
    ),
    condition_numbers: (  # figures 1 and 4; of the labels the text prints 12-6 alone
        {"architectures": ["fcn", "cnn_f", "cnn_p"]},
        {"configurations", "max_depth", "q_star"},
    ),
    ntk_spectrum: (  # the table of appendix C.1
        {"architectures": ["fcn", "cnn_f", "cnn_p"]},
        {"inputs", "size", "max_depth", "q_star"},
    ),
    # Of what the documents write and do not draw.
    kernel_limits: (
        {"activation": "erf"},
        {"q_star", "correlations", "max_depth", "dataset", "examples"},
    ),
    eigenvector_overlap: (
        {"activation": "erf"},
        {"q_star", "dataset", "train_size", "test_size", "max_depth", "ranks", "ridge"},
    ),
    deep_predictor: (
        {"activation": "erf"},
        {"q_star", "dataset", "train_size", "test_size", "max_depth", "ridges"},
    ),
    learning_curves: (
        {"activation": "erf"},
        {"q_star", "dataset", "resize", "examples", "depth", "width", "seeds", "rho", "steps"},
    ),
    ntk_modes: ({"activation": "erf"}, {"q_star", "positions", "amplitude", "max_depth"}),
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


# Sections 3.1 to 3.3 of the linearization paper, written out here again.
LENET = {
    "width_factors": ["1", "2", "5", "10", "25", "60"],
    "epochs": 100,
    "linear_epochs": 100,
    "batch_size": 32,
    "momentum": 0.9,
    "learning_rate": 0.1,
    "linear_learning_rates": ["0.1"],
    "weight_decay": 5e-5,
    "linear_weight_decays": ["5e-5"],
    "loss": "mean_squared_error",
    "trajectory_factors": ["1", "3", "5"],
}
ALEXNET = LENET | {
    "width_factors": ["1", "2", "3", "4"],
    "weight_decay": 5e-6,
    "linear_learning_rates": ["0.1", "1"],
    "linear_weight_decays": ["5e-6", "5e-7"],
}
# The paper prints none of these.
CHOSEN = {
    "trajectory_steps": 200,
    "logistic_epochs": 100,
    "logistic_learning_rate": 0.01,
    "normalize": True,
}
NETWORKS = [
    ([], LENET | {"dataset": "mnist", "schedule": "constant"}),
    (["--dataset=cifar10"], LENET | {"dataset": "cifar10", "schedule": "step"}),
    (["--architecture=alexnet"], ALEXNET | {"dataset": "imagenet_snakes", "schedule": "step"}),
]


def settings_of(module, *arguments):
    """What a binary would run with these flags."""
    found = []

    class StoppedError(Exception):
        pass

    def stop(settings, *_):
        found.append(settings)
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.common.prepare_output_dir", stop)
        with pytest.raises(StoppedError):
            running.run(module, "unused", "--preset=paper", *arguments)
    return found[0]


@pytest.mark.parametrize(("arguments", "paper"), NETWORKS, ids=["mnist", "cifar10", "alexnet"])
def test_the_linearization_papers_preset(arguments, paper):
    settings = settings_of(linearization, *arguments)
    for name, value in paper.items():
        print(f"linearization {name:22} paper {value!s:40} preset {settings[name]}")
    ours = set(settings) - set(paper) - {"preset", "seed", "architecture", "train_size"}
    assert {name: settings[name] for name in ours - {"initial_weights"}} == CHOSEN
    assert {name: settings[name] for name in paper} == paper
    assert settings["train_size"] == 0 and settings["initial_weights"] is None
    rank = settings_of(effective_rank, *arguments)
    assert {name: rank[name] for name in ("dataset", "width_factors", "examples")} == {
        "dataset": paper["dataset"],
        "width_factors": paper["width_factors"],
        "examples": 600,
    }


# Sections 3 and 4 and appendix D of the finite-width paper.
FINITE_WIDTH = {
    ntk_variance: (
        {
            "activations": ["tanh", "relu"],
            "widths": ["50", "100", "200", "500"],
            "bias_variance": 1.0,
            "bias_width": 100,
            "initializations": 200,
        },
        # Ranges and grids are read off the pictures, or not printed; the law's test is ours.
        {"depth", "depth_count", "grid", "bias_variances", "curve_depth", "curve_widths"}
        | {"law_networks"},
    ),
    ntk_change: (
        {
            "activations": ["tanh", "relu"],
            "widths": ["128", "256", "512"],
            "dataset": "mnist",
            "examples": 128,
            "learning_rate": 1e-5,
            "max_steps": 100_000,
        },
        {"depths", "grid", "bias_variance"},
    ),
}


@pytest.mark.parametrize("binary", list(FINITE_WIDTH), ids=lambda module: module.__name__)
def test_the_finite_width_papers_presets(binary):
    paper, chosen = FINITE_WIDTH[binary]
    settings = settings_of(binary)
    for name in (*paper, *sorted(chosen)):
        print(f"{binary.__name__} {name:16} paper {paper.get(name)!s:32} preset {settings[name]}")
    assert {name: settings[name] for name in paper} == paper
    assert set(settings) - set(paper) - {"preset", "seed"} == chosen
    assert ntk_variance._CURVES == ((1, 1), (1.5, 1), (2, 0), (3, 1))
    assert (ntk_change._PATIENCE, ntk_change._LEAST_DECREASE) == (100, 1e-7)


@pytest.mark.parametrize("binary", list(NTK_FIGURES), ids=lambda module: module.__name__)
def test_a_preset_of_the_ntk_paper_is_its_set_up_and_all_else_a_named_choice(binary):
    paper, choices = NTK_FIGURES[binary]
    settings = binary._QUICK | getattr(binary, "_PAPER", {})
    for name, value in settings.items():
        said = f"paper {paper[name]!s:.48}" if name in paper else "a choice"
        print(f"{binary.__name__:40} {name:18} preset {value!s:48.48} {said}")
    assert {name: settings[name] for name in paper} == paper
    assert set(settings) == set(paper) | choices and not set(paper) & choices


def test_the_ntk_papers_grids():
    """Ten weight variances and ten rates from 0.1 to 10 (figure 2), 20 x 20 networks (figure 3)."""
    assert len(learning_rates._PAPER["weight_stds"]) == 10
    rhos = {float(rho) for rho in learning_rates._PAPER["rhos"]}
    assert {float(f"{rho:.3g}") for rho in np.geomspace(0.1, 10, 10)} <= rhos
    grid = trainability_generalization._PAPER
    assert len(set(grid["depths"])) == len(set(grid["weight_variances"])) == 20
    assert len(ntk_prediction.depths_of(20, ntk_prediction._PAPER["max_depth"])) == 20
    assert (12, 6) in condition_numbers._PAPER["configurations"]


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
