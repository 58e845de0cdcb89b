"""Kernel regression on all of MNIST by the NTK of deep networks: no matrix is ever held.

    TFDS_DATA_DIR=... python -m benchmarks.large_kernel --images=6000,60000 --depths=5,100

All ten outputs of (K + ridge mean(diag K)) a = y are solved for by preconditioned conjugate
gradients. A killed run goes on with the next product and ends with the same `metrics.csv`. Up to
--direct images scikit-learn's KernelRidge solves the same system with the whole matrix:
`difference` is the largest one of the predictions on test images, in units of their standard
deviation. What each part cost, CPU seconds and the peak memory of this process so far, is in
`costs.csv`.
"""

import argparse
import csv
import hashlib
import pathlib
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mfcnn import data, kernels


def examples(name: str, split: str, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Images as vectors [n, features] of mean square one in float64, and labels."""
    images, labels = data.load_arrays(name, split, count)
    x = images.reshape(len(images), -1).astype(np.float64)
    x -= x.min()  # the data's normalization leaves black pixels below zero
    for start in range(0, len(x), 4096):
        part = x[start : start + 4096]
        part /= np.sqrt(np.mean(part**2, axis=1, keepdims=True))
    return x, labels


def regress(images: int, depth: int, options: argparse.Namespace) -> dict[str, Any]:
    """The row of a number of images and a depth."""
    kernel = kernels.fully_connected(depth, "relu", 2.0, 0.0)
    directory, name = pathlib.Path(options.output_dir), f"{images} images, depth {depth}"

    def read() -> list[tuple[np.ndarray, np.ndarray]]:
        sizes = {"train": images, "test": options.test_images}
        return [examples(options.dataset, split, count) for split, count in sizes.items()]

    (x, labels), (x_test, truth) = _costed(f"{name}: reading", read, directory)
    y = np.eye(10)[labels] - 0.1

    def iterative() -> tuple[kernels.Solution, np.ndarray]:
        state = directory / f"images_{images}_depth_{depth}"
        solution = kernels.solve(
            kernel, x, y, options.ridge, tolerance=1e-4, progress=True, output_dir=state
        )
        return solution, solution.predict(x_test)

    def direct() -> np.ndarray:
        from sklearn.kernel_ridge import KernelRidge

        matrix = kernel(x, get="ntk").numpy()
        model = KernelRidge(alpha=solution.shift, kernel="precomputed").fit(matrix, y)
        return model.predict(kernel(x_test, x, get="ntk").numpy())

    solution, predictions = _costed(f"{name}: kernels.solve", iterative, directory)
    row = {
        "images": images,
        "depth": depth,
        "products": solution.iterations,
        "residual": solution.residual,
        "test_accuracy": float(np.mean(predictions.argmax(axis=1) == truth)),
        "predictions_sha256": hashlib.sha256(predictions.tobytes()).hexdigest()[:16],
        "difference": None,
    }
    if images <= options.direct:
        whole = _costed(f"{name}: KernelRidge of scikit-learn", direct, directory)
        row["difference"] = float(np.max(np.abs(predictions - whole)) / np.std(whole))
    return row


def _costed(name: str, function: Callable[[], Any], directory: pathlib.Path) -> Any:
    """Calls a function, and writes what this process has spent on it."""
    start = time.process_time()
    result = function()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = {
        "what": name,
        "cpu_seconds": round(time.process_time() - start, 1),
        "peak_megabytes": round(peak / 1e6),
    }
    _append(directory / "costs.csv", row)
    return result


def _append(path: pathlib.Path, row: dict[str, Any]) -> None:
    """Adds a row to a table, and prints it."""
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def main() -> None:
    """Solves what is not in metrics.csv yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="mnist", choices=["mnist", "digits"])
    parser.add_argument("--images", default="6000", help="training images, separated by commas")
    parser.add_argument("--depths", default="5,100", help="hidden layers, separated by commas")
    parser.add_argument("--ridge", type=float, default=1e-3)
    parser.add_argument("--direct", type=int, default=6000, help="images up to which it is solved")
    parser.add_argument("--test_images", type=int, help="all of them where it is not given")
    parser.add_argument("--output_dir", default="runs/large_kernel")
    options = parser.parse_args()
    path = pathlib.Path(options.output_dir) / "metrics.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = set()
    if path.exists():
        with open(path) as file:
            done = {(int(row["images"]), int(row["depth"])) for row in csv.DictReader(file)}
    for images in map(int, options.images.split(",")):
        for depth in map(int, options.depths.split(",")):
            if (images, depth) not in done:
                _append(path, regress(images, depth, options))


if __name__ == "__main__":
    main()
