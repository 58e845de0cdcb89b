"""Singular values of the input-output Jacobian of a deep random network, in the limit of width.

J is the product of `depth` factors D W, with W Gaussian or orthogonal of variance weight_variance
and D diagonal with entries phi'(h), h ~ N(0, q). The S-transforms of free factors multiply
(J. Pennington, S. Schoenholz, S. Ganguli, 2017 and 2018). With d = phi'(h)^2 and
M_D(y) = E[d / (y - d)], every squared singular value distribution below is parametrized by y:

    w = M_D(y),    z = (1 + w) / w * (weight_variance w y / (1 + s w))^depth

with s = 1 for orthogonal and 0 for Gaussian weights; w = z G(z) - 1 gives the resolvent G.
"""

import dataclasses

import numpy as np

from mfcnn import activations, arguments
from mfcnn.meanfield._roots import bracketed_root

__all__ = ["JacobianMoments", "jacobian_density", "jacobian_moments"]


@dataclasses.dataclass(frozen=True)
class JacobianMoments:
    """Mean and variance of the squared singular values.

    Attributes:
      mean: chi_1^depth.
      variance: mean^2 * relative_variance.
      relative_variance: depth * (E[phi'^4] / E[phi'^2]^2 - 1 - s_1), with s_1 = -1 for Gaussian and
        0 for orthogonal weights.
    """

    mean: float
    variance: float
    relative_variance: float


def jacobian_moments(activation, weight_variance, depth, q, orthogonal=False):
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
    """
    activation = activations.get(activation)
    depth, q = arguments.depth(depth), arguments.variances("q", q)
    if q.shape not in ((), (depth,)):
        raise ValueError(f"q must be a number or of shape [{depth}]. Received: shape {q.shape}")
    weight_variance = arguments.variance("weight_variance", weight_variance)
    orthogonal = arguments.boolean("orthogonal", orthogonal)
    values, inverse = np.unique(np.broadcast_to(q, (depth,)), return_inverse=True)
    first, second = np.array([_derivative_moments(activation, v) for v in values]).T
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        mean = np.exp(np.sum(np.log(weight_variance * first)[inverse]))
        spread = np.where(first > 0, second / first**2, 0.0)
        relative = np.sum(spread[inverse] + (0.0 if orthogonal else 1.0))
        return JacobianMoments(float(mean), float(mean**2 * relative), float(relative))


def jacobian_density(activation, weight_variance, depth, q, points, orthogonal=False):
    """Density of the squared singular values of the Jacobian.

    Solves for the parameter y of the module's description at z = points * exp(i angle), starting
    from the negative axis (angle pi), where y is real and the equation monotone, and following the
    root by Newton steps to the positive axis. Atoms are left out: at 0, where phi' vanishes on an
    interval, and at weight_variance^depth for orthogonal weights and a phi' that is 1 on one.

    Args:
      activation: a name or an `Activation`.
      weight_variance: sigma_w^2, positive.
      depth: the number of layers.
      q: variance of the pre-activations, positive, the same in all layers.
      points: squared singular values, positive, [m].
      orthogonal: whether the weights are orthogonal rather than Gaussian.

    Returns:
      float64 [m].

    Raises:
      ValueError: for points or variances that are not positive, depth < 1, or a flat distribution
        (linear and orthogonal), which has no density.
    """
    activation = activations.get(activation)
    depth, points = arguments.depth(depth), arguments.variances("points", points, positive=True)
    weight_variance = arguments.variance("weight_variance", weight_variance, positive=True)
    q = arguments.variance("q", q, positive=True)
    if points.ndim != 1:
        raise ValueError(f"points must have the shape [m]. Received: shape {points.shape}")
    orthogonal = arguments.boolean("orthogonal", orthogonal)
    d, weights = activation.derivative_distribution(q)
    d = d**2
    if orthogonal and np.ptp(d[weights > 0]) == 0:
        raise ValueError("All singular values are equal: there is no density.")
    weights = weights / weights.sum()
    scale = np.log(weight_variance)

    def log_z(y):
        """(log z, d log z / dy, w), continuous from the negative axis, where log(-z) is real."""
        inverse = 1 / (y[:, None] - d)
        w = inverse @ (weights * d)
        rest = y * (inverse @ weights)  # 1 + w, which vanishes with y
        slope = -(inverse**2) @ (weights * d)
        divisor, its_slope = (np.log(rest), slope / rest) if orthogonal else (0.0, 0.0)
        value = np.log(rest) - np.log(-w) + depth * (scale + np.log(w * y) - divisor)
        derivative = slope / rest - slope / w + depth * (slope / w + 1 / y - its_slope)
        return value, derivative, w

    # log(-z) on the negative axis, as a function of log(-y): from far below to far above all d.
    target = np.log(points)
    low, high = np.full(points.shape, -90.0), np.full(points.shape, 90.0)
    y = -np.exp(bracketed_root(lambda t: log_z(-np.exp(t))[0] - target, low, high)) + 0j
    # -z turns from the positive axis by pi; the steps shorten towards the real axis, and the last
    # one is on it: outside the support the root is then real, without a tail from smoothing.
    angles = np.concatenate([np.linspace(np.pi, 0.2, 80), np.geomspace(0.2, 1e-7, 80), [0.0]])
    for turn in np.pi - angles:
        for _ in range(3):
            value, derivative, w = log_z(y)
            step = (value - (target - 1j * turn)) / derivative
            y = y - step * np.minimum(1.0, 0.3 * np.abs(y) / np.maximum(np.abs(step), 1e-300))
            y = np.real(y) + 1j * np.abs(np.imag(y))  # Im y > 0 in the upper half plane
    w = log_z(y)[2]
    return np.maximum(-np.imag(w) / points / np.pi, 0.0)


def _derivative_moments(activation, q):
    """(E[phi'^2], Var(phi'^2)) at variance q, which may be 0."""
    if q == 0:
        slopes = activation.slopes_at_zero() ** 2
        return np.mean(slopes), np.var(slopes)
    values, weights = activation.derivative_distribution(q)
    mean = weights @ values**2 / weights.sum()
    # Squared deviations: near dynamical isometry E[phi'^4] - mean^2 would have no digits.
    return mean, weights @ (values**2 - mean) ** 2
