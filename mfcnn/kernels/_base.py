"""What the kernels of all architectures share: identity, arguments, the form of the answer."""

import functools
import inspect
import math
from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn import activations, arguments
from mfcnn.kernels import _blocks, _function, _identity, _products

__all__ = ["Kernel", "identities"]


class Kernel:
    """The NNGP and NTK of one architecture, as a function of two batches of inputs.

    A subclass keeps every argument of its constructor in an attribute of the same name, and writes
    `_check` and `_evaluate`. From the constructor's signature come `config`, the repr, the keys of
    compiled programs and the identity of stored blocks: none of them can forget an argument.

    Example:
        >>> kernel = mfcnn.kernels.fully_connected(3, "relu", 2.0, 0.0)
        >>> isinstance(kernel, mfcnn.kernels.Kernel), kernel.config["depth"]
        (True, 3)
        >>> nngp, ntk = kernel([[1.0, 1.0], [1.0, -1.0]])
        >>> np.diag(nngp), np.diag(ntk)
        (array([2., 2.]), array([8., 8.]))
        >>> bool(kernel([[1.0, 1.0]], [[1.0, -1.0]], get="ntk")[0, 0] == ntk[0, 1])
        True
    """

    dtype = tf.float64
    _name = "kernel"  # of the public function that makes it
    _takes_log_scale = False

    @property
    def config(self) -> dict[str, Any]:
        """All arguments of the constructor by name: what identifies this kernel."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __repr__(self) -> str:
        """The call that makes it, on one line."""
        parts = (f"{name}={_identity.short(value)}" for name, value in self.config.items())
        return f"{self._name}({', '.join(parts)})"

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments in the form that scikit-learn and pickle copy."""
        return {name: _plain(value) for name, value in self.config.items()}

    def set_params(self, **params: Any) -> "Kernel":
        """Makes this object the kernel of other arguments; for scikit-learn's grid searches."""
        unknown = set(params) - set(self.config)
        if unknown:
            raise ValueError(
                f"a {self._name} kernel has the arguments {', '.join(self.config)}. "
                f"Received: {', '.join(sorted(unknown))}"
            )
        config = self.config | params
        self.__dict__.clear()  # with what was computed from the former arguments
        self.__init__(**config)  # type: ignore[misc]
        return self

    def __sklearn_clone__(self) -> "Kernel":
        return type(self)(**self.config)

    def __reduce__(self) -> Any:
        """Pickled as the call that makes it."""
        return _made, (type(self), self.get_params())

    def __call__(
        self,
        x1: Any,
        x2: Any = None,
        get: str | Sequence[str] = ("nngp", "ntk"),
        *,
        log_scale: bool = False,
        progress: bool = False,
        output_dir: Any = None,
    ) -> Any:
        """Evaluates the kernel on all pairs of inputs.

        Args:
            x1: inputs, [n1, ...].
            x2: inputs, [n2, ...]; None is x1, at half the cost.
            get: "nngp", "ntk", or a tuple of them.
            log_scale: True returns the NTK divided by exp(log_scale), with log_scale as a further
                field: finite in the chaotic phase at any depth.
            progress: True writes a progress bar to stdout.
            output_dir: a directory that keeps finished blocks; a second call goes on from them.

        Returns:
            A namedtuple of the fields asked for, [n1, n2] each in the kernel's dtype (and
            log_scale, a scalar); the bare tensor if `get` is a string and log_scale is False. A
            kernel of several depths puts them in front: [depths, n1, n2], log_scale [depths].

        Raises:
            ValueError: for inputs of a wrong shape, an unknown field, non-finite inputs, or an
                output_dir that holds the blocks of anything else.
            OverflowError: if the result is not finite in this dtype.
        """
        fields = _fields(get)
        log_scale = arguments.boolean("log_scale", log_scale)
        if log_scale and not self._takes_log_scale:
            raise ValueError(f"log_scale must be False for {self._name}. Received: log_scale=True")
        x1 = self._inputs("x1", x1)
        x2 = None if x2 is None else self._inputs("x2", x2)
        if x2 is not None and x1.shape[1:] != x2.shape[1:]:
            raise ValueError(
                f"x1 and x2 must have inputs of one shape. Received: {x1.shape} and {x2.shape}"
            )
        problem = functools.partial(self._problem, x1, x2, log_scale)
        run = _blocks.Run(problem, progress, output_dir, fields)
        nngp, ntk, scale = self._evaluate(x1, x2, log_scale, run)
        values = {"nngp": nngp, "ntk": ntk, "log_scale": scale}
        self._check_finite({field: values[field] for field in fields})
        if isinstance(get, str) and not log_scale:
            return values[get]
        fields = (*fields, "log_scale") if log_scale else fields
        return _restored(fields, [values[field] for field in fields])

    @property
    def sees_angles_only(self) -> bool:
        """Whether inputs enter through their norms and angles alone: `function` then exists."""
        return False

    def function(self, mean_square: float = 1.0, features: int = 2) -> _function.KernelFunction:
        """The kernel of inputs of one norm, as a function of their correlation.

        Args:
            mean_square: |x|^2 / features of all inputs, positive.
            features: size of an input, where the kernel's own architecture fixes it.

        Returns:
            A `KernelFunction`: function(correlation, get="ntk"), at a cost that does not depend on
            the depth.

        Raises:
            ValueError: for a kernel that is no function of the angle (convolutions, several
                depths), or one that is too deep in the chaotic phase for a series.

        Example:
            >>> import mfcnn
            >>> kernel = mfcnn.kernels.fully_connected(100, "relu", 2.0, 0.0)
            >>> float(kernel.function()(1.0, get="nngp").numpy().round(6))
            2.0
        """
        if not self.sees_angles_only:
            raise ValueError(
                "function needs a kernel of one depth that sees inputs through norms and angles "
                f"alone: dense layers. Received: {self!r}"
            )
        return _function.tabulate(self, features, mean_square)

    def matvec(
        self, v: Any, x1: Any, x2: Any = None, get: str = "ntk", block_size: int = 2048
    ) -> np.ndarray:
        """The product K(x1, x2) v by blocks that are computed, used and dropped.

        Args:
            v: [n2, k] or [n2].
            x1: inputs [n1, ...].
            x2: inputs [n2, ...]; None is x1, at half the cost.
            get: "ntk" or "nngp".
            block_size: rows and columns of a block in memory.

        Returns:
            float64 [n1, k], or [n1] for one vector.

        Raises:
            ValueError: for a v of another length, and what the kernel refuses.

        Example:
            >>> import mfcnn, numpy as np
            >>> kernel = mfcnn.kernels.fully_connected(2, "erf", 1.5, 0.1)
            >>> kernel.matvec(np.ones([5, 3]), np.eye(5)).shape
            (5, 3)
        """
        return _products.matvec(self, v, x1, x2, get, block_size)

    def _check(self, name: str, x: tf.Tensor) -> None:
        """Raises a ValueError unless x [n, ...] are inputs of this architecture."""
        raise NotImplementedError

    def _evaluate(
        self, x1: tf.Tensor, x2: tf.Tensor | None, scaled: bool, run: _blocks.Run
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """(nngp, ntk, log_scale) in the form in which they are returned."""
        raise NotImplementedError

    def _inputs(self, name: str, x: Any) -> tf.Tensor:
        # The first layer is always computed in float64: it costs one matrix product, and close
        # inputs keep their distance in float32 as well.
        x = _real(name, x)
        self._check(name, x)
        return x

    def _problem(self, x1: tf.Tensor, x2: tf.Tensor | None, scaled: bool) -> dict[str, Any]:
        """All that decides the values, as plain data; `blocks` adds how it divides the work."""
        return {
            "kernel": self._name,
            **{name: _identity.describe(value) for name, value in self.config.items()},
            "log_scale": scaled,
            "x1": _identity.describe_array(x1),
            "x2": None if x2 is None else _identity.describe_array(x2),
        }

    def _check_finite(self, values: dict[str, tf.Tensor]) -> None:
        advice = {
            "ntk": "it grows exponentially with depth in the chaotic phase. Ask for "
            + ("log_scale=True, or for float64, or for " if self._takes_log_scale else "")
            + "fewer layers.",
            "nngp": "the variance of the signal has no fixed point at this weight_variance. Ask "
            "for float64, for fewer layers, or a smaller variance.",
        }
        for field, value in values.items() if tf.executing_eagerly() else ():
            array = np.asarray(value)  # without a copy, which value.numpy() makes
            if not _finite(array):
                raise OverflowError(
                    f"the {field} of {self!r} is not finite in {self.dtype.name}: {advice[field]}"
                )


def _finite(array: np.ndarray) -> bool:
    """Whether all entries are finite, without a mask of the array's size."""
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(array.sum()):
            return True
    # Finite entries may have a sum that is not.
    return not array.size or (math.isfinite(array.min()) and math.isfinite(array.max()))


def _made(kind: type, params: dict[str, Any]) -> Kernel:
    return kind(**params)


def _plain(value: Any) -> Any:
    """A library activation by its name, a scalar tensor as a float, a dtype by its name."""
    if isinstance(value, activations.Activation):
        own = value.name in activations.NAMES and activations.get(value.name) is value
        return value.name if own else value
    if isinstance(value, tf.DType):
        return value.name
    return float(value) if tf.is_tensor(value) and value.shape.rank == 0 else value


def _fields(get: Any) -> tuple[str, ...]:
    """The fields asked for, as a tuple."""
    names = (get,) if isinstance(get, str) else get
    known = isinstance(names, (tuple, list)) and all(name in ("nngp", "ntk") for name in names)
    if not known or not names or len(set(names)) < len(names):
        raise ValueError(f"get must be 'nngp', 'ntk' or a tuple of them. Received: get={get!r}")
    return tuple(names)


def _real(name: str, x: Any) -> tf.Tensor:
    """Inputs of a network as a float64 tensor."""
    try:
        tensor = tf.convert_to_tensor(x)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array of numbers. Received: {name}={x!r}") from error
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
        raise TypeError(f"{name} must be an array of real numbers. Received: {tensor.dtype.name}")
    tensor = tensor if tensor.dtype == tf.float64 else tf.cast(tensor, tf.float64)
    if tf.executing_eagerly() and not _finite(np.asarray(tensor)):
        raise ValueError(f"{name} must be finite. Received NaN or infinite values.")
    return tensor


@functools.cache
def _answer(fields: tuple[str, ...]) -> type:
    """The one namedtuple of these fields; pickle finds it by them."""

    base: Any = namedtuple("Kernels", fields)  # type: ignore[misc]  # fields as they are asked for

    class Kernels(base):
        __slots__ = ()

        def __reduce__(self) -> tuple:
            return _restored, (fields, list(self))

    return Kernels


def _restored(fields: tuple[str, ...], values: list[tf.Tensor]) -> Any:
    return _answer(tuple(fields))(*values)


def identities(x1: tf.Tensor, x2: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Numbers that are equal for equal inputs: int32 [n1] and [n2]."""
    rows = x1 if x2 is None else tf.concat([x1, x2], 0)
    rows = tf.reshape(rows, [tf.shape(rows)[0], -1]) + 0.0
    if tf.executing_eagerly():
        # Sums of bits that all differ show in no time that there are no equal inputs.
        bits = rows.numpy().view(np.int64 if rows.dtype == tf.float64 else np.int32)
        factors = np.random.default_rng(0).integers(2**62, size=bits.shape[1])
        if np.unique(np.einsum("ij,j->i", bits, factors)).size == len(bits):
            ids = tf.range(len(bits))
            return ids[: x1.shape[0]], ids[0 if x2 is None else x1.shape[0] :]
    _, ids = tf.raw_ops.UniqueV2(x=tf.stop_gradient(rows), axis=[0])
    ids1 = ids[: x1.shape[0]]
    return ids1, ids1 if x2 is None else ids[x1.shape[0] :]
