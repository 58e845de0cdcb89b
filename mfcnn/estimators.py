"""Kernels as scikit-learn estimators: fit, predict, score, pipelines, grid searches.

    grid = {"kernel__depth": [1, 3, 10], "kernel__weight_variance": [1.5, 2.0], "ridge": [1e-4]}
    search = GridSearchCV(KernelClassifier(fully_connected(3, "relu", 2.0, 0.1)), grid).fit(x, y)

A kernel's arguments are reached as `kernel__depth`, `kernel__weight_variance` and so on. For
Gaussian processes of scikit-learn's own there is `GaussianProcessKernel`, whose variances are
hyperparameters with bounds and gradients.
"""

from typing import Any, ClassVar

import numpy as np
import sklearn.base
from scipy import linalg
from sklearn.gaussian_process import kernels as gaussian_process
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from mfcnn import arguments
from mfcnn.kernels import Kernel, fully_connected, solve

__all__ = ["GaussianProcessKernel", "KernelClassifier", "KernelRegressor"]

_STEP = 1e-3  # of a variance's logarithm
_DIRECT = 4000  # inputs up to which a whole matrix and Cholesky's factors are cheaper


class _KernelEstimator(sklearn.base.BaseEstimator):
    """What regression and classification share: the solution of (K + lambda) a = y."""

    def __init__(self, kernel: Kernel | None = None, ridge: float = 1e-6, get: str = "ntk"):
        self.kernel = kernel
        self.ridge = ridge
        self.get = get

    def _fit(self, x: np.ndarray, targets: np.ndarray) -> None:
        get = arguments.choice("get", self.get, ("nngp", "ntk"))
        ridge = arguments.number("ridge", self.ridge, 0)
        self.kernel_ = fully_connected(3, "relu", 2.0, 0.1) if self.kernel is None else self.kernel
        if not isinstance(self.kernel_, Kernel):
            raise arguments.ArgumentTypeError(
                "kernel must be a kernel of mfcnn.kernels or None. Received: "
                f"kernel={self.kernel!r}"
            )
        self._x, mean = x, targets.mean(axis=0)
        if len(x) > _DIRECT:
            self.coefficients_ = solve(self.kernel_, x, targets - mean, ridge, get).coefficients
        else:
            matrix = np.array(self.kernel_(x, get=get), np.float64)
            matrix[np.diag_indices(len(x))] += ridge * np.mean(np.diag(matrix))
            self.coefficients_ = _solve_positive(matrix, targets - mean)
        self.mean_ = mean

    def _predict(self, x: Any) -> np.ndarray:
        check_is_fitted(self)
        x = validate_data(self, x, reset=False, dtype=np.float64)
        return self.kernel_.matvec(self.coefficients_, x, self._x, self.get) + self.mean_


