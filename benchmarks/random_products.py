"""Singular values of products of random matrices against `mfcnn.meanfield.jacobian_spectrum`.

    python -m benchmarks.random_products

Products D W ... D W for each activation, kind of weights and depth: standard deviation of log s
over the values that are not zero, their share, the largest and the smallest, as mean and standard
deviation over draws, beside the theory's. Writes a CSV file.
"""

import csv
import pathlib

import numpy as np
from absl import app, flags
from scipy.linalg import lapack

from mfcnn import activations, meanfield

FLAGS = flags.FLAGS


def singular_values(
    name: str,
    weight_variance: float,
    q: np.ndarray,
    n: int,
    orthogonal: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """The singular values of one product of n x n layers that are not zero, descending.

    They range over hundreds of decades. The product is kept as Q R with a graded triangular R, and
    LAPACK's Jacobi method (gejsv) gives every one of R's to full relative accuracy.

    Args:
        name: of the activation.
        weight_variance: sigma_w^2.
        q: variance of each layer's pre-activations, [depth].
        n: rows of each matrix.
        orthogonal: whether the weights are orthogonal rather than Gaussian.
        rng: source of all draws.

    Returns:
        float64 [at most n].
    """
    phi_prime = activations.get(name).phi_prime
    basis, product, rank = np.eye(n), np.eye(n), n
    for variance in q:
        w = rng.standard_normal((n, n))
        if orthogonal:
            u, r = np.linalg.qr(w)
            w = u * np.sign(np.diag(r))
        else:
            w /= np.sqrt(n)
        slopes = np.asarray(phi_prime(np.sqrt(variance) * rng.standard_normal(n)))
        layer = slopes[:, None] * (np.sqrt(weight_variance) * (w @ basis))
        basis, factor = np.linalg.qr(layer)
        rank = min(rank, np.count_nonzero(slopes))  # what is left is rounding of zero
        basis, product = basis[:, :rank], factor[:rank] @ product
    values, *_, work, _, info = lapack.dgejsv(product.T.copy(), joba=1, jobu=3, jobv=3)
    if info:
        raise RuntimeError(f"gejsv ended with info={info}")
    values = values * (work[0] / work[1])
    return np.sort(values)[::-1]


def compare(name: str, depth: int, orthogonal: bool, q: float, n: int, draws: int) -> dict:
    """One row of the table: theory beside the mean over draws."""
    weight_variance, _ = meanfield.critical_point(name, q)
    rng = np.random.default_rng(0)
    layers = np.full(depth, q)
    found = [
        singular_values(name, weight_variance, layers, n, orthogonal, rng) for _ in range(draws)
    ]
    theory = meanfield.jacobian_spectrum(name, weight_variance, depth, q, orthogonal, width=n)
    logs = [np.log(s) for s in found]
    row = {
        "activation": name,
        "weights": "orthogonal" if orthogonal else "gaussian",
        "depth": depth,
        "width": n,
    }
    columns = {
        "log_spread": ([x.std() for x in logs], theory.log_spread),
        "log_s_max": ([x[0] for x in logs], np.log(theory.s_max)),
        "log_s_min": ([x[-1] for x in logs], np.log(theory.s_min)),
        "nonzero": ([x.size / n for x in logs], theory.nonzero),
    }
    for key, (measured, expected) in columns.items():
        row[key] = np.mean(measured)
        row[f"{key}_deviation"] = np.std(measured, ddof=1)
        row[f"{key}_theory"] = expected
    return row


def main(_: list[str]) -> None:
    """Prints and writes the table."""
    rows = []
    for name in ("linear", "tanh", "hard_tanh"):
        for orthogonal in (False, True):
            for depth in (1, 10, 100):
                row = compare(name, depth, orthogonal, FLAGS.q, FLAGS.width, FLAGS.draws)
                rows.append(row)
                words = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
                print("  ".join(words), flush=True)
    path = pathlib.Path(FLAGS.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def define_flags() -> None:
    """Defines the flags of this binary."""
    flags.DEFINE_integer("width", 200, "Rows of the matrices.", lower_bound=2)
    flags.DEFINE_integer("draws", 10, "Products for each row.", lower_bound=2)
    flags.DEFINE_float("q", 0.3, "Variance of the pre-activations.", lower_bound=0)
    flags.DEFINE_string("output", "experiments/results/verdict/spectra.csv", "The table.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
