"""Learning rates that differ from layer to layer, for any Keras optimizer."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from mfcnn import arguments

__all__ = ["check_rates", "factors_of", "scaled_rates"]


def scaled_rates(
    optimizer: keras.optimizers.Optimizer, rates: Mapping[str, float]
) -> keras.optimizers.Optimizer:
    """The same optimizer, whose learning rate is multiplied by a factor in some layers.

    A deep block of equal layers asks for a rate that falls like 1 / depth, since all of them turn
    the output together. The few layers around it do not: at its rate they stand still.

    Args:
        optimizer: a Keras optimizer that is not built yet; its schedule stays.
        rates: factors, positive, by name of a layer: of all variables whose path has that name as
            a part. Variables of no such layer keep the rate. Weight decay is not scaled.

    Returns:
        An optimizer of a subclass of its class; models that are compiled with it are saved and
        loaded as any other where its class is one of Keras's.

    Raises:
        ValueError: for a factor that is not positive; when it is built, for a name that no
            variable's path has, or a variable that two names fit.
        TypeError: for anything but a Keras optimizer with steps of its own (LossScaleOptimizer
            and MultiOptimizer leave them to others) and a mapping.

    Example:
        >>> adam = mfcnn.training.scaled_rates(keras.optimizers.Adam(1e-5), {"logits": 100.0})
        >>> type(adam).__name__, isinstance(adam, keras.optimizers.Adam)
        ('ScaledAdam', True)
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(f"optimizer must be a Keras optimizer. Received: optimizer={optimizer!r}")
    if not _makes_steps(type(optimizer)):
        raise TypeError(
            "optimizer must make its steps itself: scale the rates of the optimizers inside. "
            f"Received: optimizer={optimizer!r}"
        )
    checked = check_rates(rates)
    kind: Any = type(optimizer)
    return _scaled(kind).from_config({**optimizer.get_config(), "rates": checked})


def check_rates(rates: Any) -> dict[str, float]:
    """The factors by name, if they are positive numbers."""
    if not isinstance(rates, Mapping):
        raise TypeError(f"rates must map names of layers to factors. Received: rates={rates!r}")
    return {
        str(name): arguments.number(f"rates[{name!r}]", factor, above=0)
        for name, factor in rates.items()
    }


def factors_of(rates: Mapping[str, float], paths: Sequence[str]) -> list[float]:
    """The factor of each variable, by its path; all names have to be met, each path by one."""
    met = [[name for name in rates if name in path.split("/")] for path in paths]
    for path, names in zip(paths, met):
        if len(names) > 1:
            raise ValueError(
                f"rates must name each variable once. Received: {', '.join(names)} for {path}"
            )
    missing = set(rates) - {name for names in met for name in names}
    if missing:
        raise ValueError(
            "rates must name layers that have trainable variables. Received: "
            f"{', '.join(sorted(missing))}"
        )
    return [rates[names[0]] if names else 1.0 for names in met]


@functools.cache
def _scaled(base: Any) -> Any:
    class Scaled(base):
        def __init__(self, *args: Any, rates: Mapping[str, float], **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.rates = dict(rates)

        def build(self, variables: Any) -> None:
            self._factors = factors_of(self.rates, [variable.path for variable in variables])
            super().build(variables)

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            factor = self._factors[self._get_variable_index(variable)]
            super().update_step(gradient, variable, learning_rate * factor)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "rates": self.rates}

    Scaled.__name__ = Scaled.__qualname__ = f"Scaled{base.__name__}"
    return keras.saving.register_keras_serializable("mfcnn")(Scaled)


def _makes_steps(kind: type[keras.optimizers.Optimizer]) -> bool:
    return kind.update_step is not keras.optimizers.Optimizer.update_step


# Keras finds the class of a saved optimizer by its name: those of its own exist from the start.
for _kind in vars(keras.optimizers).values():
    if isinstance(_kind, type) and issubclass(_kind, keras.optimizers.Optimizer):
        if _makes_steps(_kind):
            _scaled(_kind)
