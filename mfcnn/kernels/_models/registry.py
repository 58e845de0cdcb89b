"""Which rule reads a layer: that of its class, or of a base of which it overrides nothing."""

import hashlib
from collections.abc import Callable
from typing import Any

import keras

__all__ = ["find", "newer_layers", "register_layer_rule", "rule_of"]

# What a subclass may define for itself: how it is made, saved and shown, and names of its own.
_HARMLESS = frozenset(
    """__module__ __doc__ __init__ __qualname__ __annotations__ __dict__ __weakref__
    __firstlineno__ __static_attributes__ __abstractmethods__ _abc_impl __slots__ __repr__ __str__
    get_config from_config get_build_config build_from_config compute_output_shape
    compute_output_spec count_params save_own_variables load_own_variables compute_mask
    symbolic_call clone _api_export_path _api_export_symbol_id""".split()
)
# What Keras itself puts on an object.
_WRAPPED = frozenset(("build", "quantize"))

_RULES: dict[type, Callable[..., Any]] = {}
_REFUSALS: dict[type, str] = {}


def find(kind: type, known: Any) -> tuple[type | None, list[str]]:
    """The nearest base of a class among those known, and what the class overrides of it.

    Args:
        kind: a class.
        known: a container of classes.

    Returns:
        (base, names): base is None where none is known; names of methods and attributes of the
        base that the class, or one between the two, defines anew, apart from how it is made, saved
        and shown.
    """
    for place, base in enumerate(kind.__mro__):
        if base in known:
            # Mixed-in classes count as well: all that come before the base.
            defined = [name for between in kind.__mro__[:place] for name in vars(between)]
            names = {n for n in defined if n not in _HARMLESS and hasattr(base, n)}
            return base, sorted(names)
    return None, []


def newer_layers(*names: str) -> list[type]:
    """Keras's layers of these names, without those that an older Keras does not have."""
    return [getattr(keras.layers, name) for name in names if hasattr(keras.layers, name)]


def register_layer_rule(layer_class: type) -> Callable[[Callable], Callable]:
    """Registers how `from_keras` reads a layer class of your own.

    The rule is a function of a `call` and the signals that come in, and returns a signal. The call
    has the attributes `layer`, `sizes` (the output's image size) and `refuse(reason)`, which raises
    the error that names the layer. Of a signal there are `signal.scaled(factor)`,
    `signal.activated(call, function)`, `signal.affine(call, weight_variance, bias_variance)`, and
    sums `signal + other`. Subclasses count as the class where they override nothing of it.

    Args:
        layer_class: a subclass of `keras.layers.Layer`.

    Returns:
        A decorator, which returns the function unchanged.

    Raises:
        TypeError: if it is not a layer class, or a rule is not callable.

    Example:
        >>> import keras, mfcnn
        >>> class Halve(keras.layers.Layer):
        ...     def call(self, x):
        ...         return x / 2
        >>> @mfcnn.kernels.register_layer_rule(Halve)
        ... def halve(call, signal):
        ...     return signal.scaled(0.5)
        >>> model = keras.Sequential(
        ...     [keras.Input([2]), keras.layers.Dense(8), Halve(), keras.layers.Dense(1)])
        >>> kernel = mfcnn.kernels.from_keras(model)
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        raise TypeError(
            "layer_class must be a subclass of keras.layers.Layer. "
            f"Received: layer_class={layer_class!r}"
        )
    return rule(layer_class)


def rule(*classes: type) -> Callable[[Callable], Callable]:
    """Registers a function for classes, Keras's operations too."""

    def decorate(function: Callable) -> Callable:
        if not callable(function):
            raise TypeError(f"a rule must be a function. Received: {function!r}")
        for kind in classes:
            _RULES[kind] = function
            _REFUSALS.pop(kind, None)
        return function

    return decorate


def refuse(reason: str, *classes: type) -> None:
    """Registers why classes have no kernel."""
    for kind in classes:
        _REFUSALS[kind] = reason


def registered() -> dict[type, Any]:
    """All classes with a rule or a refusal."""
    return {**_RULES, **_REFUSALS}


def identity(kind: type) -> str:
    """What identifies the rule of a class: its name, and a digest of its code."""
    function = _RULES.get(kind)
    code = getattr(function, "__code__", None)
    digest = ""
    if code is not None:
        digest = hashlib.sha256(code.co_code + repr(code.co_consts).encode()).hexdigest()[:16]
    name = getattr(function, "__qualname__", "")
    return f"{kind.__module__}.{kind.__qualname__} {name} {digest}"


def rule_of(operation: Any) -> tuple[Callable[..., Any] | None, str]:
    """The rule of a layer or operation, or None and the reason why there is none."""
    kind = type(operation)
    base, overridden = find(kind, registered())
    instance = sorted(
        name
        for name, value in vars(operation).items()
        if callable(value) and callable(getattr(kind, name, None)) and name not in _WRAPPED
    )
    advice = "give it a rule of its own: mfcnn.kernels.register_layer_rule"
    if base is None:
        return None, f"its class is not known; {advice}"
    if overridden or instance:
        names = ", ".join(overridden or instance)
        return None, f"it changes {names} of {base.__name__}; {advice}"
    if base in _REFUSALS:
        return None, _REFUSALS[base]
    return _RULES[base], ""
