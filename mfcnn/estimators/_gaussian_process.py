"""A kernel of `mfcnn.kernels` as a prior of scikit-learn's Gaussian processes."""

from typing import Any, ClassVar

import numpy as np
from sklearn.gaussian_process import kernels as gaussian_process

from mfcnn import arguments
from mfcnn.kernels import Kernel

__all__ = ["GaussianProcessKernel"]

_STEP = 1e-3  # of a variance's logarithm


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
    ) -> None:
        self.kernel = kernel
        missing = [name for name in self._NAMES if not hasattr(kernel, name)]
        if not isinstance(kernel, Kernel) or missing:
            raise arguments.ArgumentTypeError(
                "kernel must be a kernel of mfcnn.kernels with a weight_variance and a "
                f"bias_variance. Received: kernel={kernel!r}"
            )
        own = kernel.config["weight_variance"], kernel.config["bias_variance"]
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
