"""The sweep of bad inputs: every argument of every public name, with values that are wrong.

    python -m tests.bad_inputs                       all rooms, a table and the faults
    python -m tests.bad_inputs --rooms=empirical     one room

Each function is called with good samples for all arguments but one, which is wrong: a string for a
number, NaN, a boolean, a negative variance, an unknown name, an array of another rank ... A call is

    refused    a ValueError or TypeError that names the argument and says what was received,
    unclear    any other error,
    accepted   no error at all.

Only the first is in order. The kind of an argument is known by its name (`bad_values.KINDS`); a new
name must be entered there, so that no argument is left out.
"""

import argparse
import collections
import functools
import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

import mfcnn
from tests import public_face
from tests.bad_values import ALIASES, LEGITIMATE, SPECIAL, WRONG, kind_of, model, samples

# Names that start processes, end them, reach for the network, or take only what others make.
LEFT_OUT = (
    "mfcnn.kernels.KernelFunction",
    "mfcnn.kernels.position_map",
    "mfcnn.kernels.register_layer_rule",
    "mfcnn.training.Checkpoints",
    "mfcnn.training.FusedUpdate",
    "mfcnn.training.TrainingStep",
    "mfcnn.data.load",
    "mfcnn.data.load_arrays",
    "mfcnn.training.leave",
    "mfcnn.training.lost_peers",
    "mfcnn.training.make_strategy",
    "mfcnn.training.use_logical_cpus",
)


class Call(NamedTuple):
    """One call of the sweep and what came of it."""

    name: str
    argument: str
    value: str
    outcome: str
    message: str


def functions(rooms: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every public function and constructor, and a kernel's call, of some rooms or of all."""
    for name, value in public_face.public_names():
        if public_face.is_record(value) or name in LEFT_OUT:
            continue
        if not rooms or name.split(".")[1] in rooms:
            yield name, _used(value) if name.startswith("mfcnn.estimators.") else value
    if not rooms or "kernels" in rooms:
        for maker in ("fully_connected", "convolutional"):
            yield f"mfcnn.kernels.{maker}()", _kernel_call(maker)


def _used(estimator: Any) -> Any:
    """An estimator's constructor and first use: by scikit-learn's rules only the use checks."""
    x, y = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.5]]), np.array([0, 1, 1])

    @functools.wraps(estimator, updated=())
    def call(**arguments: Any) -> Any:
        made = estimator(**arguments)
        return made.fit(x, y) if hasattr(made, "fit") else made(x)

    return call


def _kernel_call(maker: str) -> Any:
    kernel = getattr(mfcnn.kernels, maker)(1, "erf", 1.5, 0.1)
    shape = (3, 2) if maker == "fully_connected" else (3, 4, 4, 1)
    x = np.random.default_rng(0).normal(size=shape)

    def call(
        x1: Any = x,
        x2: Any = None,
        get: Any = "ntk",
        log_scale: Any = False,
        progress: Any = False,
        output_dir: Any = None,
    ) -> Any:
        further = {"log_scale": log_scale, "progress": progress, "output_dir": output_dir}
        return kernel(x1, x2, get, **further)

    return call


def _wrong_values(name: str, parameter: inspect.Parameter) -> tuple:
    kind = kind_of(name, parameter.name) or "skip"
    right = LEGITIMATE.get((name, parameter.name), ())
    values = tuple(v for v in WRONG[kind] if not (isinstance(v, list) and v in right))
    if parameter.default is parameter.empty and kind not in ("profile", "activation", "inputs"):
        return (*values, None) if kind != "skip" else values
    return values


def unknown_arguments() -> list[str]:
    """Arguments without a kind."""
    return [
        f"{name}({p.name})"
        for name, value in functions()
        for p in _parameters(value)
        if kind_of(name, p.name) is None
    ]


def _parameters(function: Any) -> list[inspect.Parameter]:
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind not in variadic]


def sweep(name: str, function: Any) -> Iterator[Call]:
    """Every wrong value of every argument of one function."""
    if _missing(name, function):
        return
    for parameter in _parameters(function):
        for value in _wrong_values(name, parameter):
            arguments = {**_good(name, function), parameter.name: value}
            outcome, message = _outcome(function, parameter.name, arguments)
            yield Call(name, parameter.name, _shown(value), outcome, message)


def _needed(function: Any) -> list[str]:
    return [p.name for p in _parameters(function) if p.default is p.empty]


def _good(name: str, function: Any) -> dict[str, Any]:
    """Good samples of the arguments that it needs."""
    known = samples() | ({"model": model()} if "model" in _needed(function) else {})
    return {key: known[key] for key in _needed(function) if key in known} | SPECIAL.get(name, {})


def _missing(name: str, function: Any) -> list[str]:
    return sorted(set(_needed(function)) - set(_good(name, function)))


def _shown(value: Any) -> str:
    return "object()" if type(value) is object else repr(value)


def _outcome(function: Any, argument: str, arguments: dict[str, Any]) -> tuple[str, str]:
    try:
        result = function(**arguments)
    except (ValueError, TypeError) as error:
        text = str(error)
        names = "|".join(re.escape(n) for n in {argument, ALIASES.get(argument, argument)})
        named = re.search(rf"(?<![\w.])({names})\b", text) is not None
        clear = named and "Received" in text and not isinstance(error, tf.errors.OpError)
        return ("refused" if clear else "unclear"), f"{type(error).__name__}: {text[:300]}"
    except Exception as error:
        return "unclear", f"{type(error).__name__}: {str(error)[:300]}"
    return "accepted", f"returned {type(result).__name__}"


def controls(rooms: tuple[str, ...] = ()) -> list[str]:
    """Functions that refuse their good samples: of these a refusal would say nothing."""
    faults = []
    for name, function in functions(rooms):
        if missing := _missing(name, function):
            faults.append(f"{name}: no samples for {missing}")
            continue
        try:
            function(**_good(name, function))
        except Exception as error:
            faults.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
    return faults


def main() -> None:
    """Runs the sweep and prints the table and the faults."""
    parser = argparse.ArgumentParser(description="The sweep of bad inputs.")
    parser.add_argument("--rooms", default="", help="rooms, separated by commas; all by default")
    rooms = tuple(filter(None, parser.parse_args().rooms.split(",")))
    for fault in controls(rooms):
        print(f"not swept, or for good samples too: {fault}")
    total: collections.Counter = collections.Counter()
    by_room: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for name, function in functions(rooms):
        for call in sweep(name, function):
            total[call.outcome] += 1
            by_room[name.split(".")[1]][call.outcome] += 1
            if call.outcome != "refused":
                message = " ".join(call.message.split())
                print(f"{call.outcome}: {name}({call.argument}={call.value}): {message}")
        sys.stdout.flush()
    print("\nroom            refused  unclear accepted")
    for room, counts in (*sorted(by_room.items()), ("all", total)):
        numbers = "".join(f"{counts[kind]:9d}" for kind in ("refused", "unclear", "accepted"))
        print(f"{room:14s}{numbers}")


if __name__ == "__main__":
    main()
