"""The tangent kernel in mean field form, and the variance of a trained network's output.

kappa_1 and kappa_2 are the diagonal and off-diagonal of the kernel of a wide network in the
standard parameterization, per weight:

    Theta(x, x') = alpha M (kappa_1 if x = x' else kappa_2) + sum_l p_l,
    kappa_1 = sum_l (alpha_{l-1} / alpha) qhat_{l-1} p_l,   kappa_2 likewise with covariances,

where qhat_{l-1} is the second moment of the inputs of layer l, and p_l that of the backpropagated
errors summed over the layer's units. The sum of p_l is the biases' part, O(1 / M) of the other.
"""

from typing import NamedTuple

import numpy as np

from mfcnn import activations

__all__ = ["MeanFieldNTK", "mean_field_ntk", "trained_output_variance"]


class MeanFieldNTK(NamedTuple):
    """The standard-parameterization kernel of a wide network for two inputs of equal norm.

    Attributes:
        kappa_1: of one input with itself.
        kappa_2: of two inputs.
        alpha: sum over layers of alpha_l alpha_{l-1}, widths in units of M.
        q: variance of the output.
        q_sr: covariance of the outputs of the two inputs.
        biases_1: the biases' part of Theta(x, x).
        biases_2: the biases' part of Theta(x, x').
    """

    kappa_1: float
    kappa_2: float
    alpha: float
    q: float
    q_sr: float
    biases_1: float
    biases_2: float

    def theta(self, width):
        """(Theta(x, x), Theta(x, x')) at width M, biases included."""
        scale = self.alpha * width
        return (
            scale * self.kappa_1 + self.biases_1,
            scale * self.kappa_2 + self.biases_2,
        )


def mean_field_ntk(
    activation, depth, weight_variance, bias_variance, covariance, input_second_moment=1.0,
    input_width_ratio=1.0,
):  # fmt: skip
    """kappa_1 and kappa_2 of a network of equal hidden widths and one output.

    The network has `depth` hidden layers and a linear readout, weights of variance
    weight_variance / fan_in, and is trained in the standard parameterization.

    Args:
        activation: a name or a `mfcnn.activations.Activation`.
        depth: number of hidden layers, at least 1.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        covariance: <x, x'> / input_size, at most input_second_moment in size.
        input_second_moment: |x|^2 / input_size, for both inputs.
        input_width_ratio: alpha_0, input_size / M.

    Returns:
        A `MeanFieldNTK`.

    Raises:
        ValueError: for a depth below 1, negative variances or a covariance out of range.

    Source: finite-width paper, equations 5 to 9 and lemma 5.2. There alpha leaves out the readout
        layer and q_hat of the off-diagonal proof is printed without its hat; both are kept apart
        here so that Theta itself is right.
    """
    phi = activations.get(activation)
    if int(depth) != depth or depth < 1:
        raise ValueError(f"depth must be an integer of at least 1. Received: depth={depth!r}")
    for name, value in (("weight_variance", weight_variance), ("bias_variance", bias_variance)):
        if not (value >= 0 and np.isfinite(value)):
            raise ValueError(f"{name} must be finite and not negative. Received: {value!r}")
    if not (input_second_moment > 0 and abs(covariance) <= input_second_moment):
        raise ValueError(
            "covariance must be at most input_second_moment > 0 in size. "
            f"Received: {covariance!r}, {input_second_moment!r}"
        )
    # Forward: second moments of each layer's inputs, and the slopes behind its pre-activations.
    hats, slopes = [(input_second_moment, covariance)], []
    for _ in range(depth):
        q, q_sr = (weight_variance * hat + bias_variance for hat in hats[-1])
        correlation = float(np.clip(q_sr / q, -1.0, 1.0))
        hats.append((float(phi.second_moment(q)), float(phi.covariance(q, correlation))))
        slopes.append(
            (
                float(phi.derivative_second_moment(q)),
                float(phi.derivative_covariance(q, correlation)),
            )
        )
    # Backward: p of the output is 1.
    errors = [(1.0, 1.0)]
    for slope in reversed(slopes):
        errors.insert(0, tuple(weight_variance * s * p for s, p in zip(slope, errors[0])))
    inputs = np.array([input_width_ratio] + [1.0] * depth)
    alpha = float(np.sum(inputs[:-1])) if depth > 0 else 1.0
    hats, errors = np.array(hats), np.array(errors)
    kappa_1, kappa_2 = (inputs / alpha) @ (hats * errors)
    q, q_sr = weight_variance * hats[-1] + bias_variance
    return MeanFieldNTK(
        float(kappa_1), float(kappa_2), alpha, float(q), float(q_sr), *errors.sum(0).tolist()
    )


def trained_output_variance(kappa_1, kappa_2, q, q_sr, samples):
    """The variance over initializations of the output on a new input after training to the end.

    Var = (1 + A^2 / S) (q - q_sr) + (A - 1)^2 q_sr,   A = S / (kappa_1 / kappa_2 + S - 1),

    for a network that follows its constant kernel, with all pairs of inputs (the new one
    included) of the same covariance.

    Args:
        kappa_1: the kernel's diagonal, in any unit.
        kappa_2: its off-diagonal, in the same unit.
        q: variance of the output at initialization.
        q_sr: covariance of two outputs at initialization.
        samples: S, number of training samples.

    Returns:
        A float.

    Raises:
        ValueError: if the kernel is not positive definite or samples is below 1.

    Source: finite-width paper, theorem 5.3.
    """
    if samples < 1 or not kappa_1 > kappa_2 > 0:
        raise ValueError(
            "trained_output_variance needs kappa_1 > kappa_2 > 0 and samples >= 1. "
            f"Received: {kappa_1=}, {kappa_2=}, {samples=}"
        )
    a = samples / (kappa_1 / kappa_2 + samples - 1)
    return float((1 + a * a / samples) * (q - q_sr) + (a - 1) ** 2 * q_sr)
