"""Training by gradient flow on any loss: the outputs of a wide network over time, by an ODE.

The outputs move by df/dt = -learning_rate Theta dL/df. With G(t) the integral of dL/df over time,

    f(t) = f0 - learning_rate Theta G(t),   f_*(t) = f0_* - learning_rate Theta_* G(t),

so that G alone is integrated, and no inverse of Theta is taken.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.integrate
import scipy.special

from mfcnn import arguments
from mfcnn.kernels._eigenvalues import check_matrices
from mfcnn.kernels._prediction import check_start, check_targets, check_times

__all__ = ["Trajectory", "gradient_flow"]


class Trajectory(NamedTuple):
    """Outputs on the training inputs [times, m, k] and on the test inputs [times, n_test, k]."""

    train: np.ndarray
    test: np.ndarray


def _squared(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return outputs - targets


def _cross_entropy(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    total = targets.sum(axis=1, keepdims=True)
    return scipy.special.softmax(outputs, axis=1) * total - targets


def _binary_cross_entropy(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return scipy.special.expit(outputs) - targets


_LOSSES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "squared": _squared,
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
}


def gradient_flow(
    kernel_train_train: Any,
    kernel_test_train: Any,
    y_train: Any,
    times: Any,
    loss: str | Callable[[np.ndarray, np.ndarray], Any] = "cross_entropy",
    learning_rate: float = 1.0,
    f0_train: Any = None,
    f0_test: Any = None,
    tolerance: float = 1e-8,
) -> Trajectory:
    """The outputs of a wide network trained by gradient flow on any loss, at some times.

    For the squared loss `predict` has the closed form.

    Args:
        kernel_train_train: NTK on the training inputs, [m, m].
        kernel_test_train: NTK of test and training inputs, [n_test, m].
        y_train: targets, [m, k] or [m]; for "cross_entropy" probabilities (one-hot), for
            "binary_cross_entropy" numbers in [0, 1].
        times: a finite time, or a vector of them.
        loss: a sum over the training inputs: "squared" (|f - y|^2 / 2), "cross_entropy" (of the
            softmax of f), "binary_cross_entropy" (of its sigmoid), or a function of outputs and
            targets, both [m, k], to the loss's gradient [m, k].
        learning_rate: eta of df/dt = -eta Theta dL/df.
        f0_train: outputs before training, [m, k] or [m]; None is zero.
        f0_test: the same on the test inputs; both or none are given.
        tolerance: relative and absolute, of the integration.

    Returns:
        A `Trajectory` of [times, m, k] and [times, n_test, k]; without the first axis for one time.

    Raises:
        ValueError: for arguments outside these ranges.
        ArithmeticError: if the integration fails, as for a loss without a minimum.

    Example:
        >>> kernel = [[2.0, 0.5], [0.5, 2.0]]
        >>> one_hot = [[1.0, 0.0], [0.0, 1.0]]
        >>> found = mfcnn.kernels.gradient_flow(kernel, [[1.0, 0.2]], one_hot, times=[0.0, 5.0])
        >>> found.test.shape, bool(found.test[1, 0, 0] > found.test[1, 0, 1])
        ((2, 1, 2), True)
    """
    matrix, test = check_matrices(kernel_train_train, kernel_test_train)
    y = check_targets(y_train, len(matrix))
    moments = check_times(times, "times")
    if not np.all(np.isfinite(moments)):
        raise ValueError(f"times must be finite. Received: times={times!r}")
    if not callable(loss):
        loss = _LOSSES[arguments.choice("loss", loss, tuple(_LOSSES))]
    rate = arguments.number("learning_rate", learning_rate, above=0)
    tolerance = arguments.number("tolerance", tolerance, above=0)
    start, start_test = check_start(f0_train, f0_test, y, len(test))
    total = _integrated(matrix, y, np.atleast_1d(moments), loss, rate, start, tolerance)
    found = start - rate * (matrix @ total), start_test - rate * (test @ total)
    return Trajectory(*(value if moments.ndim else value[0] for value in found))


def _integrated(
    matrix: np.ndarray,
    y: np.ndarray,
    times: np.ndarray,
    loss: Callable[[np.ndarray, np.ndarray], Any],
    rate: float,
    start: np.ndarray,
    tolerance: float,
) -> np.ndarray:
    """G [times, m, k]."""

    def slope(_: float, total: np.ndarray) -> np.ndarray:
        gradient = np.asarray(loss(start - rate * (matrix @ total.reshape(y.shape)), y))
        if gradient.shape != y.shape or not np.all(np.isfinite(gradient)):
            raise ValueError(
                f"loss must return finite gradients [{len(y)}, {y.shape[1]}]. Received: "
                f"shape={gradient.shape}"
            )
        return gradient.ravel()

    order = np.argsort(times)
    result = np.zeros([len(times), *y.shape])
    last = float(times[order[-1]])
    if last > 0:
        found = scipy.integrate.solve_ivp(
            slope,
            (0.0, last),
            np.zeros(y.size),
            method="LSODA",  # it changes to a stiff method where eigenvalues are far apart
            t_eval=np.unique(times),
            rtol=tolerance,
            atol=tolerance,
        )
        if not found.success:
            raise ArithmeticError(f"the integration over time failed: {found.message}")
        places = np.searchsorted(found.t, times)
        result = found.y.T[places].reshape(result.shape)
    return result
