"""Activations whose map of correlations stays gentle over a given depth.

With C(c) = E[phi(u) phi(v)] / Q(1) at variance one, weight_variance = 1 and bias_variance = 0, a
plain network of L layers maps the correlation c of two inputs to C_f = C applied L times. Most
activations send it to one or to zero; these are chosen so that C_f still tells inputs apart:

    leaky_relu   C_f(0) = eta by the slope                      (Tailored Activation Transformation)
    smooth phi   gamma (phi(alpha x + beta) + delta) with
      "tat"      Q(1) = Q'(1) = C'(1) = 1 and C''(1) = tau / L, so that C_f''(1) = tau
      "dks"      Q(1) = Q'(1) = 1, C(0) = 0 and C'(1) = zeta^(1/L), so that C_f'(1) = zeta
                                                                (Deep Kernel Shaping)

With g(z) = phi(alpha z + beta), m its mean, and Stein's lemma,

    Q'(1) = gamma^2 (E[g'^2] + E[(g + delta) g'']),   C'(1) = gamma^2 E[g'^2],
    C''(1) = gamma^2 E[g''^2],                        Q(1) = gamma^2 E[(g + delta)^2].

For each beta the condition on the slope or the curvature gives alpha; Q'(1) = 1 then gives beta.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from scipy import optimize

from mfcnn import arguments
from mfcnn.activations import _registry
from mfcnn.activations._activation import Activation
from mfcnn.activations._arc_cosine import ArcCosine

__all__ = ["tailored"]

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(160)
_BETAS = np.linspace(-4.0, 4.0, 81)
_ALPHAS = np.log(1e-5), np.log(20.0)


def tailored(
    name: str,
    depth: int,
    method: str | None = None,
    eta: float = 0.9,
    tau: float = 0.3,
    zeta: float = 1.5,
) -> Activation:
    """An activation for plain networks of this depth; see the formulas of this module.

    It wants weight_variance = 1, bias_variance = 0 and inputs of mean square one.

    Args:
        name: "leaky_relu" (or "relu", of which it is the tailored form), or a smooth form.
        depth: the number of hidden layers.
        method: "tat" (None) or "dks"; leaky_relu has "tat" alone.
        eta: C_f(0) of leaky_relu.
        tau: C_f''(1) of smooth forms with "tat".
        zeta: C_f'(1) with "dks".

    Returns:
        An `Activation`, a Keras activation too, which is saved with a model.

    Raises:
        ValueError: if an argument is out of its range, or the form can't meet the conditions.

    Example:
        >>> tailored = mfcnn.activations.tailored("leaky_relu", depth=200)
        >>> print(f"{tailored(-1.0):.6f} {tailored(1.0):.6f}")
        -0.794906 1.169668

    Source: G. Zhang, A. Botev, J. Martens, "Deep learning without shortcuts" (2022), and J. Martens
    et al., "Rapid training of deep neural networks without skip connections" (2021).
    """
    depth = arguments.depth(depth)
    method = arguments.choice("method", method, (None, "tat", "dks"))
    eta = arguments.number("eta", eta, above=0, below=1)
    tau = arguments.number("tau", tau, above=0)
    zeta = arguments.number("zeta", zeta, above=1)
    if name in ("leaky_relu", "relu"):
        arguments.choice(f"method of {name}", method, (None, "tat"))
        return _leaky_relu(depth, eta)
    base = _registry.get(name)
    if base.kinks().size or not base.of_library:
        raise ValueError(
            f"name must be leaky_relu or a smooth form of mfcnn.activations.NAMES. "
            f"Received: name={name!r}"
        )
    condition = _curvature(tau / depth) if method != "dks" else _slope(zeta ** (1 / depth))
    solution = zip(("alpha", "beta", "gamma", "delta"), _solve(base, condition))
    return _registry.get("tailored", base=base.name, **dict(solution))


@tf.function(autograph=False, reduce_retracing=True)
def _gap_behind(slope: tf.Tensor, depth: tf.Tensor) -> tf.Tensor:
    """1 - C_f(0) of leaky relu."""
    maps, one = ArcCosine(slope, 1.0), tf.ones([], tf.float64)
    side = maps.side(one)

    def layer(k: tf.Tensor, gap: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return k + 1, maps.pair(side, side, gap)[0]

    return tf.while_loop(lambda k, _: k < depth, layer, (tf.constant(0), one))[1]


def _leaky_relu(depth: int, eta: float) -> Activation:
    """Leaky relu of the slope with C_f(0) = eta, or relu where that stays below eta; Q(q) = q."""

    def excess(slope: float) -> float:
        gap = _gap_behind(tf.constant(slope, tf.float64), tf.constant(depth))
        return 1 - float(gap) - eta

    slope = 0.0 if excess(0.0) <= 0 else float(optimize.brentq(excess, 0.0, 1.0, xtol=1e-15))
    scale = float(np.sqrt(2 / (1 + slope**2)))
    return _registry.get("abrelu", a=slope * scale, b=scale)


class _Moments(NamedTuple):
    """Of g(z) = phi(alpha z + beta), for all alpha and beta of arrays of one shape.

    Attributes:
        mean: E[g].
        variance: of g.
        slope: E[g'^2].
        curvature: E[g''^2].
        bend: E[g''].
        mixed: E[(g - mean) g''].
    """

    mean: np.ndarray
    variance: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray
    bend: np.ndarray
    mixed: np.ndarray


def _moments(base: Activation, alpha: np.ndarray, beta: np.ndarray) -> _Moments:
    weights = _WEIGHTS / np.sqrt(2 * np.pi)
    x = tf.constant(alpha[..., None] * _NODES + beta[..., None])
    with tf.GradientTape() as tape:
        tape.watch(x)
        slopes = base.phi_prime(x)
    bends = alpha[..., None] ** 2 * tape.gradient(slopes, x).numpy()
    values, slopes = base.phi(x).numpy(), alpha[..., None] * slopes.numpy()
    mean = values @ weights
    values = values - mean[..., None]
    products = values**2, slopes**2, bends**2, bends, values * bends
    return _Moments(mean, *(product @ weights for product in products))


# A condition takes moments and a sign to (what must be zero, gamma, delta).
Condition = Callable[[_Moments, int], tuple[np.ndarray, np.ndarray, np.ndarray]]


def _curvature(target: float) -> Condition:
    """C''(1) = target, with Q(1) = C'(1) = 1, for which delta has two roots."""

    def condition(m: _Moments, sign: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # E[g'^2] >= Var g, by Poincare's inequality.
        shift = sign * np.sqrt(np.maximum(m.slope - m.variance, 0.0))
        return np.log(m.curvature / m.slope / target), m.slope**-0.5, shift - m.mean

    return condition


def _slope(target: float) -> Condition:
    """C'(1) = target, with Q(1) = 1 and C(0) = 0."""

    def condition(m: _Moments, sign: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        excess = np.maximum(m.slope / m.variance - 1, 1e-300)
        return np.log(excess / (target - 1)), m.variance**-0.5, -m.mean

    return condition


def _alphas(base: Activation, condition: Condition, beta: np.ndarray) -> np.ndarray:
    """The least alpha that meets the condition for each beta, by bisection; NaN for none."""
    grid = np.linspace(*_ALPHAS, 33)

    def miss(log_alpha: np.ndarray) -> np.ndarray:
        return condition(_moments(base, np.exp(log_alpha), beta + 0 * log_alpha), 1)[0]

    above = np.stack([miss(np.full(beta.shape, a)) > 0 for a in grid])
    first = np.argmax(above, axis=0)
    low, high = grid[np.maximum(first - 1, 0)], grid[first]
    for _ in range(50):
        middle = (low + high) / 2
        up = miss(middle) > 0
        low, high = np.where(up, low, middle), np.where(up, middle, high)
    return np.where(first > 0, np.exp(middle), np.nan)


def _solve(base: Activation, condition: Condition) -> tuple[float, float, float, float]:
    """alpha, beta, gamma, delta that meet the condition and Q'(1) = 1; the smallest |beta|."""

    def excess(beta: np.ndarray, sign: int) -> np.ndarray:
        """Q'(1) - 1 over the curvature, since both vanish with alpha."""
        m = _moments(base, _alphas(base, condition, beta), beta)
        _, gamma, delta = condition(m, sign)
        stretch = m.slope + m.mixed + (delta + m.mean) * m.bend
        return (gamma**2 * stretch - 1) / (gamma**2 * m.curvature)

    with np.errstate(divide="ignore", invalid="ignore"):
        brackets = []
        for sign in (1, -1):
            values = excess(_BETAS, sign)
            for k in np.flatnonzero(values[:-1] * values[1:] <= 0):
                brackets.append((abs(_BETAS[k]), _BETAS[k], _BETAS[k + 1], sign))
        for _, low, high, sign in sorted(brackets):
            root = optimize.brentq(
                lambda b, sign=sign: float(excess(np.array(b), sign)), low, high, xtol=1e-14
            )
            beta = np.array(root)
            if abs(excess(beta, sign)) < 1e-6:  # not a pole
                alpha = _alphas(base, condition, beta)
                _, gamma, delta = condition(_moments(base, alpha, beta), sign)
                return float(alpha), float(beta), float(gamma), float(delta)
    raise ValueError(
        f"{base.name} can't be tailored by this method: no shift and scale of it has Q(1) = "
        "Q'(1) = 1 and the slope or curvature asked for. Use another form, or another method."
    )
