"""The forms: activations known by name, and the TF and Keras functions and layers that they are.

A form is one file of `forms/`: a function that makes its `Activation`, registered by `form`. Its
arguments are the form's parameters, named as Keras names them:

    @form("leaky_relu", functions=(keras.activations.leaky_relu,), layers=(keras.layers.LeakyReLU,))
    def build(negative_slope=0.2): ...

so that get("leaky_relu"), get("leaky_relu", negative_slope=0.1), get("leaky_relu(0.1)"),
get(functools.partial(keras.activations.leaky_relu, negative_slope=0.1)) and
get(keras.layers.LeakyReLU(0.1)) all find it.
"""

import ast
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mfcnn.activations._activation import Activation

__all__ = ["form", "get", "keras_identifier", "names", "refuse", "register_functions"]


class Form(NamedTuple):
    """A function that makes an activation from its parameters, and what else goes by its name."""

    build: Callable[..., Activation]
    functions: tuple[Callable, ...]
    layers: tuple[type, ...]
    aliases: Mapping[str, str]


_FORMS: dict[str, Form] = {}
_REFUSED: dict[str, tuple[tuple, str]] = {}


def form(
    name: str,
    functions: tuple[Callable, ...] = (),
    layers: tuple[type, ...] = (),
    aliases: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Activation]], Callable[..., Activation]]:
    """Registers a function that makes an activation.

    Args:
        name: what `get` finds it by.
        functions: TF and Keras functions that equal it, with parameters of the same names.
        layers: Keras layers that equal it, with attributes of the same names.
        aliases: other names of parameters, as TF has alpha for negative_slope.

    Raises:
        ValueError: if the name is taken.
    """

    def register(build: Callable[..., Activation]) -> Callable[..., Activation]:
        if name in _FORMS:
            raise ValueError(f"There is a form {name!r} already.")
        _FORMS[name] = Form(build, functions, layers, aliases or {})
        return build

    return register


def refuse(name: str, functions: tuple, reason: str) -> None:
    """Registers what can't be an `Activation`, and why."""
    _REFUSED[name] = functions, reason


def register_functions() -> None:
    """Lets layers be saved and loaded with the bare functions that Keras does not know."""
    for name in _FORMS:
        if not _in_keras(name):
            keras.saving.register_keras_serializable("mfcnn", name)(_make(name, {}).phi)


def names() -> tuple[str, ...]:
    """The names of all forms."""
    return tuple(sorted(_FORMS))


def get(identifier: Any, **parameters: Any) -> Activation:
    """The Activation that a name, a function or a layer stands for.

    Args:
        identifier: a name of `NAMES`, also with parameters as in "leaky_relu(0.1)"; an
            `Activation`; a TF or Keras function, a functools.partial of one, a Keras layer
            (LeakyReLU, ELU, ReLU, Activation); or any other element-wise function of a tensor,
            whose derivative TensorFlow finds.
        **parameters: of a form that has some, as negative_slope of leaky_relu.

    Returns:
        An `Activation`; the same object for the same name and parameters.

    Raises:
        ValueError: for an unknown name (the message lists the accepted ones), a function that mixes
            elements, and one whose moments don't exist.
        TypeError: for anything else, and for a parameter that the form does not have.

    Example:
        >>> mfcnn.activations.get("tanh")
        Activation('tanh')
        >>> mfcnn.activations.get("leaky_relu", negative_slope=0.1)
        Activation('leaky_relu(negative_slope=0.1)')
        >>> mfcnn.activations.get(keras.layers.LeakyReLU(0.1))
        Activation('leaky_relu(negative_slope=0.1)')
    """
    if isinstance(identifier, Activation):
        return identifier
    if isinstance(identifier, str):
        return _named(identifier, parameters)
    if isinstance(identifier, functools.partial):
        given = inspect.signature(identifier.func).bind_partial(
            None, *identifier.args, **identifier.keywords
        )
        _, *bound = given.arguments.items()
        return get(identifier.func, **dict(bound), **parameters)
    found = _known(identifier, parameters)
    if found is not None:
        return found
    if callable(identifier):
        return _from_function(
            functools.partial(identifier, **parameters) if parameters else identifier
        )
    raise TypeError(
        "activation must be a name, an Activation, a Keras layer or an element-wise function. "
        f"Received: {identifier!r}"
    )


def _known(identifier: Any, parameters: dict[str, Any]) -> Activation | None:
    """The form that a function or a layer of TF or Keras is."""
    if isinstance(identifier, keras.layers.Activation):
        return get(identifier.activation)
    for name, (functions, reason) in _REFUSED.items():
        if any(identifier is f or type(identifier) is f for f in functions):
            raise ValueError(f"{name} is no activation here: {reason}. Received: {identifier!r}")
    for name, entry in _FORMS.items():
        if type(identifier) in entry.layers:
            signature = inspect.signature(entry.build)
            return _make(name, {key: getattr(identifier, key) for key in signature.parameters})
        if any(identifier is f for f in entry.functions) or identifier is _make(name, {}).phi:
            return _make(name, parameters)
    return None


