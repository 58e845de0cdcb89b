"""Memory over long use: steps of a training, input shapes of a kernel, models of empirical.ntk.

    python -m benchmarks.memory --output=experiments/results/soak/memory.csv

After a warm-up the process must stay where it is. Prints resident memory along the way and how much
was added per step, shape or model in the second half.
"""

import argparse
import ctypes
import gc
import pathlib
import tempfile
from collections.abc import Callable, Iterator

import keras
import numpy as np

from experiments import common
from mfcnn import data, empirical, kernels, models, training


def resident() -> float:
    """Resident memory in MiB, after what is free was given back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def steps(count: int) -> Iterator[int]:
    """A training, looked at every tenth of its way."""
    dataset = data.load("digits", 8, subset=64, test_subset=16)
    with tempfile.TemporaryDirectory() as directory:
        trainer = training.Trainer(
            lambda: models.vanilla_cnn((8, 8, 1), 2, 2, 10, strides=(2, 2, 2), seed=0),
            lambda _: keras.optimizers.SGD(1e-3),
            dataset,
            directory,
            eval_every=max(count // 20, 1),
            verbose=False,
            artifacts=False,
        )
        for tenth in range(1, 11):
            trainer.run(tenth * count // 10)
            yield tenth * count // 10


def shapes(count: int) -> Iterator[int]:
    """One kernel on inputs of ever other shapes."""
    kernel = kernels.fully_connected(2, "erf", 1.5, 0.1)
    draw = np.random.default_rng(0)
    for number in range(1, count + 1):
        kernel(draw.normal(size=(3 + number % 20, 2 + number // 20)))
        if number % max(count // 10, 1) == 0:
            yield number


def networks(count: int) -> Iterator[int]:
    """Ever new models through empirical.ntk."""
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    for number in range(1, count + 1):
        layers = [keras.layers.Dense(8, "tanh") for _ in range(2)]
        model = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(2)])
        empirical.ntk(model, x)
        if number % max(count // 10, 1) == 0:
            yield number


CASES: dict[str, tuple[Callable[[int], Iterator[int]], int]] = {
    "training steps": (steps, 3000),
    "input shapes": (shapes, 200),
    "models through empirical.ntk": (networks, 50),
}


def measure(name: str, share: float = 1.0) -> list[dict]:
    """Rows of resident memory along one case."""
    run, count = CASES[name]
    return [
        {"case": name, "count": number, "resident_mib": round(resident(), 1)}
        for number in run(int(count * share))
    ]


def growth(rows: list[dict]) -> float:
    """MiB for each unit in the second half, by least squares."""
    half = rows[len(rows) // 2 - 1 :]
    return float(np.polyfit([r["count"] for r in half], [r["resident_mib"] for r in half], 1)[0])


def main() -> None:
    """Measures all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--share", type=float, default=1.0, help="of the full counts")
    options = parser.parse_args()
    table = []
    for name in CASES:
        rows = measure(name, options.share)
        table += rows
        first, last = rows[0]["resident_mib"], rows[-1]["resident_mib"]
        words = f"{first} MiB after a tenth, {last} in the end, {growth(rows):+.4f} for each"
        print(f"{name}: {words}", flush=True)
        if options.output:
            common.write_csv(options.output, table)


if __name__ == "__main__":
    main()
