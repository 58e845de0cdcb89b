"""What a wide network trained by gradient descent predicts: mean and covariance at any time.

Gradient descent with learning rate eta on the loss sum |f - y|^2 / 2 moves the outputs by
df/dt = -eta Theta (f - y). All functions work in the eigenbasis of the training kernel, where every
factor is a bounded function of eigenvalue and time, and refuse to divide by eigenvalues that are
rounding noise.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np

from mfcnn import arguments
from mfcnn.kernels._eigenvalues import check_matrix, rounding

__all__ = [
    "Ensemble",
    "check_start",
    "check_targets",
    "check_times",
    "ensemble",
    "posterior",
    "predict",
    "relative_ridge",
    "train_mean",
]


class Ensemble(NamedTuple):
    """Mean [n, k] and covariance [n, n] of the outputs of an ensemble of networks."""

    mean: np.ndarray
    covariance: np.ndarray


class _Eigenbasis:
    """The training kernel's eigenbasis and the factors g(lambda) that prediction needs.

    Attributes:
        values: eigenvalues [m], ascending.
        vectors: eigenvectors [m, m].
        inverse: g [m], or [times, m].
    """

    def __init__(
        self,
        kernel: Any,
        time: Any = None,
        learning_rate: Any = 1.0,
        ridge: Any = 0.0,
        names: tuple[str, str] = ("kernel_train_train", "ridge"),
    ):
        name, ridge_name = names
        matrix = check_matrix(name, kernel, square=True)
        learning_rate = arguments.number("learning_rate", learning_rate, above=0)
        ridge = arguments.number(ridge_name, ridge, 0)
        times = check_times(time)
        values, self.vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        noise = rounding(kernel, values)
        if values[0] < -10 * noise:
            raise ValueError(
                f"{name} must be positive semi-definite. Smallest eigenvalue: {values[0]:.3g}, "
                f"largest: {values[-1]:.3g}"
            )
        self.values = np.maximum(values, 0.0)
        shifted = self.values + ridge
        reach = learning_rate * times[..., None]
        # The least direction has a relative error of noise / shifted[0].
        digits = np.log10(max(shifted[0], 1e-300) / max(noise, 1e-300))
        if np.any(np.isinf(reach)):
            _check_digits(digits, values, noise, shifted[-1] / max(shifted[0], 1e-300), names)
        # (1 - exp(-eta t (lambda + ridge))) / (lambda + ridge), finite as lambda + ridge -> 0.
        positive = np.where(shifted > 0, shifted, 1.0)
        filled = -np.expm1(-reach * positive)
        self.inverse = np.where(shifted > 0, filled / positive, reach)

    def project(self, kernel: Any, name: str = "kernel_test_train") -> np.ndarray:
        """The test kernel in the eigenbasis, [n_test, m]."""
        matrix = check_matrix(name, kernel)
        if matrix.shape[1] != self.values.size:
            raise ValueError(
                f"{name} must have {self.values.size} columns, one for each training input. "
                f"Received: {name}.shape={matrix.shape}"
            )
        return matrix @ self.vectors

    def fitted(self, y: np.ndarray) -> np.ndarray:
        """(Theta + ridge)^-1 (1 - exp(-eta t (Theta + ridge))) y in the eigenbasis, [..., m, k]."""
        return self.inverse[..., None] * (self.vectors.T @ y)


def check_times(time: Any, name: str = "time") -> np.ndarray:
    """None (infinite), a number or a vector of times, as an array."""
    if time is None:
        return np.asarray(np.inf)
    if np.ndim(time) == 0:
        return np.asarray(arguments.number(name, time, 0, infinite=True))
    if np.ndim(time) != 1 or not np.size(time):
        raise ValueError(f"{name} must be None, a number or a vector. Received: {name}={time!r}")
    return np.array([arguments.number(name, each, 0, infinite=True) for each in time])


def _check_digits(
    digits: float, values: np.ndarray, noise: float, condition: float, names: tuple[str, str]
) -> None:
    """Refuses to divide by rounding noise, and warns where few digits are left."""
    name, ridge = names
    if digits <= 0:
        raise ValueError(
            f"{name} is singular to working precision (smallest eigenvalue {values[0]:.3g}, "
            f"rounding error {noise:.3g}): at infinite time the prediction has no correct digit. "
            f"Give {ridge} > 0, a finite time, or fewer or other inputs."
        )
    if digits < 3:
        warnings.warn(
            f"condition number {condition:.1e}: the prediction may have only {digits:.1f} correct "
            "digits",
            stacklevel=4,
        )


def check_targets(value: Any, count: int, name: str = "y_train") -> np.ndarray:
    """Targets or outputs as [count, k]."""
    y = arguments.array(name, value)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or y.shape[0] != count:
        raise ValueError(
            f"{name} must be [{count}, k] or [{count}]. Received: {name}.shape={np.shape(value)}"
        )
    return y


def check_start(
    f0_train: Any, f0_test: Any, y: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs before training [m, k] and [count, k]: both given, or both zero."""
    if f0_train is None and f0_test is None:
        return np.zeros_like(y), np.zeros([count, y.shape[1]])
    given = {"f0_train": (f0_train, len(y)), "f0_test": (f0_test, count)}
    # What is wrong with a value that was given is said first.
    starts = {
        name: check_targets(value, rows, name)
        for name, (value, rows) in given.items()
        if value is not None
    }
    for name, value in starts.items():
        if value.shape[1] != y.shape[1]:
            raise ValueError(
                f"{name} must have {y.shape[1]} outputs, as y_train has. Received: "
                f"{name}.shape={value.shape}"
            )
    for name in given.keys() - starts.keys():
        raise ValueError(f"{name} must be given where the other f0 is. Received: {name}=None")
    return starts["f0_train"], starts["f0_test"]


