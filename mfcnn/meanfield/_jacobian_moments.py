"""Mean and variance of the squared singular values of the input-output Jacobian."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mfcnn import activations, arguments
from mfcnn.meanfield._slopes import grouped, slope_distribution

__all__ = ["JacobianMoments", "jacobian_moments", "layer_variances"]

_MOST_VARIANCES = 100  # different ones that are kept apart


@dataclasses.dataclass(frozen=True)
class JacobianMoments:
    """Mean and variance of the squared singular values.

    Attributes:
        mean: chi_1^depth.
        variance: mean^2 * relative_variance.
        relative_variance: depth * (E[phi'^4] / E[phi'^2]^2 - 1 - s_1), with s_1 = -1 for Gaussian
            and 0 for orthogonal weights.
    """

    mean: float
    variance: float
    relative_variance: float


def jacobian_moments(
    activation: Any, weight_variance: float, depth: int, q: ArrayLike, orthogonal: bool = False
) -> JacobianMoments:
    """Mean and variance of the squared singular values of the Jacobian at depth `depth`.

    Args:
        activation: a name or an `Activation`.
        weight_variance: sigma_w^2.
        depth: the number of layers.
        q: variance of the pre-activations, one for all layers or [depth], one for each.
        orthogonal: whether the weights are orthogonal rather than Gaussian.

    Returns:
        `JacobianMoments` of Python floats.

    Raises:
        ValueError: for a negative variance, depth < 1, or a q of another shape.

    Example:
        >>> import mfcnn
        >>> mfcnn.meanfield.jacobian_moments("linear", 1.0, depth=30, q=1.0)
        JacobianMoments(mean=1.0, variance=30.0, relative_variance=30.0)

    Source: CNN paper, section 2.2.1 (Pennington et al., 2017, eq. 22).
    """
    activation = activations.get(activation)
    depth = arguments.depth(depth)
    q = layer_variances(q, depth)
    weight_variance = arguments.variance("weight_variance", weight_variance)
    orthogonal = arguments.boolean("orthogonal", orthogonal)
    values, counts = np.array(grouped(q, np.ones_like(q), _MOST_VARIANCES)).T
    first, second = np.array([_derivative_moments(activation, v) for v in values]).T
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        mean = np.exp(counts @ np.log(weight_variance * first))
        spread = np.where(first > 0, second / first**2, 0.0)
        relative = counts @ (spread + (0.0 if orthogonal else 1.0))
        return JacobianMoments(float(mean), float(mean**2 * relative), float(relative))


def layer_variances(q: ArrayLike, depth: int, positive: bool = False) -> np.ndarray:
    """The variance of each layer, [depth]."""
    values = arguments.variances("q", q, positive=positive)
    if values.shape not in ((), (depth,)):
        raise ValueError(
            f"q must be a number or of shape [{depth}]. Received: q.shape={values.shape}"
        )
    return np.broadcast_to(values, (depth,))


def _derivative_moments(activation: activations.Activation, q: float) -> tuple[float, float]:
    """(E[phi'^2], Var(phi'^2)) at variance q, which may be 0."""
    d, weights = slope_distribution(activation, q)
    mean = weights @ d
    # Squared deviations: near dynamical isometry E[phi'^4] - mean^2 would have no digits.
    return mean, weights @ (d - mean) ** 2