def keras_identifier(activation: Any) -> Any:
    """What Keras's layers take for an activation: Keras's name if there is one, else itself.

    Args:
        activation: what `get` takes.

    Returns:
        A string or an `Activation`.

    Example:
        >>> [mfcnn.activations.keras_identifier(mfcnn.activations.get(n)) for n in ("tanh", "erf")]
        ['tanh', Activation('erf')]
    """
    activation = get(activation)
    name = activation.name
    known = name in _FORMS and activation is _make(name, {}) and _in_keras(name)
    return name if known else activation


def _in_keras(name: str) -> bool:
    """Whether Keras finds a function of the tensor alone by this name; its threshold wants more."""
    function = getattr(keras.activations, name, None)
    if function is None:
        return False
    _, *others = inspect.signature(function).parameters.values()
    return all(parameter.default is not parameter.empty for parameter in others)


def _named(identifier: str, parameters: dict[str, Any]) -> Activation:
    name, _, rest = identifier.partition("(")
    if name in _REFUSED:
        raise ValueError(f"{name} is no activation here: {_REFUSED[name][1]}.")
    if name not in _FORMS:
        raise ValueError(
            f"activation must be one of {', '.join(names())}. Received: {identifier!r}"
        )
    if rest:
        try:
            call = ast.parse(identifier, mode="eval").body
            assert isinstance(call, ast.Call)
            given = [ast.literal_eval(a) for a in call.args]
            keywords = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        except (SyntaxError, ValueError, AssertionError) as error:
            raise ValueError(
                f"activation must be a name, with parameters as in 'leaky_relu(0.1)'. "
                f"Received: {identifier!r}"
            ) from error
        bound = inspect.signature(_FORMS[name].build).bind_partial(*given, **keywords)
        parameters = {**bound.arguments, **parameters}
    return _make(name, parameters)


def _make(name: str, parameters: Mapping[str, Any]) -> Activation:
    """The one object of a form and its parameters."""
    entry = _FORMS[name]
    parameters = {entry.aliases.get(key, key): value for key, value in parameters.items()}
    signature = inspect.signature(entry.build)
    unknown = set(parameters) - set(signature.parameters)
    if unknown:
        accepted = ", ".join(signature.parameters) or "none"
        raise TypeError(
            f"activation {name!r} has the parameters {accepted}. Received: {sorted(unknown)}"
        )
    changed = {
        key: _plain(parameters.get(key, parameter.default))
        for key, parameter in signature.parameters.items()
        if key in parameters and _plain(parameters[key]) != parameter.default
    }
    return _cached(name, tuple(changed.items()))


@functools.lru_cache(maxsize=1024)
def _cached(name: str, parameters: tuple[tuple[str, Any], ...]) -> Activation:
    activation = _FORMS[name].build(**dict(parameters))
    given = ", ".join(f"{key}={value!r}" for key, value in parameters)
    activation.name = f"{name}({given})" if given else name
    activation.of_library = True
    return activation


def _plain(value: Any) -> Any:
    """Python's own number or tuple of numbers, hashable."""
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return tuple(map(_plain, value))
    return value.item() if hasattr(value, "item") else value


@functools.lru_cache(maxsize=256)
def _from_function(function: Callable) -> Activation:
    """An element-wise function with the derivative that TensorFlow finds."""
    name = getattr(function, "__name__", type(function).__name__)
    x = tf.constant(np.linspace(-3.7, 4.1, 14).reshape(7, 2))
    try:
        whole = np.asarray(function(x))
        alone = np.asarray(function(x[2:3, 1:]))
    except Exception as error:
        raise TypeError(
            f"activation {name!r} must be an element-wise function of a float64 tensor, or given "
            f"as mfcnn.activations.Activation(phi, phi_prime). It raised: {error}"
        ) from error
    if whole.shape != x.shape or not np.allclose(whole[2:3, 1:], alone, rtol=1e-9):
        raise ValueError(f"activation {name!r} is no activation here: it couples the channels.")

    def derivative(z: Any) -> tf.Tensor:
        z = tf.convert_to_tensor(z)
        with tf.GradientTape() as tape:
            tape.watch(z)
            y = function(z)
        return tape.gradient(y, z, unconnected_gradients="zero")

    def phi(z: Any) -> tf.Tensor:
        return function(tf.convert_to_tensor(z))

    return Activation(phi, derivative, name=name)
