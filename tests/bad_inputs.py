"""The sweep of bad inputs: every argument of every public name, with values that are wrong.

    python -m tests.bad_inputs                       all rooms, a table and the faults
    python -m tests.bad_inputs --rooms=empirical     one room

Each function is called with good samples for all arguments but one, which is wrong: a string for a
number, NaN, a boolean, a negative variance, an unknown name, an array of another rank ... A call is

    refused    a ValueError or TypeError that names the argument and says what was received,
    unclear    any other error,
    accepted   no error at all.

Only the first is in order. The kind of an argument is known by its name (`KINDS`); a new name must
be entered there, so that no argument is left out.
"""

import argparse
import collections
import functools
import inspect
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import mfcnn
from tests import public_face

_NAN = float("nan")
_INTEGER = (2.5, True, "three", _NAN, -1, [1.5], object())
_NUMBER = ("one", True, _NAN, 1j, [], object())
_VARIANCE = (*_NUMBER, -1.0, float("inf"))
_ARRAY = ("text", _NAN, [[_NAN, 1.0], [1.0, 1.0]], object(), [["a", "b"]])

# What is wrong for an argument of each kind, whatever the function.
WRONG: dict[str, tuple] = {
    "integer": _INTEGER,
    "integer or None": _INTEGER,
    "size": (2.5, True, "three", _NAN, -1, [1.5], [-1, -1], object()),
    "number": _NUMBER,
    "variance": _VARIANCE,
    "choice": ("nonsense", 3, True, 2.5, object()),
    "boolean": ("yes", 3, 0.5, _NAN, object()),
    "model": ("model", 3, True, object()),
    "activation": ("nonsense", 3, True, 2.5, object()),
    "matrix": (*_ARRAY, 1.0, [[[1.0]]]),
    "square": (*_ARRAY, 1.0, [[[1.0]]], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "array": _ARRAY,
    "inputs": (*_ARRAY, [[1.0 + 1j]], [[[[[[1.0]]]]]]),
    "profile": ("nonsense", 3, 2.5, True, [[-1.0, 2.0]], [[_NAN]], object()),
    "initializer": ("nonsense", 3, 2.5, object()),
    "shape": (2.5, True, "three", _NAN, (0, -1, 2), (2.5, 2, 2), object()),
    "dtype": ("nonsense", 3.5, object()),
    "record": ("text", 3, object()),
    "function": ("text", 3, object()),
    "path": (3, 2.5, True, object()),
    "text": (3, 2.5, object()),
    "skip": (),
}

KINDS = {
    "integer": "depth width filters units classes window slots itemsize gradient_copies "
    "positions layers m layer samples initializations batch_size eval_every "
    "steps_per_execution iterations count inputs rank layer_parameters "
    "activation_size activation_bytes seed draws max_bytes order unroll "
    "block_size max_iterations every",
    "integer or None": "input_size checkpoint_levels checkpoint_every eval_batch_size subset "
    "test_subset resize tpu_batch groups",
    "size": "size kernel_size strides",
    "number": "share diagonal off_diagonal time gain rho tolerance max_depth_over_width "
    "budget memory_limit learning_rate timeout kappa memory_budget eta tau "
    "zeta mean_square momentum",
    "variance": "weight_variance bias_variance input_variance q_star q kappa_1 kappa_2 "
    "q_sr ridge noise width_factor readout_scale bias_scale "
    "input_second_moment input_width_ratio exponent",
    "choice": "stem_padding outputs method padding readout initialization parameterization loss "
    "kernel form get kind layout",
    "boolean": "critical_readout gram jit_compile verify orthogonal use_bias last_only fused "
    "verbose artifacts download write pool progress contraction "
    "log_scale nesterov training tangent_kernel",
    "model": "model block",
    "activation": "activation",
    "matrix": "y kernel_test_train ntk_test_train nngp_test_train correction_test_train y_train "
    "matrix",
    "square": "kernel_train_train ntk_train_train nngp_train_train nngp_test_test kernel_matrix "
    "kernel_test_test correction_train_train",
    "array": "q1 q2 q12 points epsilon delta vector covariance nngp ntk f0_train f0_test times",
    "inputs": "x x1 x2 images",
    "profile": "variance_profile profile",
    "initializer": "initializer kernel_initializer bias_initializer",
    "shape": "input_shape shape",
    "dtype": "dtype",
    "record": "moments limit point dataset solution",
    "path": "output_dir path directory log_dir",
    "text": "name title text",
    "function": "phi phi_prime make_model make_optimizer",
    # Objects of many forms, whose makers check them.
    "skip": "sampled call signal layer_class trainable step variables metrics optimizer "
    "fields dual refusal coefficients weight_variance_bounds bias_variance_bounds "
    "config may_differ defaults part file strategy compiled rows",
}
_KIND_OF = {name: kind for kind, names in KINDS.items() for name in names.split()}
# Arguments of one function that mean something else there, or nothing that could be wrong.
SPECIAL_KINDS = {
    ("mfcnn.activations.get", "identifier"): "activation",
    ("mfcnn.activations.keras_identifier", "activation"): "activation",
    ("mfcnn.meanfield.variance_profile", "name"): "profile",
    ("mfcnn.empirical.relu_critical_ratio", "width"): "number",
    ("mfcnn.meanfield.jacobian_spectrum", "width"): "integer or None",
    ("mfcnn.meanfield.trainability", "width"): "integer or None",
    ("mfcnn.empirical.relu_critical_ratio", "exponent"): "number",
    ("mfcnn.repair", "layers"): "record",
}
# Wrong values of a kind that are right for one argument.
LEGITIMATE: dict[tuple[str, str], tuple] = {
    # Arrays of any shape: none in, none out.
    ("mfcnn.meanfield.critical_point", "q_star"): ([],),
    ("mfcnn.meanfield.critical_weight_variance", "bias_variance"): ([],),
    ("mfcnn.meanfield.fixed_points", "weight_variance"): ([],),
    ("mfcnn.meanfield.fixed_points", "bias_variance"): ([],),
    # Several matrices [..., m, m], here one of one entry.
    ("mfcnn.kernels.spectrum", "kernel_matrix"): ([[[1.0]]],),
    # Without a model any shape will do.
    ("mfcnn.diagnosis.Monitor", "x"): ([[[[[[1.0]]]]]],),
    # One example of any shape; that there is one y too few is said of y.
    ("mfcnn.kernels.solve", "x"): ([[[[[[1.0]]]]]],),
}
# How a message may call an argument.
ALIASES = {"identifier": "activation", "profile": "variance_profile"}
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


def _model() -> keras.Model:
    """A new one for each call, for some change their model."""
    return keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(2)]
    )


