"""What a wide network trained by gradient descent predicts: mean and covariance at any time.

Gradient descent with learning rate eta on the loss sum |f - y|^2 / 2 moves the outputs by
df/dt = -eta Theta (f - y). All functions work in the eigenbasis of the training kernel, where every
factor is a bounded function of eigenvalue and time, and refuse to divide by eigenvalues that are
rounding noise.
"""

import warnings
from typing import NamedTuple

import numpy as np

from mfcnn import arguments
from mfcnn.kernels._eigenvalues import check_matrix, rounding

__all__ = [
    "Ensemble",
    "data_dependent_part",
    "ensemble",
    "ordered_limit",
    "posterior",
    "predict",
    "train_mean",
]


class Ensemble(NamedTuple):
    """Mean [n, k] and covariance [n, n] of the outputs of an ensemble of networks."""

    mean: np.ndarray
    covariance: np.ndarray


class _Eigenbasis:
    """The training kernel's eigenbasis and the factors g(lambda) that prediction needs."""

    def __init__(self, kernel, time, learning_rate, ridge):
        matrix = check_matrix("kernel_train_train", kernel, square=True)
        learning_rate = arguments.number("learning_rate", learning_rate, above=0)
        ridge = arguments.number("ridge", ridge, 0)
        if time is not None:
            time = arguments.number("time", time, 0, infinite=True)
        values, self.vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        noise = rounding(kernel, values)
        if values[0] < -10 * noise:
            raise ValueError(
                f"kernel_train_train must be positive semi-definite. Smallest eigenvalue: "
                f"{values[0]:.3g}, largest: {values[-1]:.3g}"
            )
        self.values = np.maximum(values, 0.0)
        shifted = self.values + ridge
        reach = np.inf if time is None else learning_rate * time
        # The least direction has a relative error of noise / shifted[0].
        digits = np.log10(max(shifted[0], 1e-300) / max(noise, 1e-300))
        if np.isinf(reach) and digits <= 0:
            raise ValueError(
                "kernel_train_train is singular to working precision (smallest eigenvalue "
                f"{values[0]:.3g}, rounding error {noise:.3g}): at infinite time the "
                "prediction has no correct digit. "
                "Give ridge > 0, a finite time, or fewer or other inputs."
            )
        if np.isinf(reach) and digits < 3:
            warnings.warn(
                f"condition number {shifted[-1] / shifted[0]:.1e}: the prediction may have only "
                f"{digits:.1f} correct digits",
                stacklevel=3,
            )
        # (1 - exp(-eta t (lambda + ridge))) / (lambda + ridge), finite as lambda + ridge -> 0.
        positive = np.where(shifted > 0, shifted, 1.0)
        filled = -np.expm1(-reach * positive)
        self.inverse = np.where(shifted > 0, filled / positive, reach)

    def project(self, kernel_test_train):
        """The test kernel in the eigenbasis, [n_test, n_train]."""
        matrix = check_matrix("kernel_test_train", kernel_test_train)
        if matrix.shape[1] != self.values.size:
            raise ValueError(
                f"kernel_test_train must have {self.values.size} columns, one for each training "
                f"input. Received: shape={matrix.shape}"
            )
        return matrix @ self.vectors


def _targets(y_train, count):
    y = arguments.array("y_train", y_train)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or y.shape[0] != count:
        raise ValueError(f"y_train must be [{count}, k] or [{count}]. Received: shape={y.shape}")
    return y


def predict(
    kernel_train_train, kernel_test_train, y_train, time=None, learning_rate=1.0, ridge=0.0
):
    """The mean prediction on test inputs, of networks that start at zero mean.

    mu(t) = Theta_* (Theta + ridge)^-1 (1 - exp(-learning_rate t (Theta + ridge))) y

    Args:
        kernel_train_train: NTK on the training inputs, [m, m]; the NNGP kernel gives the posterior
            mean of Bayesian networks.
        kernel_test_train: kernel of test and training inputs, [n_test, m].
        y_train: targets, [m, k] or [m].
        time: training time; None is infinite.
        learning_rate: eta of df/dt = -eta Theta (f - y); see `max_learning_rate` for other losses.
        ridge: weight of a quadratic penalty, added to the diagonal.

    Returns:
        float64 [n_test, k].

    Raises:
        ValueError: for arguments outside these ranges, and if the training kernel is singular to
            working precision at infinite time without ridge: no noise is returned as an answer.

    Source: NTK paper, equation 5; slides, "Trainability".
    """
    basis = _Eigenbasis(kernel_train_train, time, learning_rate, ridge)
    y = _targets(y_train, basis.values.size)
    return basis.project(kernel_test_train) @ (basis.inverse[:, None] * (basis.vectors.T @ y))


