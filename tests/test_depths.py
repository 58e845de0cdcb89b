"""One behaviour of `depth` and of `variance_profile` over every public function that takes them.

The functions are found by their signatures, so that none is forgotten. For a new one whose other
arguments have unfamiliar names, add a value to `SAMPLES`.
"""

import inspect

import keras
import numpy as np
import pytest

import mfcnn
from mfcnn import profiles
from tests import public_face

SAMPLES = {
    "depth": 3,
    "variance_profile": None,
    "activation": "tanh",
    "weight_variance": 1.5,
    "bias_variance": 0.1,
    "covariance": np.array([[1.0, 0.2], [0.2, 1.0]]),
    "q": 0.5,
    "points": np.array([0.5, 1.0]),
    "orthogonal": True,
    "input_variance": 0.7,
    "size": (4, 4),
    "width": 100,
    "filters": 4,
    "units": 4,
    "classes": 2,
    "input_shape": (4, 4, 1),
    "shape": (3, 3, 2, 2),
    "initializer": "zeros",
    "initializations": 2,
    "block": keras.layers.Dense(3),
    "activation_bytes": 1024,
    "layer_parameters": 10,
    "activation_size": 10,
    "name": "tanh",
    "layers": 3,
    "epsilon": np.ones([2, 4, 4]),
    "delta": np.ones([2, 4, 4]),
    "strides": (1,),
    "limit": mfcnn.kernels.limits("tanh", 1.5, 0.1),
}
# What one function needs in another form.
SPECIAL = {
    "mfcnn.meanfield.covariance_trajectory": {"covariance": np.ones([1, 4, 4, 1, 4, 4])},
    "mfcnn.models.vanilla_cnn": {"initialization": "gaussian"},
    "mfcnn.training.extrapolated_learning_rate": {
        "make_model": lambda depth: mfcnn.models.vanilla_cnn((4, 4, 1), depth, 2, 2, seed=0),
        "images": np.ones([2, 4, 4, 1]),
        "depths": (2,),
    },
}


def _functions(parameter):
    """Every public function, constructor and public method that takes the parameter."""
    found = {}
    for name, value in public_face.public_names():
        if public_face.is_record(value):
            continue
        found[name] = value
        if inspect.isclass(value):
            own = ((f"{name}.{n}", f) for n, f in public_face.methods(value) if n != "__init__")
            found.update(own)
    return {n: f for n, f in found.items() if parameter in inspect.signature(f).parameters}


DEPTHS, PROFILES = _functions("depth"), _functions("variance_profile")


def _call(name, function, **given):
    """Calls it with samples for what it needs, or builds the layer."""
    parameters = inspect.signature(function).parameters.values()
    special = SPECIAL.get(name, {})
    arguments = {
        p.name: SAMPLES[p.name]
        for p in parameters
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD and p.name not in special
    }
    return function(**arguments | special | given)


def _faults(name, function, parameter, accepted, refused):
    faults = []
    for value in accepted:
        try:
            _call(name, function, **{parameter: value})
        except Exception as error:
            faults.append(f"{value!r} refused: {type(error).__name__}: {error}")
    for value in refused:
        try:
            _call(name, function, **{parameter: value})
            faults.append(f"{value!r} accepted")
        except ValueError as error:
            text = str(error)
            if not (text.startswith(f"{parameter} must ") and "Received: " in text):
                faults.append(f"{value!r}: {text}")
        except Exception as error:
            faults.append(f"{value!r}: {type(error).__name__}: {error}")
    return faults


@pytest.mark.parametrize("name", DEPTHS)
def test_a_depth_is_an_integer_and_nothing_else(name):
    optional = inspect.signature(DEPTHS[name]).parameters["depth"].default is None
    refused = [3.0, np.float64(3), True, np.True_, "3", -1, np.nan, *([] if optional else [None])]
    accepted = [3, np.int64(3), np.int32(3), np.array(3), *([None] if optional else [])]
    faults = _faults(name, DEPTHS[name], "depth", accepted, refused)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", PROFILES)
def test_a_variance_profile_is_none_a_name_or_an_array(name):
    rng = np.random.default_rng(0)
    drawn = rng.dirichlet(np.ones(9)).reshape(3, 3)
    accepted = [None, *profiles.NAMES, "Delta", "GS2", drawn, drawn.tolist()]
    refused = [np.int64(3), 3.0, True, "3", -drawn, 2 * drawn, np.full([3, 3], np.nan)]
    faults = _faults(name, PROFILES[name], "variance_profile", accepted, refused)
    assert not faults, "\n".join(faults)
