"""Fully connected networks of the NTK paper, trained at a multiple of eta_theory.

They are in the NTK parameterization, on inputs of |x|^2 = d, and trained by (stochastic) gradient
descent on the mean of half the squared error. Its theory is df/dt = -Theta (f - y) / n, so the
largest stable rate is eta_theory = 2 n / lambda_max of the analytic kernel of n inputs.
"""

import pathlib
from typing import Any

import keras
import numpy as np

from experiments import sweep
from experiments.curves import Rows
from mfcnn import data, kernels, layers, training

__all__ = ["DenseNetworks", "eta_theory", "normalized", "ntk_network"]


def normalized(images: np.ndarray) -> np.ndarray:
    """Images as vectors [n, d] with |x|^2 = d, as the theory has them."""
    x = images.reshape(len(images), -1).astype("float64")
    return x * np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)


def eta_theory(
    x: np.ndarray, activation: str, depth: int, weight_variance: float, bias_variance: float
) -> float:
    """2 n / lambda_max of the analytic kernel on the inputs x [n, d]."""
    theta = kernels.fully_connected(depth, activation, weight_variance, bias_variance)(x, get="ntk")
    return 2 * len(x) / np.linalg.eigvalsh(theta.numpy())[-1]


def ntk_network(
    input_shape: tuple[int, ...],
    classes: int,
    depth: int,
    width: int,
    activation: str,
    weight_variance: float,
    bias_variance: float,
    seed: int,
) -> keras.Model:
    """`depth` hidden layers of `width` units on the normalized input, and a linear readout.

    Returns:
        A keras.Sequential from [b, *input_shape] to [b, classes].
    """
    options = {"weight_variance": weight_variance, "bias_variance": bias_variance}
    size = int(np.prod(input_shape))
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Flatten(),
            keras.layers.UnitNormalization(),
            keras.layers.Rescaling(np.sqrt(size)),
        ]
        + [layers.NTKDense(width, activation, seed=seed + i, **options) for i in range(depth)]
        + [layers.NTKDense(classes, None, seed=seed + depth, **options)]
    )


class DenseNetworks:
    """Trains the networks of a sweep at multiples of eta_theory.

    Args:
        settings: dict with dataset, resize, subset, test_subset, batch_size, seed, activation,
            width, bias_variance, steps, eval_every, checkpoint_every and kernel_size, the number
            of training images of the analytic kernel.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        names = ("seed", "resize", "subset", "test_subset")
        self.dataset = data.load(
            settings["dataset"], settings["batch_size"], **{name: settings[name] for name in names}
        )
        self._x = normalized(self.dataset.arrays("train", settings["kernel_size"])[0])
        self._program: tuple[int, float] | None = None
        self._trainer: training.Trainer | None = None
        self._rates: dict[tuple[int, float], float] = {}

    def eta_theory(self, depth: int, weight_variance: float) -> float:
        """The largest stable learning rate by theory, for this data."""
        start = depth, weight_variance
        if start not in self._rates:
            activation, bias_variance = (self.settings[k] for k in ("activation", "bias_variance"))
            self._rates[start] = eta_theory(self._x, activation, *start, bias_variance)
        return self._rates[start]

    def curve(self, depth: int, weight_variance: float, rho: float, folder: pathlib.Path) -> Rows:
        """Trains one network by SGD at the learning rate rho * eta_theory.

        Args:
            depth: number of hidden layers.
            weight_variance: sigma_w^2.
            rho: fraction of the theoretical rate.
            folder: pathlib.Path of the run; a run that was killed goes on from there.

        Returns:
            The rows of metrics, up to the step where the loss overflowed if it did.
        """
        settings = self.settings
        rate = rho * self.eta_theory(depth, weight_variance)

        def make_model() -> keras.Model:
            return ntk_network(
                self.dataset.image_shape,
                self.dataset.classes,
                depth,
                settings["width"],
                settings["activation"],
                weight_variance,
                settings["bias_variance"],
                settings["seed"],
            )

        make = make_model, lambda _: keras.optimizers.SGD(rate)
        # The parameterization has the variances in its forward pass: they are constants there.
        program = depth, weight_variance
        if self._trainer is not None and program == self._program:
            self._trainer.restart(*make, folder)
        else:
            self._trainer = training.Trainer(
                *make,
                self.dataset,
                folder,
                loss="squared_error",
                verbose=False,
                artifacts=False,
                eval_every=settings["eval_every"],
                checkpoint_every=settings["checkpoint_every"],
                eval_batch_size=sweep.EVAL_BATCH_SIZE,
            )
            self._program = program
        return sweep.finite_part(self._trainer, settings["steps"])
