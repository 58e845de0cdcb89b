"""Every argument of every public function: nonsense is refused by name, NumPy's numbers go in."""

import inspect

import numpy as np
import pytest

from mfcnn import meanfield

_COVARIANCE = np.eye(4).reshape(1, 4, 1, 4)
_POINT = meanfield.FixedPoint(1.0, 1.0, 0.5, 0.5, 0.5, "ordered", 1.0, 1.0, np.inf)
_VARIANCES = {"activation": "erf", "weight_variance": 1.5, "bias_variance": 0.1}

_STEM = _VARIANCES | {
    "images": np.ones((1, 4, 4, 2)),
    "strides": (1, 2),
    "kernel_size": 3,
    "padding": "same",
}

# One good call of each function, by all its arguments.
GOOD = {
    "covariance_trajectory": _VARIANCES
    | {
        "covariance": _COVARIANCE,
        "variance_profile": [0.2, 0.6, 0.2],
        "depth": 1,
        "padding": "same",
        "last_only": False,
    },
    "critical_point": {"activation": "erf", "q_star": 0.5},
    "critical_weight_variance": {"activation": "erf", "bias_variance": 0.1},
    "fixed_point": _VARIANCES | {"input_variance": 1.0},
    "fixed_point_covariance": {"point": _POINT, "size": (2, 2), "inputs": 2},
    "fixed_points": _VARIANCES | {"input_variance": 1.0},
    "jacobian_density": {
        "activation": "erf",
        "weight_variance": 1.0,
        "depth": 2,
        "q": 0.5,
        "points": np.array([0.5]),
        "orthogonal": True,
    },
    "jacobian_moments": {
        "activation": "erf",
        "weight_variance": 1.0,
        "depth": 2,
        "q": 0.5,
        "orthogonal": True,
    },
    "jacobian_spectrum": {
        "activation": "erf",
        "weight_variance": 1.0,
        "depth": 2,
        "q": 0.5,
        "orthogonal": True,
        "width": 100,
    },
    "linearize_covariance": _VARIANCES | {"variance_profile": "delta", "size": (2, 2)},
    "log_gradient_norms": _VARIANCES
    | {
        "depth": 2,
        "input_variance": 1.0,
        "variance_profile": None,
        "size": 3,
        "padding": "circular",
    },
    "mean_field_ntk": _VARIANCES
    | {"depth": 2, "covariance": 0.5, "input_second_moment": 1.0, "input_width_ratio": 1.0},
    "mode_depth_scales": _VARIANCES
    | {"variance_profile": "uniform", "size": 3, "padding": "circular"},
    "mode_eigenvalues": {"profile": "uniform", "size": 3, "padding": "circular"},
    "relu_critical_ratio": {"depth": 3, "width": 100, "exponent": 5.0},
    "stem_covariance": _STEM,
    "stem_variances": _STEM,
    "trainability": _VARIANCES
    | {
        "depth": 3,
        "variance_profile": "GS1",
        "orthogonal": False,
        "size": 3,
        "padding": "same",
        "input_variance": 0.5,
        "width": 10,
    },
    "trained_output_variance": {
        "kappa_1": 2.0,
        "kappa_2": 1.0,
        "q": 1.0,
        "q_sr": 0.5,
        "samples": 3,
    },
    "variance_basins": _VARIANCES,
    "variance_profile": {"name": "gs1", "kernel_size": 3, "rank": 2},
}
# None is a value of these.
_OPTIONAL = {
    ("covariance_trajectory", "variance_profile"),
    ("jacobian_spectrum", "width"),
    ("linearize_covariance", "variance_profile"),
    ("log_gradient_norms", "variance_profile"),
    ("mode_depth_scales", "variance_profile"),
    ("mode_eigenvalues", "profile"),
    ("trainability", "variance_profile"),
    ("trainability", "input_variance"),
    ("trainability", "width"),
    ("variance_profile", "name"),
    ("variance_profile", "kernel_size"),
    ("variance_profile", "rank"),
}
# Where the message does not name the argument itself.
_SAID_AS = {"profile": "variance_profile"}
_NONSENSE = [float("nan"), float("-inf"), "nonsense", object(), None, -1, np.array([1.0, np.nan])]


