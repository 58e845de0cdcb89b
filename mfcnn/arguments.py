"""Arguments: one rule and one message for each kind of value that public functions take.

Each function returns the value in the form that the code works with, or raises

    <name> must be <what is accepted>. Received: <name>=<value>

A value of the wrong kind (a string for a number, True for an integer) raises `ArgumentTypeError`,
which is both a TypeError and a ValueError, since Keras and NumPy raise either; a value of the right
kind outside the range raises a ValueError. NumPy's integers and floats count as Python's; booleans
are not numbers; NaN is never accepted.

    depth = arguments.depth(depth)                                # int, at least 1
    weight_variance = arguments.variance("weight_variance", weight_variance)
    padding = arguments.choice("padding", padding, ("circular", "same"))
"""

import math
import numbers
import os
import pathlib
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

__all__ = [
    "ArgumentTypeError",
    "array",
    "boolean",
    "choice",
    "depth",
    "depths",
    "function",
    "initializer",
    "integer",
    "integers",
    "interpreted",
    "matrix",
    "model",
    "number",
    "path",
    "seed",
    "seed_or_drawn",
    "sizes",
    "text",
    "variance",
    "variances",
]


_INITIALIZER = "a Keras initializer, its name or configuration, or a function of shape and dtype"


class ArgumentTypeError(TypeError, ValueError):
    """A value of the wrong kind."""


def integer(name: str, value: Any, least: int | None = None, greatest: int | None = None) -> int:
    """An integer, NumPy's too, within [least, greatest]; 3.0, True and "3" are not integers.

    Raises:
        ArgumentTypeError: if it is not an integer.
        ValueError: if it is outside the range.
    """
    if least is None and greatest is None:
        accepted = "an integer"
    elif greatest is None:
        accepted = f"an integer of at least {least}"
    elif least is None:
        accepted = f"an integer of at most {greatest}"
    else:
        accepted = f"an integer from {least} to {greatest}"
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not isinstance(value, numbers.Integral) or isinstance(value, (bool, np.bool_)):
        raise ArgumentTypeError(_message(name, accepted, value))
    result = int(value)
    if (least is not None and result < least) or (greatest is not None and result > greatest):
        raise ValueError(_message(name, accepted, value))
    return result


def integers(name: str, value: Any, least: int | None = None) -> tuple[int, ...]:
    """A non-empty sequence of integers of at least `least`, as a tuple."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ArgumentTypeError(_message(name, "a sequence of integers", value))
    result = tuple(integer(name, entry, least) for entry in value)
    if not result:
        raise ValueError(_message(name, "a sequence of integers that is not empty", value))
    return result


def depth(value: Any, least: int = 1, name: str = "depth") -> int:
    """The number of hidden layers: the one rule for every `depth` of the package."""
    return integer(name, value, least)


def depths(value: Any, least: int = 0, name: str = "depth") -> int | tuple[int, ...]:
    """One depth, or a sequence of them as a tuple."""
    if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) and np.ndim(value):
        return integers(name, value, least)
    return depth(value, least, name)


def number(
    name: str,
    value: Any,
    least: float = -math.inf,
    greatest: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    infinite: bool = False,
) -> float:
    """A real number as a float, finite unless `infinite`, within its bounds.

    Args:
        name: of the argument, for the message.
        value: a Python or NumPy number, or an array or tensor of one element without axes.
        least: the smallest value accepted.
        greatest: the largest.
        above: a bound that is itself refused.
        below: likewise, from above.
        infinite: whether inf is accepted, where the range allows it.

    Raises:
        ArgumentTypeError: for anything but a real number.
        ValueError: for NaN, an infinite value, or one outside the range.
    """
    accepted = _range(least, greatest, above, below, infinite)
    result = _real(name, value, accepted)
    inside = least <= result <= greatest and above <= result <= below
    inside = inside and not (result == above > -math.inf) and not (result == below < math.inf)
    if not inside or (math.isinf(result) and not infinite):
        raise ValueError(_message(name, accepted, value))
    return result


def variance(name: str, value: Any, positive: bool = False) -> float:
    """A variance: finite and not negative, or with `positive` above zero."""
    return number(name, value, above=0) if positive else number(name, value, 0)


def variances(name: str, value: Any, positive: bool = False) -> np.ndarray:
    """One variance or an array of them as float64; see `variance`."""
    values = array(name, value)
    if not np.all(values > 0 if positive else values >= 0):
        kind = "positive" if positive else "not negative"
        raise ValueError(_message(name, f"finite and {kind}", value))
    return values


def boolean(name: str, value: Any) -> bool:
    """True or False, NumPy's too."""
    if not isinstance(value, (bool, np.bool_)):
        raise ArgumentTypeError(_message(name, "True or False", value))
    return bool(value)


def choice(name: str, value: Any, accepted: Iterable[Any]) -> Any:
    """One of a few values."""
    accepted = tuple(accepted)
    if not any(type(value) is type(one) and value == one for one in accepted):
        listed = ", ".join(map(repr, accepted))
        raise ValueError(_message(name, f"one of {listed}", value))
    return value


def function(name: str, value: Any) -> Callable:
    """Anything that can be called."""
    if not callable(value):
        raise ArgumentTypeError(_message(name, "callable", value))
    return value