def _square(name: str, kernel: Any, size: int) -> np.ndarray:
    matrix = check_matrix(name, kernel, square=True)
    if len(matrix) != size:
        raise ValueError(f"{name} must be [{size}, {size}]. Received: {name}.shape={matrix.shape}")
    return matrix


def relative_ridge(kernel_train_train: Any, share: float) -> float:
    """A ridge as a share of the mean of the kernel's diagonal, for any function that takes one.

    Args:
        kernel_train_train: the training kernel, [m, m].
        share: of its mean diagonal entry, not negative.

    Returns:
        share * mean(diag(kernel_train_train)).

    Example:
        >>> mfcnn.kernels.relative_ridge([[2.0, 0.0], [0.0, 4.0]], 0.01)
        0.03
    """
    matrix = check_matrix("kernel_train_train", kernel_train_train, square=True)
    return arguments.number("share", share, 0) * float(np.mean(np.diag(matrix)))


def predict(
    kernel_train_train: Any,
    kernel_test_train: Any,
    y_train: Any,
    time: Any = None,
    learning_rate: float = 1.0,
    ridge: float = 0.0,
    f0_train: Any = None,
    f0_test: Any = None,
) -> np.ndarray:
    """The mean prediction on test inputs, from zero or from a network's own outputs.

    mu(t) = f0_* + Theta_* (Theta + ridge)^-1 (1 - exp(-learning_rate t (Theta + ridge))) (y - f0)

    Args:
        kernel_train_train: NTK on the training inputs, [m, m]; the NNGP kernel gives the posterior
            mean of Bayesian networks.
        kernel_test_train: kernel of test and training inputs, [n_test, m].
        y_train: targets, [m, k] or [m].
        time: training time, or a vector of them; None is infinite.
        learning_rate: eta of df/dt = -eta Theta (f - y); see `max_learning_rate` for other losses.
        ridge: weight of a quadratic penalty on the change of the weights, added to the diagonal;
            see `relative_ridge`.
        f0_train: outputs before training on the training inputs, [m, k] or [m]; None is zero.
        f0_test: the same on the test inputs, [n_test, k] or [n_test]; both or none are given.

    Returns:
        float64 [n_test, k], or [times, n_test, k].

    Raises:
        ValueError: for arguments outside these ranges, and if the training kernel is singular to
            working precision at infinite time without ridge: no noise is returned as an answer.

    Example:
        >>> mfcnn.kernels.predict([[2.0, 0.0], [0.0, 4.0]], [[1.0, 0.0]], [1.0, 1.0])
        array([[0.5]])

    Source: NTK paper, equation 5; slides, "Trainability".
    """
    basis = _Eigenbasis(kernel_train_train, time, learning_rate, ridge)
    y = check_targets(y_train, basis.values.size)
    test = basis.project(kernel_test_train)
    start, start_test = check_start(f0_train, f0_test, y, len(test))
    return start_test + test @ basis.fitted(y - start)


