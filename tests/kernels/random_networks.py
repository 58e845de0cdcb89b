"""Every layer and every activation: the kernel against random networks of two widths.

    python -m tests.kernels.random_networks --width=64 --draws=1000

The mean over draws of networks of width n is off by b / n + O(1 / n^2). Twice the mean at one width
less the mean at half of it is off by O(1 / n^2), so that a network far off at a small width and not
at a larger one is of finite width, and one far off at both has a wrong kernel. A row is a network,
with NNGP and NTK: the entry furthest from the kernel in standard errors, and the probability that
all its entries together are that far off by chance. Probabilities of right kernels are uniform.
"""

import argparse
import csv
import os
import time

import keras
import numpy as np
from scipy import stats

from mfcnn import activations, kernels
from tests.kernels import layer_networks, sampling, test_wide_networks
from tests.kernels.test_wide_networks import dense, sequential, weights

FIELDS = ("network", "kernel", "width", "worst", "probability", "error", "seconds")


def _activation(name: str):
    """Two hidden layers with one activation, or what keeps the tails of its moments light."""
    phi = activations.keras_identifier(activations.get(name))
    hidden = {"activation": phi} | (weights(0.2, 0.1) if name == "exp" else {})
    layers = 1 if name == "relu_squared" else 2
    return lambda n: sequential([6], *(dense(n, **hidden) for _ in range(layers)), dense())


# A network's place decides its seed: new ones are put behind the others.
NETWORKS = (
    test_wide_networks.MODELS
    | {n: m for n, m in layer_networks.MODELS.items() if n not in layer_networks.ATTENTION}
    | {name: _activation(name) for name in activations.NAMES}
    | layer_networks.ATTENTION
)


def rows_of(name: str, width: int, draws: int, seed: int) -> list[list]:
    """A row for the NNGP and one for the NTK."""
    # Other draws for each: probabilities of networks that share draws are not independent.
    keras.utils.set_random_seed(1000 * seed + list(NETWORKS).index(name))
    started, make = time.process_time(), NETWORKS[name]
    x = layer_networks.inputs_of(name, make(4))
    rows, columns = np.triu_indices(2)
    samples, expected = [], []
    sampled = layer_networks.SAMPLED.get(name, False)
    for n, count in ((width, draws), (width // 2, draws // 2)):
        kernel = kernels.from_keras(make(n), sampled=sampled)(x)
        expected.append([np.asarray(k)[rows, columns] for k in kernel[:2]])
        samples.append(sampling.kernels_of_draws(make(n), x, count)[:, :, rows, columns])
    result = []
    for field, kernel in enumerate(("nngp", "ntk")):
        # A layer of n / 2 groups, say, has a limit of its own at each width.
        scaled = [draw[:, field] / value[field] for draw, value in zip(samples, expected)]
        estimates = list(zip((2, -1), scaled))
        probability, errors = sampling.significance(estimates, np.ones(len(rows)), 1e-6)
        mean = sum(factor * draw.mean(0) for factor, draw in estimates)
        worst = np.max(np.abs(mean - 1) / errors)
        seconds = time.process_time() - started
        result.append([name, kernel, width, worst, probability, errors.max(), seconds])
    return result


def report(rows: list[list]) -> str:
    """The worst of the table, and whether its probabilities are those of chance."""
    worst = max(rows, key=lambda row: float(row[3]))
    probabilities = np.array([float(row[4]) for row in rows])
    uniform = stats.kstest(probabilities, "uniform").pvalue
    return (
        f"{len(rows)} comparisons of {len({row[0] for row in rows})} networks: the worst entry is "
        f"{float(worst[3]):.2f} standard errors off ({worst[0]}, {worst[1]}); "
        f"{np.sum(probabilities < 0.05)} probabilities below 0.05 where chance has "
        f"{0.05 * len(rows):.1f}; uniform with probability {uniform:.2f}"
    )


def main() -> None:
    """Prints the rows and what they say together; goes on where an earlier run stopped."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--output_dir", default="runs/random_networks")
    options = parser.parse_args()
    os.makedirs(options.output_dir, exist_ok=True)
    run = f"{options.width}_{options.draws}_{options.seed}"
    path = os.path.join(options.output_dir, f"random_networks_{run}.csv")
    rows = []
    if os.path.exists(path):
        with open(path) as file:
            rows = list(csv.reader(file))[1:]
    done = {row[0] for row in rows}
    with open(path, "a", newline="") as file:
        writer = csv.writer(file)
        if not rows:
            writer.writerow(FIELDS)
        for name in options.networks:
            if name in done:
                continue
            try:
                new = rows_of(name, options.width, options.draws, options.seed)
            except ValueError as error:
                print(f"{name}: refused: {' '.join(str(error).split())[:150]}", flush=True)
                continue
            for row in new:
                print("{:40s} {:5s} {:4d} {:5.2f} {:.3f} {:.3f} {:.0f}".format(*row), flush=True)
            writer.writerows(
                [f"{value:.4g}" if isinstance(value, float) else value for value in row]
                for row in new
            )
            file.flush()
            rows += new
            done.add(name)
            keras.backend.clear_session()
    print(report(rows))


if __name__ == "__main__":
    main()
