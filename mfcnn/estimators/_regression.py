"""Ridge regression and classification with a kernel, as scikit-learn knows them."""

from typing import Any

import numpy as np
import sklearn.base
from scipy import linalg
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from mfcnn import arguments
from mfcnn.kernels import Kernel, fully_connected, solve

__all__ = ["KernelClassifier", "KernelRegressor"]

_DIRECT = 4000  # inputs up to which a whole matrix and Cholesky's factors are cheaper


class _KernelEstimator(sklearn.base.BaseEstimator):
    """What regression and classification share: the solution of (K + lambda) a = y."""

    def __init__(
        self,
        kernel: Kernel | None = None,
        ridge: float = 1e-6,
        get: str = "ntk",
        solver: str = "auto",
    ):
        self.kernel = kernel
        self.ridge = ridge
        self.get = get
        self.solver = solver

    def _fit(self, x: np.ndarray, targets: np.ndarray) -> None:
        get = arguments.choice("get", self.get, ("nngp", "ntk"))
        ridge = arguments.number("ridge", self.ridge, 0)
        solver = arguments.choice("solver", self.solver, ("auto", "direct", "iterative"))
        self.kernel_ = fully_connected(3, "relu", 2.0, 0.1) if self.kernel is None else self.kernel
        if not isinstance(self.kernel_, Kernel):
            raise arguments.ArgumentTypeError(
                "kernel must be a kernel of mfcnn.kernels or None. Received: "
                f"kernel={self.kernel!r}"
            )
        self._x, mean = x, targets.mean(axis=0)
        if solver == "iterative" or (solver == "auto" and len(x) > _DIRECT):
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
        solver: "direct" (the whole matrix and Cholesky's factors), "iterative"
            (`mfcnn.kernels.solve`), or "auto": direct up to 4,000 inputs.

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


def _solve_positive(matrix: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cholesky's solution."""
    try:
        return linalg.cho_solve(linalg.cho_factor(matrix, lower=True), targets)
    except linalg.LinAlgError as error:
        raise ArithmeticError(
            "no digits left: the kernel of these inputs is singular to rounding. Use a larger "
            "ridge."
        ) from error