def path(name: str, value: Any) -> pathlib.Path:
    """The path of a file or folder, from text or anything that has one."""
    if not isinstance(value, (str, os.PathLike)):
        raise ArgumentTypeError(_message(name, "a path", value))
    if not os.fspath(value):
        raise ValueError(_message(name, "a path that is not empty", value))
    return pathlib.Path(value)


def text(name: str, value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise ArgumentTypeError(_message(name, "a string", value))
    return value


def seed(value: Any, name: str = "seed") -> int | None:
    """A seed: an integer of at least zero, or None where Keras's global seed counts."""
    if value is None:
        return None
    try:
        return integer(name, value, 0)
    except ValueError as error:
        raise type(error)(_message(name, "an integer of at least 0 or None", value)) from None


def seed_or_drawn(value: Any, name: str = "seed") -> int:
    """A seed; for None one from the generator that `keras.utils.set_random_seed` seeds."""
    checked = seed(value, name)
    # As Keras's own unseeded initializers and layers do.
    return random.randint(1, 10**9) if checked is None else checked


def sizes(name: str, value: Any, rank: int, least: int = 1) -> tuple[int, ...]:
    """A size for each of `rank` axes, from one integer or one an axis."""
    many = isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str)
    if not many or np.ndim(value) == 0:
        return (integer(name, value, least),) * rank
    result = integers(name, value, least)
    if len(result) != rank:
        raise ValueError(
            _message(name, f"an integer or {rank} of them, one for each spatial axis", value)
        )
    return result


def array(name: str, value: Any) -> np.ndarray:
    """An array of finite real numbers in float64, of any shape.

    Raises:
        ArgumentTypeError: for what is not an array of real numbers.
        ValueError: for NaN or infinite entries.
    """
    try:
        values = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(_message(name, "an array of real numbers", value)) from error
    if values.dtype.name != "bfloat16" and values.dtype.kind not in "fiu":
        if not (values.dtype.kind == "b" and values.ndim):
            raise ArgumentTypeError(_message(name, "an array of real numbers", value))
    values = values.astype(np.float64)
    if not np.all(np.isfinite(values)):
        raise ValueError(_message(name, "finite", value))
    return values


def interpreted(name: str, value: Any, get: Callable[[Any], Any], accepted: str) -> Any:
    """What a getter of Keras makes of an identifier: an initializer, an activation, a policy.

    Args:
        name: the argument's name.
        value: an object of that kind, its name, configuration or None.
        get: Keras's getter, which raises for what it does not know.
        accepted: what to say that it takes.

    Raises:
        ArgumentTypeError: for what it does not know, an unknown name too.
    """
    try:
        return get(value)
    except (TypeError, ValueError, AttributeError) as error:
        raise ArgumentTypeError(_message(name, accepted, value)) from error


def initializer(name: str, value: Any) -> Any:
    """A Keras initializer, from its name or configuration too."""
    import keras

    found = interpreted(name, value, keras.initializers.get, _INITIALIZER)
    if found is None:
        raise ArgumentTypeError(_message(name, _INITIALIZER, value))
    return found


def model(value: Any, name: str = "model") -> Any:
    """A keras.Model, or the one in the file of a path, loaded without its optimizer.

    Raises:
        ArgumentTypeError: for anything else.
        ValueError: for a file that cannot be loaded.
    """
    import keras

    accepted = "a keras.Model or the path of one"
    if isinstance(value, (str, os.PathLike)):
        try:
            value = keras.saving.load_model(value, compile=False)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"{name} must be {accepted} that can be loaded. Received: {name}={value!r}: {error}"
            ) from error
    if not isinstance(value, keras.Model):
        raise ArgumentTypeError(f"{name} must be {accepted}. Received: {name}={value!r:.200}")
    return value


def matrix(name: str, value: Any, square: bool = False) -> np.ndarray:
    """A finite real matrix [m, n] in float64, not empty; with `square` [n, n]."""
    values = array(name, value)
    if values.ndim != 2 or not values.size or (square and values.shape[0] != values.shape[1]):
        accepted = "a square matrix [n, n]" if square else "a matrix [m, n]"
        raise ValueError(f"{name} must be {accepted}. Received: {name}.shape={values.shape}")
    return values


def _real(name: str, value: Any, accepted: str) -> float:
    if hasattr(value, "shape"):  # NumPy's scalars, arrays and tensors
        value = np.asarray(value)
        if value.ndim or value.dtype.kind not in "fiu":
            raise ArgumentTypeError(_message(name, accepted, value))
        return float(value)
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ArgumentTypeError(_message(name, accepted, value))
    return float(value)


def _range(least: float, greatest: float, above: float, below: float, infinite: bool) -> str:
    bounds = [
        f"of at least {least:g}" if least > -math.inf else "",
        f"above {above:g}" if above > -math.inf else "",
        f"of at most {greatest:g}" if greatest < math.inf else "",
        f"below {below:g}" if below < math.inf else "",
    ]
    stated = " and ".join(bound for bound in bounds if bound)
    kind = "a number" if infinite or greatest < math.inf or below < math.inf else "a finite number"
    return f"{kind} {stated}".strip()


def _message(name: str, accepted: str, value: Any) -> str:
    shown = " ".join(repr(value).split())  # arrays too on one line
    if len(shown) > 200:
        shown = shown[:200] + "..."
    return f"{name} must be {accepted}. Received: {name}={shown}"