@functools.cache
def samples() -> dict[str, Any]:
    """A good value for every argument that needs one, by name."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 5))
    gram, x = root @ root.T + np.eye(3), rng.normal(size=(3, 2))
    limit = mfcnn.kernels.limits("tanh", 1.5, 0.1)
    return {
        "activation": "tanh",
        "y": root[:, :2],
        "q1": 1.0,
        "q2": 1.0,
        "q12": 0.5,
        "kernel": mfcnn.kernels.fully_connected(1, "erf", 1.5, 0.1),
        "depth": 2,
        "width": 8,
        "filters": 4,
        "units": 4,
        "classes": 2,
        "weight_variance": 1.5,
        "bias_variance": 0.1,
        "input_variance": 0.7,
        "q": 0.5,
        "kernel_size": 3,
        "variance_profile": None,
        "profile": np.full([3, 3], 1 / 9),
        "size": (4, 4),
        "positions": 4,
        "layers": 3,
        "share": 0.1,
        "layer": 2,
        "m": 3,
        "limit": limit,
        "epsilon": np.ones([2, 2]),
        "delta": np.ones([2, 2]),
        "nngp": gram,
        "ntk": gram,
        "covariance": 0.5,
        "points": np.array([0.5, 1.0]),
        "q_star": 0.3,
        "kappa_1": 2.0,
        "kappa_2": 1.0,
        "q_sr": 0.2,
        "samples": 3,
        "matrix": root,
        "kernel_matrix": gram,
        "kernel_train_train": gram,
        "kernel_test_train": gram[:2],
        "kernel_test_test": gram[:2, :2],
        "y_train": root[:, :2],
        "times": 1.0,
        "ntk_train_train": gram,
        "ntk_test_train": gram[:2],
        "nngp_train_train": gram,
        "nngp_test_train": gram[:2],
        "nngp_test_test": gram[:2, :2],
        "diagonal": 2.0,
        "off_diagonal": 1.0,
        "correction_train_train": gram,
        "correction_test_train": gram[:2],
        "x": x,
        "x1": x,
        "x2": None,
        "vector": np.ones([3, 2]),
        "images": x,
        "moments": mfcnn.empirical.ntk_moments("relu", 20, 4, 2.0, 0.0, 20),
        "point": mfcnn.meanfield.fixed_point("tanh", 1.5, 0.1),
        "kappa": 0.1,
        "ridge": 0.1,
        "input_shape": (8, 8, 1),
        "shape": (3, 3, 2, 2),
        "initializer": "zeros",
        "block": keras.layers.Dense(2),
        "activation_bytes": 1024,
        "layer_parameters": 10,
        "activation_size": 10,
        "identifier": "tanh",
        "name": "tanh",
        "phi": tf.tanh,
        "phi_prime": lambda z: 1 - tf.tanh(z) ** 2,
        "path": os.path.join(tempfile.mkdtemp(), "file.csv"),
        "fields": ("step", "loss"),
        "output_dir": tempfile.mkdtemp(),
        "config": {"depth": 1},
        "text": "text",
        "rows": [
            {"step": 1}
            | {f"{part}_{of}": 0.5 for part in ("train", "test") for of in ("loss", "accuracy")}
        ],
        "strategy": tf.distribute.get_strategy(),
        "optimizer": keras.optimizers.SGD(),
        "batch_size": 4,
        "initializations": 3,
        "make_model": lambda: mfcnn.models.vanilla_cnn((8, 8, 1), 2, 4, 10),
        "make_optimizer": lambda model: keras.optimizers.SGD(0.1),
        "dataset": mfcnn.data.load("digits", 32),
    }


# What one function needs in another form; functions are called for a new object each time.
SPECIAL: dict[str, dict[str, Any]] = {
    "mfcnn.repair": {"method": "auto", "layers": None},
    "mfcnn.diagnose": {"draws": 0, "tangent_kernel": False},
    "mfcnn.activations.keras_identifier": {"activation": mfcnn.activations.get("tanh")},
    "mfcnn.meanfield.covariance_trajectory": {"covariance": np.ones([4, 4, 4, 4])},
    "mfcnn.meanfield.jacobian_density": {"orthogonal": True},
    "mfcnn.meanfield.variance_profile": {"name": "delta"},
    "mfcnn.models.vanilla_cnn": {"initialization": "gaussian", "name": "model"},
    "mfcnn.empirical.effective_rank": {"matrix": np.eye(3)},
    "mfcnn.empirical.jacobian_singular_values": {"x": np.ones(2, "float32")},
    "mfcnn.models.alexnet": {"input_shape": (63, 63, 1)},
    "mfcnn.models.lenet": {"input_shape": (28, 28, 1)},
    "mfcnn.models.linearize": {"name": None},
    "mfcnn.meanfield.stem_covariance": {"images": np.ones([2, 8, 8, 1])},
    "mfcnn.meanfield.stem_variances": {"images": np.ones([2, 8, 8, 1])},
    "mfcnn.training.plot_curves": {"path": os.path.join(tempfile.mkdtemp(), "curves.png")},
    "mfcnn.kernels.mode_corrections": {
        "epsilon": np.ones([2, 4, 4]),
        "delta": np.ones([2, 4, 4]),
    },
}


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
    kind = SPECIAL_KINDS.get((name, parameter.name)) or _KIND_OF.get(parameter.name, "skip")
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
        if p.name not in _KIND_OF and (name, p.name) not in SPECIAL_KINDS
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
    known = samples() | ({"model": _model()} if "model" in _needed(function) else {})
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
