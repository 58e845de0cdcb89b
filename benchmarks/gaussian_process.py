"""Gaussian processes of scikit-learn with our kernel and with scikit-ntk's, in one run.

scikit-ntk knows dense relu networks and fits one variance, of a bias that its signals do not see;
at bias zero both kernels are the same up to a factor. It runs in an environment of its own:

    python -m benchmarks.gaussian_process --rival_python=/path/to/venv/bin/python  # pip: scikit-ntk

Prints the largest difference of the kernels at bias zero; CPU seconds of a kernel and its gradients
by the hyperparameters; and of scikit-learn's diabetes data, 300 patients to fit and 142 to test,
the log marginal likelihood that the fit reaches, the test R^2, and its CPU seconds.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

DEPTH, MATRIX = 3, (600, 10)


def measure(kernel, plain):
    """All figures of one kernel; `plain` is that without biases."""
    from sklearn import datasets, preprocessing
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel

    x = np.random.default_rng(0).normal(size=MATRIX)
    figures = {"matrix": plain(x[:50]).tolist()}
    kernel(x), kernel(x, eval_gradient=True)  # compilation is not counted
    start = time.process_time()
    kernel(x)
    figures["kernel_seconds"] = time.process_time() - start
    kernel(x, eval_gradient=True)
    figures["kernel_and_gradient_seconds"] = time.process_time() - start
    x, y = datasets.load_diabetes(return_X_y=True)
    x, y = preprocessing.scale(x), preprocessing.scale(y)
    prior = ConstantKernel() * kernel + WhiteKernel()
    start = time.process_time()
    process = GaussianProcessRegressor(prior, random_state=0).fit(x[:300], y[:300])
    figures["fit_seconds"] = time.process_time() - start
    figures["log_marginal_likelihood"] = process.log_marginal_likelihood_value_
    figures["test_r2"] = process.score(x[300:], y[300:])
    figures["fitted"] = str(process.kernel_)
    return figures


def ours():
    """By `mfcnn.estimators.GaussianProcessKernel`."""
    from mfcnn import estimators, kernels

    def kernel(bias, **options):
        network = kernels.fully_connected(DEPTH, "relu", 2.0, bias)
        return estimators.GaussianProcessKernel(network, get="ntk", **options)

    return measure(kernel(0.1), kernel(0.0, bias_variance_bounds="fixed"))


def rival():
    """By scikit-ntk, whose depth counts the hidden layers too."""
    import skntk

    return measure(skntk.NeuralTangentKernel(DEPTH), skntk.NeuralTangentKernel(DEPTH, bias=0.0))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rival_python", help="python of an environment with scikit-ntk")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        json.dump(rival(), sys.stdout)
        return
    rows = {"mfcnn": ours()}
    if arguments.rival_python:
        command = [arguments.rival_python, str(pathlib.Path(__file__).resolve()), "--serve"]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        found = subprocess.run(command, check=True, capture_output=True, env=environment)
        rows["scikit-ntk"] = json.loads(found.stdout)
    matrices = [np.array(row.pop("matrix")) for row in rows.values()]
    if len(matrices) == 2:
        scaled = [matrix / np.mean(np.diag(matrix)) for matrix in matrices]
        print(f"difference at bias zero: {np.max(np.abs(scaled[0] - scaled[1])):.2g}")
    for name, row in rows.items():
        words = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
        print(f"{name}: {', '.join(words)}")


if __name__ == "__main__":
    main()
