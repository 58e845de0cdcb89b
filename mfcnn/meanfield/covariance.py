"""The covariance of pre-activations, layer by layer, over positions and inputs, at finite depth.

The covariance of m inputs is an array [m, *size, m, *size]: 1D images give rank 4, 2D images rank 6
(CNN paper, eqs. 2.3 and 2.13; one input there). A layer maps it by

    Sigma -> A_v * (weight_variance E[phi(u) phi(v)] + bias_variance),
    (A_v * C)[a, a'] = sum_beta v_beta C[a + beta, a' + beta],      periodic.
"""

import numpy as np
import tensorflow as tf

from mfcnn import activations
from mfcnn.activations import dual, dual_numerical
from mfcnn.meanfield._arguments import check_depth, check_variance
from mfcnn.meanfield._tables import moment_table
from mfcnn.meanfield.fixed_points import fixed_point
from mfcnn.meanfield.modes import check_profile, check_size, mode_eigenvalues

__all__ = [
    "Linearization",
    "average",
    "covariance_trajectory",
    "fixed_point_covariance",
    "linearize_covariance",
]


def covariance_trajectory(
    covariance, activation, weight_variance, bias_variance, variance_profile, depth
):
    """Covariances of layers 0 to depth by the exact iteration, as one tf loop.

    Args:
      covariance: of the pre-activations of layer 0, [m, *size, m, *size], symmetric and positive
        semi-definite.
      activation: a name or an `Activation`.
      weight_variance: sigma_w^2.
      bias_variance: sigma_b^2.
      variance_profile: [k] or [k1, k2], of sum 1; its rank is that of the images.
      depth: the number of layers to go on, >= 0.

    Returns:
      float64 numpy array [depth + 1, m, *size, m, *size].

    Raises:
      ValueError: for a negative variance, a profile that is not one, a covariance of another rank
        or not symmetric, a size smaller than the kernel, or a variance that overflows on the way.
    """
    activation = activations.get(activation)
    profile = check_profile(variance_profile)
    covariance = _check_covariance(covariance, profile)
    depth = check_depth(depth, least=0)
    weight_variance = check_variance("weight_variance", weight_variance)
    bias_variance = check_variance("bias_variance", bias_variance)
    shape = covariance.shape
    n = int(np.prod(shape[: len(shape) // 2]))
    variances = np.diag(covariance.reshape(n, n))
    second_moments = _second_moments(activation, weight_variance, bias_variance, variances, depth)

    @tf.function(autograph=False)
    def run(start):
        def layer(index, current, history):
            matrix = tf.reshape(current, [n, n])
            second = tf.reshape(second_moments(matrix), shape)
            mapped = weight_variance * second + bias_variance
            current = average(mapped, profile)
            return index + 1, current, history.write(index + 1, current)

        history = tf.TensorArray(tf.float64, size=depth + 1, element_shape=shape)
        state = (tf.constant(0), start, history.write(0, start))
        return tf.while_loop(lambda i, *_: i < depth, layer, state)[2].stack()

    covariances = run(tf.constant(covariance)).numpy()
    finite = np.isfinite(covariances).all(axis=tuple(range(1, covariances.ndim)))
    if not finite.all():
        raise ValueError(
            f"The covariance leaves the range of float64 by layer {np.argmin(finite)} of {depth}."
        )
    return covariances


def average(covariance, profile):
    """A_v * covariance: the average over the filter of both arguments shifted together.

    Args:
      covariance: tensor [m, *size, m, *size].
      profile: numpy array of the rank of `size`.

    Returns:
      A tensor of the same shape.
    """
    rank = profile.ndim
    axes = [*range(1, rank + 1), *range(rank + 2, 2 * rank + 2)]
    total = tf.zeros_like(covariance)
    for index in np.ndindex(*profile.shape):
        if profile[index]:
            shift = [(k - 1) // 2 - i for i, k in zip(index, profile.shape)]
            total += profile[index] * tf.roll(covariance, shift + shift, axes)
    return total


def fixed_point_covariance(point, size, inputs=1):
    """q* (delta + (1 - delta) c*) over positions and inputs (CNN paper, eq. 2.6).

    Args:
      point: a `FixedPoint`.
      size: spatial size, an integer or a tuple.
      inputs: their number m.

    Returns:
      float64 [m, *size, m, *size].
    """
    size = tuple(np.atleast_1d(size))
    n = inputs * int(np.prod(size))
    matrix = point.q_star * (point.c_star + (1 - point.c_star) * np.eye(n))
    return matrix.reshape((inputs, *size, inputs, *size))


class Linearization:
    """The linearized covariance dynamics at the fixed point (CNN paper, eqs. 2.7 to 2.12, S9-S22).

    Attributes:
      chi_c, chi_q: eigenvalues of off-diagonal and diagonal perturbations.
      kappa: weight_variance / 2 E[phi(u) phi''(v)] at c*: what a change of one position's variance
        adds to its covariances (eq. S13).
      eigenvalues: lambda_k of A_v, complex, shape `size`.
      off_diagonal, diagonal: decay per layer of each mode, chi_c |lambda| and chi_q |lambda|.
    """

    def __init__(self, point, kappa, eigenvalues):
        """Takes a `FixedPoint`, kappa and the eigenvalues of A_v."""
        self.chi_c, self.chi_q, self.kappa = point.chi_c, point.chi_q, kappa
        self.eigenvalues = eigenvalues
        self.off_diagonal = point.chi_c * np.abs(eigenvalues)
        self.diagonal = point.chi_q * np.abs(eigenvalues)

    def apply(self, perturbation, profile):
        """One layer of eq. 2.9 for a perturbation [1, *size, 1, *size] of the fixed point.

        J multiplies off-diagonal entries by chi_c and diagonal ones by chi_q, and adds kappa times
        the perturbation of either variance to a covariance; A_v then averages.
        """
        shape = perturbation.shape
        n = int(np.prod(shape[: len(shape) // 2]))
        matrix = np.reshape(perturbation, (n, n))
        variances = np.diag(matrix)
        mapped = self.chi_c * matrix + self.kappa * (variances[:, None] + variances)
        np.fill_diagonal(mapped, self.chi_q * variances)
        return average(tf.constant(mapped.reshape(shape)), check_profile(profile)).numpy()


def linearize_covariance(activation, weight_variance, bias_variance, variance_profile, size):
    """The `Linearization` at the fixed point.

    Args:
      activation: a name or an `Activation`.
      weight_variance: sigma_w^2.
      bias_variance: sigma_b^2.
      variance_profile: [k] or [k1, k2], of sum 1.
      size: spatial size, an integer or one for each dimension.
    """
    activation = activations.get(activation)
    point = fixed_point(activation, weight_variance, bias_variance)
    kappa = 0.5 * weight_variance * _second_derivative_moment(activation, point)
    return Linearization(point, kappa, mode_eigenvalues(variance_profile, size))


def _second_derivative_moment(activation, point):
    """E[phi(u) phi''(v)] at c*, as d/dq E[phi(u) phi(v)] - c E[phi'(u) phi'(v)]."""
    q, c = point.q_star, point.c_star
    if q == 0:
        return 0.0
    step = 1e-3  # five points: truncation step^4 / 30 and rounding 1e-16 / step, about 1e-12
    weights = np.array([1, -8, 8, -1]) / (12 * step * q)
    nodes = q * (1 + step * np.array([-2, -1, 1, 2]))
    return weights @ activation.covariance(nodes, c) - c * activation.derivative_covariance(q, c)


def _second_moments(activation, weight_variance, bias_variance, variances, depth):
    """A function from a covariance matrix [n, n] to E[phi(u) phi(v)] of all its pairs."""
    known = dual.closed_form_dual(activation)
    if known is not None:
        return lambda matrix: _pairs_of_dual(known, matrix)
    table = moment_table(activation)
    q = np.array([np.min(variances), np.max(variances)])
    low, high = q
    # The average of A_v keeps variances between the images of the smallest and the largest.
    for _ in range(depth):
        second = table.second_moment(np.maximum(q, 1e-25))  # the table's end; 0 for dead signals
        q, last = weight_variance * second + bias_variance, q
        low, high = min(low, *q), max(high, *q)
        if np.all(np.abs(q - last) < 1e-12 * q):
            break
    expansion = activation.hermite_basis(1.01 * high)
    if expansion is None:
        table = dual_numerical.build_table(activation, low, high)
        return lambda matrix: _pairs_of_dual(
            dual_numerical.TabulatedDual(table, tf.float64), matrix
        )
    z, basis = (tf.constant(a, tf.float64) for a in expansion)
    return lambda matrix: _pairs_of_series(activation.phi, z, basis, matrix)


def _correlations(matrix):
    q = tf.linalg.diag_part(matrix)
    root = tf.sqrt(q)[:, None] * tf.sqrt(q)
    gap = tf.clip_by_value(tf.math.divide_no_nan(root - matrix, root), 0.0, 2.0)
    return q, tf.linalg.set_diag(gap, tf.zeros_like(q))


def _pairs_of_dual(maps, matrix):
    q, gap = _correlations(matrix)
    side = maps.side(q[:, None]), maps.side(q[None, :])
    scale = tf.sqrt(maps.moments(q)[0])
    return scale[:, None] * scale * (1 - maps.pair(*side, gap)[0])


def _pairs_of_series(phi, z, basis, matrix):
    """E[phi(u) phi(v)] = sum_k a_k(q_u) a_k(q_v) c^k, by Horner's rule (Mehler)."""
    q, gap = _correlations(matrix)
    coefficients = tf.transpose(phi(tf.sqrt(q)[:, None] * z) @ basis)

    def horner(value, a):
        return value * (1 - gap) + a[:, None] * a

    return tf.foldr(horner, coefficients, tf.zeros_like(matrix))


def _check_covariance(covariance, profile):
    values = np.asarray(covariance, np.float64)
    half = values.ndim // 2
    if values.ndim != 2 * profile.ndim + 2 or values.shape[:half] != values.shape[half:]:
        raise ValueError(
            f"covariance must have the shape [m, *size, m, *size] with {profile.ndim} spatial "
            f"dimensions, the rank of variance_profile. Received: shape {values.shape}"
        )
    check_size(values.shape[1:half], profile)
    n = int(np.prod(values.shape[:half]))
    matrix = values.reshape(n, n)
    if not np.allclose(matrix, matrix.T, rtol=1e-9, atol=0) or np.any(np.diag(matrix) < 0):
        raise ValueError("covariance must be symmetric with a non-negative diagonal.")
    return values
