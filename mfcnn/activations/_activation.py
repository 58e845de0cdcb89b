"""Activation: a function phi, its derivative, and the Gaussian moments that theory asks of it."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments
from mfcnn.activations import _dual, _moments, _piecewise_dual, _tables

__all__ = ["Activation"]

# Where phi is looked at to tell one user's function from another's: irregular, both signs, zero.
_GRID = np.concatenate([[0.0], *(s * np.geomspace(1e-3, 90.0, 701) for s in (-1, 1))])


@keras.saving.register_keras_serializable("mfcnn")
class Activation:
    """An activation function with its derivative.

    The two callables take and return TF tensors or numpy arrays, element by element, in any float
    dtype. Kinks are found by the moments themselves; phi must be piecewise smooth. An Activation is
    a Keras activation too: `keras.layers.Dense(8, activation=activation)`, saved with the model.

    Args:
        phi: the function.
        phi_prime: its derivative (either value at a kink).
        name: for messages and configurations; phi's own where it is None.
        moments: closed forms in place of quadrature, see `_moments`.
        dual: its dual maps where they are known: a `Dual`, or a function (q1, q2, q12) ->
            (E[phi(u) phi(v)], E[phi'(u) phi'(v)]) of tensors. It is compared with quadrature of
            phi before its first use.
        refusal: why phi has no moments, for the message.

    Attributes:
        phi, phi_prime, name: the arguments; the name of a form is what `get` finds it by.
        of_library: whether it is a form's, so that the name says all.
        homogeneity: (phi'(-1)^2 + phi'(1)^2) / 2 if phi(t x) = t phi(x) for t > 0 (linear, relu),
            so that E[phi^2] = homogeneity * q; None for all others.

    Raises:
        TypeError: if phi or phi_prime is not callable.

    Example:
        >>> cubic = mfcnn.activations.Activation(lambda x: x - x**3, lambda x: 1 - 3 * x**2)
        >>> float(cubic.second_moment(0.01))  # q - 6 q^2 + 15 q^3
        0.009415
    """

    def __init__(
        self,
        phi: Callable,
        phi_prime: Callable,
        name: str | None = None,
        *,
        moments: Any = None,
        dual: "_dual.Dual | Callable | None" = None,
        refusal: str | None = None,
    ) -> None:
        self.phi = arguments.function("phi", phi)
        self.phi_prime = arguments.function("phi_prime", phi_prime)
        if moments is not None and not isinstance(
            moments, (_moments.ClosedForm, _moments.Numerical)
        ):
            raise arguments.ArgumentTypeError(
                "moments must be a ClosedForm or Numerical of mfcnn.activations, or None. "
                f"Received: moments={moments!r}"
            )
        name = name if name is None else arguments.text("name", name)
        self.name = name or getattr(phi, "__name__", "custom")
        self.of_library = False
        self._numerical = _moments.Numerical(phi, phi_prime, refusal)
        self._moments = moments or self._numerical
        self._dual = dual

    def __call__(self, x: Any) -> Any:
        """phi(x)."""
        return self.phi(x)

    def __repr__(self) -> str:
        """The name."""
        return f"Activation({self.name!r})"

    def get_config(self) -> dict[str, Any]:
        """What `from_config` takes: a form's name, or the two functions of a user."""
        if self.of_library:
            return {"name": self.name}
        functions = {"phi": self.phi, "phi_prime": self.phi_prime}
        serialize = keras.saving.serialize_keras_object
        return {"name": self.name, **{key: serialize(f) for key, f in functions.items()}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Activation":
        """The activation that `get_config` described."""
        if "phi" not in config:
            from mfcnn.activations import _registry  # the forms know this class

            return _registry.get(config["name"])
        deserialize = keras.saving.deserialize_keras_object
        return cls(deserialize(config["phi"]), deserialize(config["phi_prime"]), config["name"])

    @functools.cached_property
    def identity(self) -> str:
        """What tells its results from another's: a form's name, else a hash of values on a grid."""
        if self.of_library:
            return str(self.name)
        values = [np.asarray(f(tf.constant(_GRID))) for f in (self.phi, self.phi_prime)]
        if self._dual is not None and self.closed_form is not None:
            q1, q2 = tf.constant(_GRID[1:701:7]), tf.constant(_GRID[1:701:7][::-1].copy())
            values += [np.asarray(m) for m in self.closed_form.maps(q1, q2, 0.4 * q1 * q2 / 90)]
        digest = hashlib.sha256(b"".join(v.astype(np.float64).tobytes() for v in values))
        return f"function {digest.hexdigest()[:24]}"

    @functools.cached_property
    def closed_form(self) -> "_dual.Dual | None":
        """The dual maps in closed form, or None: then `table` makes those for some variances."""
        if self._dual is None:
            if self._numerical.refusal:
                raise ValueError(self._numerical.refusal)
            # A user's polynomials between kinks are recognized.
            return _piecewise_dual.recognized(self._numerical.phi, self.kinks())
        if isinstance(self._dual, _dual.Dual) and self.of_library:
            return self._dual
        given = self._dual if isinstance(self._dual, _dual.Dual) else _dual.FromMaps(self._dual)
        return _checked(given, self)

    def table(self, q_low: float, q_high: float, dtype: tf.DType = tf.float64) -> Any:
        """The dual maps for variances in [q_low, q_high], as a NamedTuple of arrays.

        A table goes into a compiled program as data; its `dual(dtype, variance)` evaluates it, also
        where the arrays have become tensors.

        Args:
            q_low: the smallest variance, not negative.
            q_high: the largest.
            dtype: tf.float64, or tf.float32 for a shorter table.

        Raises:
            ValueError: if phi can't be resolved at these variances; the message says what to do.
        """
        return _tables.build_table(self, float(q_low), float(q_high), dtype)

    def dual(self, q_low: float, q_high: float, dtype: tf.DType = tf.float64) -> "_dual.Dual":
        """The dual maps for variances in [q_low, q_high]: the closed form, or that of a table.

        Example:
            >>> one = tf.ones([], tf.float64)
            >>> value, slope = mfcnn.activations.get("abs").dual(1.0, 1.0).maps(one, one, one)
            >>> float(value), float(slope)
            (1.0, 1.0)
        """
        return self.closed_form or self.table(q_low, q_high, dtype).dual(dtype)

    @functools.cached_property
    def homogeneity(self) -> float | None:
        """The factor in E[phi^2] = homogeneity * q, or None."""
        x = np.array([-3.0, -0.7, 0.0, 1.3, 8.0])
        values = self._numerical.phi(x)
        for t in (2.0**-20, 0.5, 2.0**20):  # powers of two: exact, so equality is exact
            if np.any(self._numerical.phi(t * x) != t * values):
                return None
        return float(np.mean(self._numerical.phi(np.array([-1.0, 1.0])) ** 2))

    def kinks(self) -> np.ndarray:
        """Where phi or phi' jumps, ascending."""
        return self._numerical.panels[1]

    def slopes_at_zero(self) -> np.ndarray:
        """Slopes phi' to the left and to the right of 0, float64 [2]."""
        return self._numerical.phi_prime(np.array([-1e-150, 1e-150]))

    def at_zero(self) -> tuple[float, float]:
        """(phi(0), (phi'(-0)^2 + phi'(+0)^2) / 2): what decides whether q* = 0 is stable."""
        slopes = self.slopes_at_zero()
        return float(self._numerical.phi(np.zeros(1))[0]), float(np.mean(slopes**2))

    def hermite_basis(self, largest: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Nodes z and a matrix that expand phi(sqrt(q) z) in Hermite polynomials, for q <= largest.

        Returns:
            (z [m], matrix [m, order]) with phi(sqrt(q) z) @ matrix = E[phi He_k] / sqrt(k!), the
            sum of whose squares is E[phi^2] to 1e-13; None where phi has a kink or needs over 400
            terms.
        """
        return self._numerical.hermite_basis(float(largest))

    def derivative_distribution(self, q: float) -> tuple[np.ndarray, np.ndarray]:
        """(values, weights) such that E[f(phi'(u))] = weights @ f(values) for u ~ N(0, q)."""
        return self._numerical.derivative_distribution(float(q))

    def second_moment(self, q: Any) -> np.ndarray:
        """E[phi(u)^2] for u ~ N(0, q).

        Args:
            q: variances, positive float64 scalar or array.

        Returns:
            float64 of the same shape.

        Raises:
            ValueError: if q is not positive and finite.

        Example:
            >>> float(mfcnn.activations.get("relu").second_moment(3.0))
            1.5
        """
        return _apply(self._moments.second, q)

    def derivative_second_moment(self, q: Any) -> np.ndarray:
        """E[phi'(u)^2] for u ~ N(0, q); weight_variance times it is chi_1. As `second_moment`."""
        return _apply(self._moments.derivative, q)

    def second_moment_slope(self, q: Any) -> np.ndarray:
        """d/dq E[phi(u)^2] = E[phi'^2 + phi phi'']; weight_variance times it is chi_q."""
        return _apply(self._moments.slope, q)

    def mean(self, q: Any) -> np.ndarray:
        """E[phi(u)] for u ~ N(0, q). As `second_moment`."""
        return _apply(self._moments.mean, q)

    def deficit(self, q: Any) -> np.ndarray:
        """The difference q E[phi'^2] - E[phi^2], without cancellation.

        Divided by E[phi'^2] it is the bias_variance at which chi_1 = 1 and q* = q.
        """
        return _apply(self._moments.deficit, q)

    def covariance(self, q: Any, c: Any) -> np.ndarray:
        """E[phi(u) phi(v)] for u, v ~ N(0, q) with correlation c.

        Args:
            q: variances, positive float64 scalar or array.
            c: correlations in [-1, 1], broadcast against q.

        Returns:
            float64 of the broadcast shape.
        """
        q, c = np.broadcast_arrays(arguments.variances("q", q, positive=True), 1 - _gap(c))
        return self.second_moment(q) - q * (1 - c) * self.covariance_secant(q, c)

    def derivative_covariance(self, q: Any, c: Any) -> np.ndarray:
        """E[phi'(u) phi'(v)]; weight_variance times it at c* is chi_c. As `covariance`."""
        return _apply(lambda q, gap: self._moments.pair(q).derivative(gap), q, _gap(c))

    def covariance_secant(self, q: Any, c: Any) -> np.ndarray:
        """(E[phi(u)^2] - E[phi(u) phi(v)]) / (q (1 - c)), exact as c -> 1. As `covariance`."""
        return _apply(lambda q, gap: self._moments.pair(q).secant(gap), q, _gap(c))

    def pair_moments(self, q: np.ndarray) -> Any:
        """Two-point moments at q [n], prepared for many correlations: derivative, secant (gap)."""
        return self._moments.pair(q)


def _checked(dual: "_dual.Dual", activation: Activation) -> "_dual.Dual":
    """A user's dual maps, if they are those of phi."""
    q = np.array([0.6, 0.6, 1.7])
    c = np.array([0.3, 1.0, 0.9])
    found = dual.maps(*map(tf.constant, (q, q, c * q)))
    numerical = Activation(activation.phi, activation.phi_prime)
    for name, values, moment, size in zip(
        ("E[phi phi]", "E[phi' phi']"),
        found,
        (numerical.covariance, numerical.derivative_covariance),
        (numerical.second_moment, numerical.derivative_second_moment),
    ):
        expected = moment(q, c)
        if not np.all(np.abs(values - expected) < 1e-6 * size(q)):
            raise ValueError(
                f"dual of activation {activation.name!r} does not fit phi: at the variances {q} "
                f"and correlations {c} it gives {name} = {np.asarray(values)}, quadrature of phi "
                f"{expected}."
            )
    return dual


def _gap(c: Any) -> np.ndarray:
    c = arguments.array("c", c)
    if np.any(np.abs(c) > 1):
        raise ValueError(f"c must lie in [-1, 1]. Received: c={c!r}")
    return 1.0 - c


def _apply(function: Callable, q: Any, *rest: np.ndarray) -> np.ndarray:
    q = arguments.variances("q", q, positive=True)
    arrays = np.broadcast_arrays(q, *rest)
    return function(*map(np.ravel, arrays)).reshape(arrays[0].shape)[()]