def train_mean(kernel_train_train, y_train, time=None, learning_rate=1.0, ridge=0.0):
    """The mean prediction on the training inputs themselves (NTK paper, equation 4), [m, k]."""
    basis = _Eigenbasis(kernel_train_train, time, learning_rate, ridge)
    y = _targets(y_train, basis.values.size)
    return basis.vectors @ ((basis.values * basis.inverse)[:, None] * (basis.vectors.T @ y))


def posterior(kernel_train_train, kernel_test_train, kernel_test_test, y_train, noise=0.0):
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
    """
    basis = _Eigenbasis(kernel_train_train, None, 1.0, noise)
    y = _targets(y_train, basis.values.size)
    test = basis.project(kernel_test_train)
    prior = check_matrix("kernel_test_test", kernel_test_test, square=True)
    mean = test @ (basis.inverse[:, None] * (basis.vectors.T @ y))
    return Ensemble(mean, prior - (test * basis.inverse) @ test.T)


def ensemble(
    ntk_train_train,
    ntk_test_train,
    nngp_train_train,
    nngp_test_train,
    nngp_test_test,
    y_train,
    time=None,
    learning_rate=1.0,
    ridge=0.0,
):
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
        time: training time; None is infinite.
        learning_rate: as in `predict`.
        ridge: as in `predict`.

    Returns:
        An `Ensemble`.

    Raises:
        ValueError: as `predict`.
    """
    basis = _Eigenbasis(ntk_train_train, time, learning_rate, ridge)
    y = _targets(y_train, basis.values.size)
    predictor = (basis.project(ntk_test_train) * basis.inverse) @ basis.vectors.T
    train = check_matrix("nngp_train_train", nngp_train_train, square=True)
    cross = check_matrix("nngp_test_train", nngp_test_train) @ predictor.T
    test = check_matrix("nngp_test_test", nngp_test_test, square=True)
    covariance = test - cross - cross.T + predictor @ train @ predictor.T
    return Ensemble(predictor @ y, (covariance + covariance.T) / 2)


def data_dependent_part(
    kernel_train_train, kernel_test_train, y_train, diagonal, off_diagonal, ridge=0.0
):
    """Delta^(l) y: the prediction minus that of the data-independent limit of the kernel.

    The limit kernel is diagonal * 1 + off_diagonal * (ones - 1) on the training inputs and
    off_diagonal between test and training inputs. Its prediction is closed form,
    off_diagonal * sum(y) / (diagonal + ridge + (m - 1) off_diagonal), and is also right in the
    ordered phase (diagonal = off_diagonal) with ridge > 0, and zero for diagonal -> infinity.

    Args:
        kernel_train_train: [m, m].
        kernel_test_train: [n_test, m].
        y_train: targets, [m, k] or [m].
        diagonal: p^(l) or its limit (may be numpy.inf: the chaotic limit, prediction zero).
        off_diagonal: p_ab*.
        ridge: sigma of the regularised predictors.

    Returns:
        float64 [n_test, k].

    Source: NTK paper, equations 7 and 10; section 3.2 for the ridge.
    """
    prediction = predict(kernel_train_train, kernel_test_train, y_train, ridge=ridge)
    y = _targets(y_train, np.shape(kernel_train_train)[0])
    total = diagonal + ridge + (y.shape[0] - 1) * off_diagonal
    return prediction - (off_diagonal / total) * np.sum(y, axis=0, keepdims=True)


def ordered_limit(correction_train_train, correction_test_train, y_train):
    """The limit of the prediction in the ordered phase, where the kernel itself is singular.

    For Theta = p* 1 1^T + s A with s -> 0 the prediction converges to
    A_* A^-1 y + (1 - A_* A^-1 1) (1^T A^-1 y) / (1^T A^-1 1): that of A after an unknown constant
    has been taken out, with no trace of p* or of the size of s.

    Args:
        correction_train_train: A on the training inputs up to a factor, [m, m]; for example the
            NTK at a large depth minus its limit. Positive or negative definite on vectors of sum
            zero.
        correction_test_train: A of test and training inputs with the same factor, [n_test, m].
        y_train: targets, [m, k] or [m].

    Returns:
        float64 [n_test, k].

    Raises:
        ValueError: if A is singular to working precision.

    Source: slides, "Ordered Regime: Generalization (II), (III)".
    """
    a = check_matrix("correction_train_train", correction_train_train, square=True)
    test = check_matrix("correction_test_train", correction_test_train)
    y = _targets(y_train, a.shape[0])
    # The bordered system of the constant and A: regular also where A alone is singular.
    scale = np.max(np.abs(a))
    border = np.full((a.shape[0], 1), scale)
    bordered = np.block([[a, border], [border.T, np.zeros((1, 1))]])
    if np.linalg.cond(bordered) > 1e14:
        raise ValueError(
            "correction_train_train is singular to working precision: the limit has no correct "
            "digit. Use fewer layers, or fewer or other inputs."
        )
    solution = np.linalg.solve(bordered, np.concatenate([y, np.zeros((1, y.shape[1]))]))
    return test @ solution[:-1] + scale * solution[-1:]
