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

from mfcnn import activations

__all__ = ["JacobianMoments", "jacobian_moments"]


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
    """
    activation = activations.get(activation)
    values, inverse = np.unique(np.broadcast_to(q, (int(depth),)), return_inverse=True)
    first, second = np.array([_derivative_moments(activation, v) for v in values]).T
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        mean = np.exp(np.sum(np.log(weight_variance * first)[inverse]))
        spread = np.where(first > 0, second / first**2 - 1, 0.0)
        relative = np.sum(spread[inverse] + (0.0 if orthogonal else 1.0))
        return JacobianMoments(float(mean), float(mean**2 * relative), float(relative))


def _derivative_moments(activation, q):
    """(E[phi'^2], E[phi'^4]) at variance q, which may be 0."""
    if q == 0:
        slopes = activation.slopes_at_zero() ** 2
        return np.mean(slopes), np.mean(slopes**2)
    return activation.derivative_second_moment(q), activation.derivative_fourth_moment(q)