class KernelRegressor(sklearn.base.MultiOutputMixin, sklearn.base.RegressorMixin, _KernelEstimator):
    """Ridge regression with the kernel of an infinitely wide network.

    (K + ridge * mean(diag K) I) a = y - mean(y); predictions are K(x, x_train) a + mean(y).

    Args:
        kernel: a kernel of `mfcnn.kernels`, `from_keras` included; None is the NTK of three relu
            layers on the edge of chaos.
        ridge: relative to the mean of the kernel's diagonal.
        get: "ntk" (training to the end) or "nngp" (Bayesian inference).

    Example:
        >>> import mfcnn, numpy as np
        >>> x = np.linspace(-1, 1, 30)[:, None]
        >>> model = mfcnn.estimators.KernelRegressor().fit(x, np.sin(3 * x[:, 0]))
        >>> model.score(x, np.sin(3 * x[:, 0])) > 0.999
        True
    """

    def fit(self, X: Any, y: Any) -> "KernelRegressor":
        """Solves for the coefficients; X [n, features], y [n] or [n, k]."""
        x, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64)
        self._fit(x, np.asarray(y, np.float64))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predictions [m] or [m, k]."""
        return self._predict(X)


class KernelClassifier(sklearn.base.ClassifierMixin, _KernelEstimator):
    """Classification by regression on the classes' indicators; see `KernelRegressor`.

    Example:
        >>> import mfcnn, numpy as np
        >>> x = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])
        >>> model = mfcnn.estimators.KernelClassifier(ridge=1e-3).fit(x, ["b", "b", "a", "a"])
        >>> model.predict([[0.9, 0.2]]).tolist()
        ['a']
    """

    def fit(self, X: Any, y: Any) -> "KernelClassifier":
        """Solves for the coefficients; X [n, features], y [n] of any labels."""
        x, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, places = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must have two classes or more. Received: one class, {y[0]!r}")
        self._fit(x, np.eye(len(self.classes_))[places])
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Regressed indicators [m, classes]; for two classes their difference [m]."""
        scores = self._predict(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> np.ndarray:
        """The class with the largest regressed indicator, [m]."""
        scores = self._predict(X)
        return self.classes_[np.argmax(scores, axis=1)]


class GaussianProcessKernel(gaussian_process.Kernel):
    """A kernel for scikit-learn's GaussianProcessRegressor and GaussianProcessClassifier.

    Weight and bias variance are its hyperparameters, so that `fit` finds those of the largest
    marginal likelihood by the kernel's gradient.

    Args:
        kernel: a kernel of `mfcnn.kernels` with weight_variance and bias_variance, one depth.
        weight_variance: sigma_w^2; None is the kernel's own.
        bias_variance: sigma_b^2, positive (its logarithm is what is fitted); None is the kernel's.
        weight_variance_bounds: (low, high), or "fixed".
        bias_variance_bounds: likewise.
        get: "nngp" or "ntk".

    Example:
        >>> import mfcnn, numpy as np
        >>> from sklearn.gaussian_process import GaussianProcessRegressor
        >>> kernel = mfcnn.kernels.fully_connected(2, "erf", 1.5, 0.1)
        >>> prior = mfcnn.estimators.GaussianProcessKernel(kernel)
        >>> process = GaussianProcessRegressor(prior, alpha=0.01)
        >>> x = np.linspace(-1, 1, 20)[:, None]
        >>> process.fit(x, np.sin(3 * x[:, 0])).predict(x).shape
        (20,)
    """

    _NAMES: ClassVar[tuple[str, ...]] = ("bias_variance", "weight_variance")  # sorted, as theta is

    def __init__(
        self,
        kernel: Kernel,
        weight_variance: float | None = None,
        bias_variance: float | None = None,
        weight_variance_bounds: Any = (1e-2, 1e2),
        bias_variance_bounds: Any = (1e-5, 1e2),
        get: str = "nngp",
    ):
        self.kernel = kernel
        own = kernel.weight_variance, kernel.bias_variance
        # As they are where they are given: scikit-learn compares the very objects.
        self.weight_variance = float(own[0]) if weight_variance is None else weight_variance
        self.bias_variance = float(own[1]) if bias_variance is None else bias_variance
        self.weight_variance_bounds = weight_variance_bounds
        self.bias_variance_bounds = bias_variance_bounds
        self.get = get

    @property
    def hyperparameter_weight_variance(self) -> gaussian_process.Hyperparameter:
        """sigma_w^2 as scikit-learn sees it."""
        bounds = self.weight_variance_bounds
        return gaussian_process.Hyperparameter("weight_variance", "numeric", bounds)

    @property
    def hyperparameter_bias_variance(self) -> gaussian_process.Hyperparameter:
        """sigma_b^2 likewise."""
        return gaussian_process.Hyperparameter(
            "bias_variance", "numeric", self.bias_variance_bounds
        )

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
        """K(X, Y), and its derivatives by the logarithms of the variances that are not fixed."""
        if not eval_gradient:
            return np.array(self._kernel()(X, Y, get=self.get), np.float64)
        if Y is not None:
            raise ValueError("Gradient can only be evaluated when Y is None.")
        free = [n for n in self._NAMES if not getattr(self, f"hyperparameter_{n}").fixed]
        slopes = [self._slope(name, X) for name in free]
        shape = [len(X), len(X), 0]
        return self(X), np.stack(slopes, axis=-1) if slopes else np.empty(shape)

    def diag(self, X: Any) -> np.ndarray:
        """K(x, x) at each input."""
        kernel = self._kernel()
        blocks = (X[start : start + 16] for start in range(0, len(X), 16))
        return np.concatenate([np.diag(kernel(block, get=self.get)) for block in blocks])

    def is_stationary(self) -> bool:
        """No: the kernel depends on norms and angles."""
        return False

    def __repr__(self) -> str:
        """Kernel and variances."""
        return (
            f"GaussianProcessKernel({self.kernel!r}, weight_variance={self.weight_variance:.3g}, "
            f"bias_variance={self.bias_variance:.3g})"
        )

    def _kernel(self, **variances: Any) -> Kernel:
        chosen = {name: getattr(self, name) for name in self._NAMES} | variances
        return type(self.kernel)(**self.kernel.config | chosen)

    def _slope(self, name: str, x: np.ndarray) -> np.ndarray:
        """The derivative by the variance's logarithm, by five points.

        The kernel is analytic in it, so that the error is about step^4 / 30 and rounding / step:
        some 1e-12 of the kernel. One rule for all kernels, also those that no tape goes through.
        """

        def at(steps: int) -> np.ndarray:
            variance = getattr(self, name) * np.exp(steps * _STEP)
            return np.array(self._kernel(**{name: variance})(x, get=self.get), np.float64)

        return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * _STEP)


def _solve_positive(matrix: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cholesky's solution."""
    try:
        return linalg.cho_solve(linalg.cho_factor(matrix, lower=True), targets)
    except linalg.LinAlgError as error:
        raise ArithmeticError(
            "no digits left: the kernel of these inputs is singular to rounding. Use a larger "
            "ridge."
        ) from error
