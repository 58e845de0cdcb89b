"""A program for several replicas: trains, computes a kernel, and writes what came out as JSON.

python -m tests.training.on_replicas DIRECTORY mirrored 4  # logical CPUs
TF_CONFIG=... python -m tests.training.on_replicas DIRECTORY multiworker
"""

import json
import pathlib
import sys

import keras
import numpy as np

from mfcnn import data, kernels, models, training

STEPS = 12


def trainer(directory, strategy, batch_size=16):
    dataset = data.load("digits", batch_size, seed=1, test_subset=70)
    return training.Trainer(
        lambda: models.vanilla_cnn((8, 8, 1), 6, 4, 10, padding="same", seed=2),
        lambda _: keras.optimizers.SGD(0.02, momentum=0.9),
        dataset,
        directory,
        strategy=strategy,
        eval_every=4,
        steps_per_execution=3,
        verbose=False,
        artifacts=False,
    )


def results(directory, strategy):
    """A loss curve, a kernel in many blocks, and what is said of a batch that does not fit."""
    run = trainer(directory / "run", strategy)
    run.run(STEPS)
    kernel = kernels.convolutional(2, "erf", 1.5, 0.1, readout="pool")
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 1))
    if strategy is None:
        ntk = kernel(x, get="ntk")
    else:
        with strategy.scope():
            ntk = kernel(x, get="ntk")
    try:
        trainer(directory / "odd", strategy, batch_size=15)
        refused = ""
    except ValueError as error:
        refused = str(error)
    return {"rows": run.metrics.rows(), "ntk": ntk.numpy().tolist(), "refused": refused}


def main(directory, name, logical_cpus=1):
    directory = pathlib.Path(directory)
    training.use_logical_cpus(int(logical_cpus))
    strategy = training.make_strategy(name)
    found = results(directory, strategy)
    worker = strategy.cluster_resolver.task_id if name == "multiworker" else 0
    (directory / f"worker_{worker}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