def _functions():
    return [n for n in meanfield.__all__ if inspect.isfunction(getattr(meanfield, n))]


def _cases():
    for name, arguments in GOOD.items():
        for argument in arguments:
            for value in _NONSENSE:
                may_be_none = value is None and (name, argument) in _OPTIONAL
                signed = argument in ("exponent", "covariance", "q_sr") and np.ndim(value) == 0
                if not (may_be_none or (signed and value == -1)):
                    yield pytest.param(name, argument, value, id=f"{name}-{argument}-{value!r:.9}")


def test_each_function_and_argument_is_here():
    assert sorted(GOOD) == sorted(_functions())
    for name, arguments in GOOD.items():
        assert set(arguments) == set(inspect.signature(getattr(meanfield, name)).parameters)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_the_good_call_is_good(name):
    getattr(meanfield, name)(**GOOD[name])


@pytest.mark.parametrize(("name", "argument", "value"), _cases())
def test_nonsense_is_refused_by_name(name, argument, value):
    with pytest.raises((ValueError, TypeError), match=_SAID_AS.get(argument, argument)):
        getattr(meanfield, name)(**GOOD[name] | {argument: value})


@pytest.mark.parametrize("name", [n for n in GOOD if "depth" in GOOD[n]])
def test_depth_is_an_integer_numpys_too(name):
    function, good = getattr(meanfield, name), GOOD[name]
    function(**good | {"depth": np.int64(good["depth"])})
    for bad in (float(good["depth"]), True, "3", None):
        with pytest.raises(TypeError, match="depth must be an integer|sequence of integers"):
            function(**good | {"depth": bad})


@pytest.mark.parametrize("name", [n for n in GOOD if "variance_profile" in GOOD[n]])
@pytest.mark.parametrize("profile", [None, "Uniform", "gs3", "ORTHOGONAL", "delta", [0.2, 0.8]])
def test_every_function_takes_every_profile(name, profile):
    getattr(meanfield, name)(**GOOD[name] | {"variance_profile": profile})


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        ("covariance_trajectory", {"covariance": _COVARIANCE[0]}, "covariance must have the shape"),
        (
            "covariance_trajectory",
            {"covariance": _COVARIANCE + np.arange(4)},
            "covariance must be symmetric",
        ),
        ("covariance_trajectory", {"padding": "valid", "depth": 2}, "depth must be at most 1"),
        ("fixed_point", {"weight_variance": [1.5]}, "weight_variance must be"),
        ("fixed_point", {"activation": "tahn"}, "activation must be one of"),
        ("critical_point", {"activation": "softplus", "q_star": 0.1}, "no critical point at q_st"),
        ("log_gradient_norms", {"input_variance": [1.0, 1.0]}, "must be a number or of shape"),
        ("log_gradient_norms", {"variance_profile": [0.5, 0.6]}, "must sum to one"),
        ("mode_eigenvalues", {"profile": [1.5, -0.5]}, "must not be negative"),
        ("mode_eigenvalues", {"profile": [[0.5, 0.5]], "size": (3, 3, 3)}, "must have 3 axes"),
        ("mode_eigenvalues", {"size": 65, "padding": "same"}, "at most 4096 positions"),
        ("jacobian_moments", {"q": [0.1, 0.2, 0.3]}, r"q must be a number or of shape \[2\]"),
        ("trainability", {"size": None}, "size must be given for padding='same'"),
        ("trainability", {"padding": "valid"}, "depth must be at most 1"),
        ("mean_field_ntk", {"covariance": 1.5}, "covariance must be at most"),
        ("trained_output_variance", {"kappa_1": 1.0}, "kappa_1 must be above kappa_2"),
    ],
)
def test_what_does_not_fit_is_refused(function, change, message):
    with pytest.raises(ValueError, match=message):
        getattr(meanfield, function)(**GOOD[function] | change)
