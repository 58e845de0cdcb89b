"""What the sweep of bad inputs calls with: wrong values by kind, good samples by name."""

import functools
import os
import tempfile
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import mfcnn

__all__ = ["ALIASES", "LEGITIMATE", "SPECIAL", "WRONG", "kind_of", "model", "samples"]

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
    "integer": "depth depths width filters units classes window slots itemsize gradient_copies "
    "positions layers m layer samples initializations batch_size eval_every "
    "steps_per_execution iterations count inputs rank layer_parameters "
    "activation_size activation_bytes seed draws max_bytes order unroll "
    "block_size max_iterations every shift num_heads key_dim",
    "integer or None": "input_size checkpoint_levels checkpoint_every eval_batch_size subset "
    "test_subset resize tpu_batch groups chunk_size",
    "size": "size kernel_size strides",
    "number": "share diagonal off_diagonal time gain rho tolerance max_depth_over_width "
    "budget memory_limit learning_rate timeout kappa memory_budget eta tau "
    "zeta mean_square momentum beat",
    "variance": "weight_variance bias_variance key_variance input_variance q_star q kappa_1 "
    "kappa_2 q_sr ridge noise width_factor readout_scale bias_scale input_scale "
    "input_second_moment input_width_ratio exponent",
    "choice": "stem_padding outputs method padding readout initialization parameterization loss "
    "kernel form get kind layout solver mechanism",
    "boolean": "critical_readout gram jit_compile verify orthogonal use_bias last_only fused "
    "verbose artifacts download write pool progress contraction "
    "log_scale nesterov training tangent_kernel mirror_inputs mirror_outputs",
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
    "record": "moments limit point dataset solution rates",
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
    ("mfcnn.empirical.relu_critical_ratio", "exponent"): "number",
    ("mfcnn.repair", "layers"): "record",
    ("mfcnn.meanfield.jacobian_spectrum", "width"): "integer or None",
    ("mfcnn.meanfield.trainability", "width"): "integer or None",
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


def kind_of(function: str, argument: str) -> str | None:
    """The kind of an argument of a function; None where it is not entered here."""
    return SPECIAL_KINDS.get((function, argument)) or _KIND_OF.get(argument)


def model() -> keras.Model:
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
    "mfcnn.training.extrapolated_learning_rate": {
        "make_model": lambda depth: mfcnn.models.vanilla_cnn((4, 4, 1), depth, 2, 2, seed=0),
        "images": np.ones([2, 4, 4, 1]),
        "depths": (2,),
    },
    "mfcnn.training.scaled_rates": {"optimizer": keras.optimizers.SGD(0.1), "rates": {}},
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
