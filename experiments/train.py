r"""Trains a deep vanilla CNN: the main job.

    python -m experiments.train --dataset=digits --depth=1000 --output_dir=runs/digits

Before it trains it says what theory expects. Started again with the same flags it goes on where
it stopped. Writes config.json, metrics.csv, curves.png, tensorboard/, checkpoints/, model.keras.
"""

import math
import os
import pathlib
from typing import Any

import tensorflow as tf
from absl import flags, logging

from experiments import binary, vanilla
from experiments.vanilla import configuration, define_flags
from mfcnn import data, layers, models, run_directory, training

__all__ = [
    "configuration",
    "define_flags",
    "describe",
    "identity",
    "load_data",
    "main",
    "make_trainer",
    "report",
    "run",
    "run_directory_of",
    "theory",
]

FLAGS = flags.FLAGS

# What a continued run may change without changing what was computed so far.
_MAY_DIFFER = (
    "steps",
    "checkpoint_every",
    "strategy",
    "logical_cpus",
    "tpu",
    "worker_timeout",
    "shard_stack",
)
_SLOTS = {"sgd": 0, "momentum": 1, "rmsprop": 1, "adam": 2}


def theory(
    config: vanilla.Config, image_shape: tuple[int, ...], images: tf.Tensor | None = None
) -> str:
    """What mean field theory says of the run before it starts, as text; see `vanilla.verdict`."""
    depth, sides = config["depth"], vanilla.deep_block_sides(config, image_shape)
    weight_variance, bias_variance, _ = models.initial_variances(
        config["activation"],
        depth,
        config["q_star"],
        config["weight_variance"],
        config["bias_variance"],
    )
    readout = "the sum over positions" if config["readout"] == "pool" else "each position"
    filters = config["filters"]
    compiled = vanilla.jit_compile(config, image_shape)
    memory = layers.stack_memory(
        depth,
        layer_parameters=(9 * filters + 1) * filters,
        activation_size=config["batch_size"] * math.prod(sides) * filters,
        slots=_SLOTS[config["optimizer"]],
        gradient_copies=0 if config["fused"] else 1 if compiled else 2,
    )
    return (
        f"Start: sigma_w^2 = {weight_variance:.6g}, sigma_b^2 = {bias_variance:.6g}; "
        f"{config['initialization']} kernels, padding {config['padding']}, readout of {readout}.\n"
        f"{vanilla.verdict(config, image_shape, images)}\n"
        f"Deep block: {depth * (9 * filters + 1) * filters:,} parameters on "
        f"{sides[0]}x{sides[1]} positions; memory {memory}."
    )


def run(config: dict[str, Any], output_dir: str) -> dict[str, float]:
    """Trains as a configuration says and returns the last row of metrics."""
    if config["shard_stack"]:
        raise ValueError(
            "--shard_stack is trained by `python -m tpu.execute --platform=tpu`, with the same "
            "flags and the same output_dir; experiments.train holds a whole network per replica"
        )
    if config["logical_cpus"]:
        training.use_logical_cpus(config["logical_cpus"])
    strategy = training.make_strategy(config["strategy"], config["tpu"], config["worker_timeout"])
    with training.lost_peers(strategy):
        if training.is_chief(strategy):
            with run_directory_of(config, output_dir) as directory:
                return _run(config, directory.path, strategy)
        run_directory.check_configuration(output_dir, *identity(config))
        return _run(config, pathlib.Path(output_dir), strategy)


def run_directory_of(config: dict[str, Any], output_dir: str) -> training.RunDirectory:
    """The directory of a run of this configuration, to be entered."""
    return training.RunDirectory(output_dir, *identity(config))


def identity(config: dict[str, Any]) -> tuple[dict[str, Any], set[str], dict[str, Any]]:
    """(configuration, what of it may differ, what is meant where an older one lacks an entry)."""
    may_differ = set(_MAY_DIFFER)
    if config["schedule"] == "cosine":
        may_differ.remove("steps")  # its length
    name = {"binary": "train"}
    return {**config, **name}, may_differ, {**configuration(default=True), **name}


def load_data(config: vanilla.Config, directory: pathlib.Path) -> data.ImageData:
    """The data of a configuration; what takes long to find is kept in the run's directory."""
    return data.load(
        config["dataset"],
        config["batch_size"],
        seed=config["seed"],
        subset=config["subset"],
        test_subset=config["test_subset"],
        resize=config["resize"],
        shift=config["shift"],
        cache_dir=str(directory / "cache") if config["dataset"] == "imagenet_snakes" else None,
    )


def describe(config: vanilla.Config, dataset: data.ImageData, replicas: int) -> str:
    """What is about to be trained, on which data, and what theory says of it."""
    images = next(iter(dataset.train_batches()))[0][:16]
    return (
        f"{dataset.name}: {dataset.train_size} training and {dataset.test_size} test images "
        f"{dataset.image_shape}, {dataset.classes} classes.\n"
        f"{theory(config, dataset.image_shape, images)}\n"
        f"{replicas} replicas ({config['strategy']})."
    )


def make_trainer(
    config: vanilla.Config,
    dataset: data.ImageData,
    directory: pathlib.Path,
    strategy: tf.distribute.Strategy | None = None,
    jit_compile: bool = False,
    verbose: bool = True,
) -> training.Trainer:
    """The trainer of a configuration."""
    return training.Trainer(
        lambda: vanilla.make_model(config, dataset.image_shape, dataset.classes),
        lambda model: vanilla.make_optimizer(config, model, dataset, verbose=verbose),
        dataset,
        directory,
        strategy=strategy,
        jit_compile=jit_compile,
        fused=config["fused"],
        eval_every=config["eval_every"],
        checkpoint_every=config["checkpoint_every"],
        steps_per_execution=config["steps_per_execution"],
        title=f"{dataset.name}, {config['depth']} layers, {config['initialization']}",
        verbose=verbose,
    )


def _run(
    config: vanilla.Config, directory: pathlib.Path, strategy: tf.distribute.Strategy
) -> dict[str, float]:
    is_chief = training.is_chief(strategy)
    vanilla.set_precision(config)
    dataset = load_data(config, directory)
    if is_chief:
        print(describe(config, dataset, strategy.num_replicas_in_sync), flush=True)
    compiled = vanilla.jit_compile(config, dataset.image_shape)
    trainer = make_trainer(config, dataset, directory, strategy, compiled, is_chief)
    return trainer.run(config["steps"])


def main(_: list[str]) -> None:
    """Runs the flags' configuration."""
    logging.set_verbosity(logging.WARNING)  # the notes of libraries would hide the progress
    report(run(configuration(), FLAGS.output_dir))


def report(row: dict[str, float]) -> None:
    """Prints the last row of a run."""
    print(
        f"Step {row['step']:.0f}: test accuracy {row['test_accuracy']:.4f}, test loss "
        f"{row['test_loss']:.4f}. Curves: {os.path.join(FLAGS.output_dir, 'curves.png')}"
    )


if __name__ == "__main__":
    binary.start(define_flags, main)
