"""How exact E[phi(u) phi(v)] and E[phi'(u) phi'(v)] are, from tiny variances to raw pixels.

    python -m benchmarks.dual_maps

Smooth activations have no closed form; their dual maps are compared with a sum over a grid of both
Gaussian variables, by SciPy, at several correlations. Errors are in units of the value at
correlation one. The last column is what half the grid's step moves the sum by.
"""

import argparse

import numpy as np
import tensorflow as tf
from scipy import special

from mfcnn import activations

VARIANCES = (1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4)
GAPS = (0.01, 0.3, 1.6)  # 1 - c


def _mish(x: np.ndarray) -> np.ndarray:
    return x * np.tanh(np.logaddexp(0, x))


def _mish_slope(x: np.ndarray) -> np.ndarray:
    t = np.tanh(np.logaddexp(0, x))
    return t + x * (1 - t * t) * special.expit(x)


FUNCTIONS = {
    "tanh": (np.tanh, lambda x: 1 / np.cosh(np.minimum(np.abs(x), 350)) ** 2),
    "sigmoid": (special.expit, lambda x: special.expit(x) * special.expit(-x)),
    "swish": (
        lambda x: x * special.expit(x),
        lambda x: special.expit(x) * (1 + x * special.expit(-x)),
    ),
    "softplus": (lambda x: np.logaddexp(0, x), special.expit),
    "mish": (_mish, _mish_slope),
}


def reference(name: str, variance: float, gap: float, step: float = 1 / 64) -> list[float]:
    """E[f(u) f(v)] of the function and of its derivative, by the trapezoidal rule in sinh(t)."""
    c, s = 1 - gap, np.sqrt(gap * (2 - gap))
    # Dense where phi varies, at u = 0 and v = 0.
    t = np.arange(-18, 18, step)
    scale = min(1.0, 1 / np.sqrt(variance)) / 4
    x, w = scale * np.sinh(t), scale * np.cosh(t) * step
    x, w = x[np.abs(x) < 10], w[np.abs(x) < 10]
    density = np.exp(-(((x[:, None] - c * x) / s) ** 2 + x * x) / 2) / (2 * np.pi * s)
    root = np.sqrt(variance)
    sides = (w * f(root * x) for f in FUNCTIONS[name])
    return [float(side @ density @ side) for side in sides]


def error(name: str, variance: float, gap: float) -> tuple[float, float]:
    """The larger error of the two dual maps, and by how much half the grid's step moves the sums.

    Both in units of E[phi(u)^2] and E[phi'(u)^2].
    """
    activation, one = activations.get(name), tf.constant(variance, tf.float64)
    found = activation.dual(variance, variance).maps(one, one, (1 - gap) * one)
    expected, finer = (reference(name, variance, gap, step) for step in (1 / 64, 1 / 128))
    sizes = activation.second_moment(variance), activation.derivative_second_moment(variance)
    return tuple(
        max(abs(float(a) - b) / float(size) for a, b, size in zip(one, two, sizes))
        for one, two in ((found, expected), (expected, finer))
    )


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    shown = " | ".join(f"{variance:g}" for variance in VARIANCES)
    print(f"| activation | {shown} | grid |\n|---|{'---|' * (len(VARIANCES) + 1)}", flush=True)
    for name in FUNCTIONS:
        errors = [[error(name, variance, gap) for gap in GAPS] for variance in VARIANCES]
        worst = np.max(errors, axis=1)
        cells = " | ".join(f"{one:.1e}" for one in (*worst[:, 0], worst[:, 1].max()))
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