def train_mean(
    kernel_train_train: Any,
    y_train: Any,
    time: Any = None,
    learning_rate: float = 1.0,
    ridge: float = 0.0,
) -> np.ndarray:
    """The mean prediction on the training inputs themselves, of networks that start from zero.

    Args:
        kernel_train_train: NTK or NNGP kernel on the training inputs, [m, m].
        y_train: targets, [m, k] or [m].
        time: training time, or a vector of them; None is infinite.
        learning_rate: as in `predict`.
        ridge: as in `predict`.

    Returns:
        float64 [m, k], or [times, m, k].

    Raises:
        ValueError: as `predict`.

    Example:
        >>> mfcnn.kernels.train_mean([[2.0]], [1.0], ridge=2.0)
        array([[0.5]])

    Source: NTK paper, equation 4.
    """
    basis = _Eigenbasis(kernel_train_train, time, learning_rate, ridge)
    y = check_targets(y_train, basis.values.size)
    return basis.vectors @ (basis.values[:, None] * basis.fitted(y))


def posterior(
    kernel_train_train: Any,
    kernel_test_train: Any,
    kernel_test_test: Any,
    y_train: Any,
    noise: float = 0.0,
) -> Ensemble:
    """The NNGP posterior: mean and covariance of a Bayesian network with Gaussian noise.

    Args:
        kernel_train_train: NNGP on the training inputs, [m, m].
        kernel_test_train: NNGP of test and training inputs, [n_test, m].
        kernel_test_test: NNGP on the test inputs, [n_test, n_test].
        y_train: targets, [m, k] or [m].
        noise: variance of the observation noise.

    Returns:
        An `Ensemble`.

    Raises:
        ValueError: as `predict`.

    Example:
        >>> mfcnn.kernels.posterior([[2.0]], [[1.0]], [[2.0]], [1.0]).covariance
        array([[1.5]])
    """
    basis = _Eigenbasis(kernel_train_train, ridge=noise, names=("kernel_train_train", "noise"))
    y = check_targets(y_train, basis.values.size)
    test = basis.project(kernel_test_train)
    prior = _square("kernel_test_test", kernel_test_test, len(test))
    covariance = prior - (test * basis.inverse) @ test.T
    return Ensemble(test @ basis.fitted(y), (covariance + covariance.T) / 2)


def ensemble(
    ntk_train_train: Any,
    ntk_test_train: Any,
    nngp_train_train: Any,
    nngp_test_train: Any,
    nngp_test_test: Any,
    y_train: Any,
    time: Any = None,
    learning_rate: float = 1.0,
    ridge: float = 0.0,
) -> Ensemble:
    """Mean and covariance of wide networks trained from random initial functions.

    An initial function f0 ~ N(0, nngp) becomes f = f0 + G (y - f0(train)) with the predictor
    G = Theta_* (Theta + ridge)^-1 (1 - exp(-eta t (Theta + ridge))), so that the covariance is
    K_** - G K_*^T - K_* G^T + G K G^T.

    Args:
        ntk_train_train: NTK on the training inputs, [m, m].
        ntk_test_train: [n_test, m].
        nngp_train_train: NNGP on the training inputs, [m, m].
        nngp_test_train: [n_test, m].
        nngp_test_test: [n_test, n_test].
        y_train: targets, [m, k] or [m].
        time: training time, or a vector of them; None is infinite.
        learning_rate: as in `predict`.
        ridge: as in `predict`.

    Returns:
        An `Ensemble`; with an axis for times in front if `time` is a vector.

    Raises:
        ValueError: as `predict`.

    Example:
        >>> one = [[1.0]]
        >>> mfcnn.kernels.ensemble(one, one, one, one, one, [3.0]).mean
        array([[3.]])
    """
    basis = _Eigenbasis(ntk_train_train, time, learning_rate, ridge, ("ntk_train_train", "ridge"))
    y = check_targets(y_train, basis.values.size)
    test = basis.project(ntk_test_train, "ntk_test_train")
    predictor = (test * basis.inverse[..., None, :]) @ basis.vectors.T
    train = _square("nngp_train_train", nngp_train_train, len(y))
    prior = _square("nngp_test_test", nngp_test_test, len(test))
    between = check_matrix("nngp_test_train", nngp_test_train)
    if between.shape != test.shape:
        raise ValueError(
            f"nngp_test_train must be {list(test.shape)}. Received: "
            f"nngp_test_train.shape={between.shape}"
        )
    transposed = np.swapaxes(predictor, -1, -2)
    cross = between @ transposed
    covariance = prior - cross - np.swapaxes(cross, -1, -2) + predictor @ train @ transposed
    return Ensemble(predictor @ y, (covariance + np.swapaxes(covariance, -1, -2)) / 2)
