"""Laws of wide networks of finite width: kappa, the variance after training, and relu's NTK.

kappa_1 and kappa_2 are the diagonal and off-diagonal of the tangent kernel of a wide network in the
standard parameterization, per weight:

    Theta(x, x') = alpha M (kappa_1 if x = x' else kappa_2) + sum_l p_l,
    kappa_1 = sum_l (alpha_{l-1} / alpha) qhat_{l-1} p_l,   kappa_2 likewise with covariances,

where qhat_{l-1} is the second moment of the inputs of layer l, and p_l that of the backpropagated
errors summed over the layer's units. The sum of p_l is the biases' part, O(1 / M) of the other.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mfcnn import activations, arguments

__all__ = ["MeanFieldNTK", "mean_field_ntk", "relu_critical_ratio", "trained_output_variance"]


class MeanFieldNTK(NamedTuple):
    """The standard-parameterization kernel of a wide network for two inputs of equal norm.

    Attributes:
        kappa_1: of one input with itself.
        kappa_2: of two inputs; it, q_sr and biases_2 have the shape of the covariance.
        alpha: sum over layers of alpha_l alpha_{l-1}, widths in units of M.
        q: variance of the output.
        q_sr: covariance of the outputs of the two inputs.
        biases_1: the biases' part of Theta(x, x).
        biases_2: the biases' part of Theta(x, x').
    """

    kappa_1: float
    kappa_2: float | np.ndarray
    alpha: float
    q: float
    q_sr: float | np.ndarray
    biases_1: float
    biases_2: float | np.ndarray

    def theta(self, width: float) -> tuple[float, float | np.ndarray]:
        """(Theta(x, x), Theta(x, x')) at width M, biases included."""
        scale = self.alpha * width
        return scale * self.kappa_1 + self.biases_1, scale * self.kappa_2 + self.biases_2


def mean_field_ntk(
    activation: Any,
    depth: int,
    weight_variance: float,
    bias_variance: float,
    covariance: ArrayLike,
    input_second_moment: float = 1.0,
    input_width_ratio: float = 1.0,
) -> MeanFieldNTK:
    """kappa_1 and kappa_2 of a network of equal hidden widths and one output.

    The network has `depth` hidden layers and a linear readout, weights of variance
    weight_variance / fan_in, and is trained in the standard parameterization.

    Args:
        activation: a name or a `mfcnn.activations.Activation`.
        depth: number of hidden layers, at least 1.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        covariance: <x, x'> / input_size, a number or an array of them, at most
            input_second_moment in size.
        input_second_moment: |x|^2 / input_size, for both inputs.
        input_width_ratio: alpha_0, input_size / M.

    Returns:
        A `MeanFieldNTK`.

    Raises:
        ValueError: for a depth below 1, negative variances or a covariance out of range.

    Example:
        >>> import mfcnn
        >>> form = mfcnn.meanfield.mean_field_ntk("relu", 3, 2.0, 0.0, covariance=0.5)
        >>> round(form.kappa_1, 6), form.alpha
        (1.333333, 3.0)

    Source: finite-width paper, equations 5 to 9 and lemma 5.2. There alpha leaves out the readout
        layer and q_hat of the off-diagonal proof is printed without its hat; both are kept apart
        here so that Theta itself is right.
    """
    phi = activations.get(activation)
    depth = arguments.depth(depth)
    weight_variance = arguments.variance("weight_variance", weight_variance)
    bias_variance = arguments.variance("bias_variance", bias_variance)
    moment = arguments.variance("input_second_moment", input_second_moment, positive=True)
    ratio = arguments.number("input_width_ratio", input_width_ratio, above=0)
    covariance = arguments.array("covariance", covariance)
    if np.any(np.abs(covariance) > moment):
        raise ValueError(
            f"covariance must be at most input_second_moment={moment:g} in size. "
            f"Received: covariance={covariance}"
        )
    # Entry 0 is the input with itself, the rest are the pairs.
    hat = np.append(moment, covariance.ravel())
    hats, slopes = [hat], []
    for _ in range(depth):
        k = weight_variance * hats[-1] + bias_variance
        correlation = np.clip(k / k[0], -1.0, 1.0) if k[0] else np.ones_like(k)
        hats.append(_moments(phi.second_moment, phi.covariance, k[0], correlation))
        slopes.append(
            _moments(phi.derivative_second_moment, phi.derivative_covariance, k[0], correlation)
        )
    errors = [np.ones_like(hat)]  # p of the output is 1
    for slope in reversed(slopes):
        errors.insert(0, weight_variance * slope * errors[0])
    widths = np.array([ratio] + [1.0] * depth)
    alpha = float(np.sum(widths[:-1]))
    kappa = widths @ (np.array(hats) * np.array(errors)) / alpha
    q = weight_variance * hats[-1] + bias_variance
    biases = np.sum(errors, axis=0)

    def pairs(values: np.ndarray) -> float | np.ndarray:
        return values[1:].reshape(covariance.shape)[()]

    return MeanFieldNTK(
        float(kappa[0]), pairs(kappa), alpha, float(q[0]), pairs(q), float(biases[0]), pairs(biases)
    )


def _moments(one: Any, two: Any, q: float, correlation: np.ndarray) -> np.ndarray:
    """A moment of phi or phi' of an input with itself, then of the pairs."""
    if q == 0:  # the signal is zero
        return np.full_like(correlation, one(1e-300))
    return np.append(one(q), two(q, correlation[1:]))


def trained_output_variance(
    kappa_1: float, kappa_2: float, q: float, q_sr: float, samples: int
) -> float:
    """The variance over initializations of the output on a new input after training to the end.

    Var = (1 + A^2 / S) (q - q_sr) + (A - 1)^2 q_sr,   A = S / (kappa_1 / kappa_2 + S - 1),

    for a network that follows its constant kernel, with all pairs of inputs (the new one
    included) of the same covariance.

    Args:
        kappa_1: the kernel's diagonal, in any unit.
        kappa_2: its off-diagonal, in the same unit.
        q: variance of the output at initialization.
        q_sr: covariance of two outputs at initialization, at most q in size.
        samples: S, number of training samples.

    Returns:
        A float.

    Raises:
        ValueError: if the kernel is not positive definite, q_sr is above q, or samples below 1.

    Example:
        >>> import mfcnn
        >>> round(mfcnn.meanfield.trained_output_variance(2.0, 1.0, 1.0, 0.5, samples=9), 4)
        0.55

    Source: finite-width paper, theorem 5.3.
    """
    kappa_1 = arguments.number("kappa_1", kappa_1, above=0)
    kappa_2 = arguments.number("kappa_2", kappa_2, above=0)
    samples = arguments.integer("samples", samples, 1)
    q = arguments.variance("q", q)
    q_sr = arguments.number("q_sr", q_sr, -q, q)
    if not kappa_1 > kappa_2:
        raise ValueError(
            f"kappa_1 must be above kappa_2. Received: kappa_1={kappa_1}, kappa_2={kappa_2}"
        )
    a = samples / (kappa_1 / kappa_2 + samples - 1)
    return float((1 + a * a / samples) * (q - q_sr) + (a - 1) ** 2 * q_sr)


def relu_critical_ratio(
    depth: ArrayLike, width: float, exponent: float = 5.0
) -> float | np.ndarray:
    """The law of E[Theta^2] / E[Theta]^2 for relu at weight_variance 2 and bias_variance 0.

    Theta is the sum over layers of |delta_l|^2 |a_{l-1}|^2, and each layer multiplies |a|^2 and
    |delta|^2 by a factor of mean 1 and variance 5 / width; the two factors of one layer have the
    covariance 1 / width, through the mask they share. So E[T_l T_m] has 5 / width for each layer
    but the |l - m| between, which have 1 / width:

        ratio = sum_{l, m = 1}^{depth + 1} (1 + 5 / width)^(depth - |l - m|)
                (1 + 1 / width)^|l - m| / (depth + 1)^2,

    up to relative errors of the order depth / width^2. For large depth / width this is
    exp(5 depth / width) times a factor that is not exponential, as Hanin and Nica prove.

    Args:
        depth: number of hidden layers, an integer or an array of them.
        width: units of each.
        exponent: in place of the 5.

    Returns:
        float64, of depth's shape.

    Raises:
        ValueError: for a depth below 1, a width that is not positive, or an exponent that is not
            finite.

    Example:
        >>> import mfcnn
        >>> round(float(mfcnn.meanfield.relu_critical_ratio(10, width=100)), 4)
        1.4215

    Source: finite-width paper, Figures 1 and 2.
    """
    depths = np.asarray(arguments.depths(np.ravel(depth) if np.ndim(depth) else depth, least=1))
    width = arguments.number("width", width, above=0)
    exponent = arguments.number("exponent", exponent, above=-width)
    result = np.empty(depths.shape)
    for index, d in np.ndenumerate(depths):
        between = np.arange(d + 1)
        pairs = np.where(between > 0, 2, 1) * (d + 1 - between)
        terms = (d - between) * np.log1p(exponent / width) + between * np.log1p(1 / width)
        result[index] = np.sum(pairs * np.exp(terms)) / (d + 1) ** 2
    return result.reshape(np.shape(depth))[()]
