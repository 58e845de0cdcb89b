"""What identifies a kernel is its whole configuration: no argument can be forgotten."""

import inspect
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import activations, kernels, layers
from mfcnn.kernels import _identity

L = keras.layers
IMAGES = np.random.default_rng(0).normal(size=(4, 5, 5, 2))
VECTORS = np.random.default_rng(0).normal(size=(4, 6))
LAYERED = {
    "depth": (2, 3),
    "activation": ("erf", "relu"),
    "weight_variance": (1.7, 1.8),
    "bias_variance": (0.1, 0.2),
    "dtype": ("float64", "float32"),
}


def model(activation="relu", units=8, weight_variance=1.7):
    initializer = keras.initializers.VarianceScaling(weight_variance, "fan_in")
    hidden = L.Dense(units, activation, kernel_initializer=initializer)
    return keras.Sequential([keras.Input([6]), hidden, L.Dense(1)])


# Each constructor with its inputs, and for each argument a value and another one.
CONSTRUCTORS = {
    kernels.fully_connected: (VECTORS, LAYERED),
    kernels.convolutional: (
        IMAGES,
        LAYERED
        | {
            "kernel_size": (3, 2),
            "readout": ("flatten", "pool"),
            "padding": ("circular", "same"),
            "variance_profile": (None, "delta"),
        },
    ),
    kernels.from_keras: (
        VECTORS,
        {
            "model": (model(), model("gelu")),
            "parameterization": ("ntk", "standard"),
            "sampled": (False, 64),
            "seed": (0, 0),  # decides only where something is sampled
        },
    ),
}
EVERY_ARGUMENT = [
    (constructor, name)
    for constructor in CONSTRUCTORS
    for name in inspect.signature(constructor).parameters
    if name != "seed"
]


def changed(constructor, name=None):
    """The kernel with its first values, and the second one for one argument."""
    values = CONSTRUCTORS[constructor][1]
    return constructor(**{key: pair[key == name] for key, pair in values.items()})


@pytest.mark.parametrize("constructor, name", EVERY_ARGUMENT)
def test_a_directory_of_blocks_belongs_to_one_value_of_every_argument(constructor, name, tmp_path):
    inputs = CONSTRUCTORS[constructor][0]
    first, other = changed(constructor), changed(constructor, name)
    result = first(inputs, get="ntk", output_dir=tmp_path)
    np.testing.assert_array_equal(first(inputs, get="ntk", output_dir=tmp_path), result)
    np.testing.assert_array_equal(
        changed(constructor)(inputs, get="ntk", output_dir=tmp_path), result
    )
    assert not np.array_equal(other(inputs, get="ntk"), result)
    with pytest.raises(ValueError, match=f"another kernel or other inputs.*{name} is .*, not "):
        other(inputs, get="ntk", output_dir=tmp_path)


@pytest.mark.parametrize("constructor, name", EVERY_ARGUMENT)
def test_config_and_repr_hold_every_argument(constructor, name):
    first, other = changed(constructor), changed(constructor, name)
    assert list(first.config) == list(inspect.signature(constructor).parameters)
    assert _identity.describe(first.config[name]) != _identity.describe(other.config[name])
    assert _identity.describe(first.config) == _identity.describe(changed(constructor).config)
    text = repr(first)
    assert text.startswith(f"{constructor.__name__}(") and f"{name}=" in text and "\n" not in text
    assert constructor is kernels.from_keras or text != repr(other)


def test_inputs_are_identified_by_shape_borders_and_whether_there_are_two(tmp_path):
    kernel = kernels.fully_connected(2, "erf", 1.7, 0.1)
    x = VECTORS
    kernel(x[:2], x[2:], output_dir=tmp_path)
    for others in (
        (x[:1], x[1:]),
        (x,),
        (x[:2], x[2:] + 1),
        (x[:2].reshape(4, 3), x[2:].reshape(4, 3)),
        (x[:2].reshape(3, 4), x[2:].reshape(3, 4)),
    ):
        with pytest.raises(ValueError, match="in it x1 is|in it x2 is"):
            kernel(*others, output_dir=tmp_path)
    with pytest.raises(ValueError, match="log_scale is false, not true"):
        kernel(x[:2], x[2:], log_scale=True, output_dir=tmp_path)
    kernel._block = 1
    with pytest.raises(ValueError, match="block_size is 256, not 1"):
        kernel(x[:2], x[2:], output_dir=tmp_path)


def test_inputs_of_equal_norm_are_identified_too(tmp_path):
    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=(130, 20)) for _ in range(2))
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other))
    kernel = kernels.fully_connected(3, "erf", 1.7, 0.1)
    first = kernel(one, get="ntk", output_dir=tmp_path)
    np.testing.assert_array_equal(kernel(one, get="ntk", output_dir=tmp_path), first)
    assert json.loads((tmp_path / "kernel.json").read_text())["route"] == "equal norms"
    with pytest.raises(ValueError, match="x1 is"):
        kernel(other, get="ntk", output_dir=tmp_path)


def test_functions_are_identified_by_their_values(tmp_path):
    def custom(slope):
        return activations.Activation(
            lambda x: tf.tanh(slope * x), lambda x: slope / tf.cosh(slope * x) ** 2, name="mine"
        )

    def kernel(slope):
        return kernels.fully_connected(2, custom(slope), 1.7, 0.1)

    first = kernel(1.0)(VECTORS, get="ntk", output_dir=tmp_path)
    np.testing.assert_array_equal(kernel(1.0)(VECTORS, get="ntk", output_dir=tmp_path), first)
    with pytest.raises(ValueError, match="activation is .*mine"):
        kernel(1.1)(VECTORS, get="ntk", output_dir=tmp_path)
    assert repr(kernel(1.0)) == repr(kernel(1.0)) != repr(kernel(1.1))
    # A name of the library's on a user's function is not the library's activation.
    imposter = activations.Activation(tf.sin, tf.cos, name="erf")
    assert _identity.describe(imposter) != _identity.describe(activations.get("erf")) == "erf"


def test_models_are_identified_by_what_no_json_holds():
    def bent(x):
        return keras.ops.tanh(x)

    def other(x):
        return keras.ops.tanh(1.1 * x)

    other.__name__ = bent.__name__
    described = [_identity.describe(model(function)) for function in (bent, other)]
    assert described[0]["architecture"] == described[1]["architecture"]
    assert described[0] != described[1]
    half = model()
    half.layers[0].dtype_policy = "float16"
    assert _identity.describe(half) != _identity.describe(model())
    frozen = model()
    frozen.layers[0].kernel.trainable = False
    assert _identity.describe(frozen) != _identity.describe(model())
    # Weights that stand for random ones do not count; those that act on data do.
    redrawn = model()
    redrawn.set_weights([weight + 1 for weight in redrawn.get_weights()])
    assert _identity.describe(redrawn) == _identity.describe(model())
    normalized = [
        keras.Sequential([keras.Input([6]), L.Normalization(), model()]) for _ in range(2)
    ]
    assert _identity.describe(normalized[0]) == _identity.describe(normalized[1])
    normalized[0].layers[0].adapt(VECTORS)
    assert _identity.describe(normalized[0]) != _identity.describe(normalized[1])


ATTENTION = {
    "num_heads": (2, 3),
    "key_dim": (4, 5),
    "mechanism": ("softmax", "relu"),
    "key_variance": (0.8, 0.9),
    "weight_variance": (1.5, 1.6),
    "bias_variance": (0.1, 0.2),
}


@pytest.mark.parametrize("name", [None, *ATTENTION])
def test_attention_is_identified_by_every_argument_and_by_no_weight(name):
    def described(changed):
        options = {key: pair[key == changed] for key, pair in ATTENTION.items()}
        inputs = keras.Input([5, 3])
        x = layers.NTKSelfAttention(4, **options)(inputs)
        x = L.MultiHeadAttention(2, 3)(x, x)
        return _identity.describe(keras.Model(inputs, L.Dense(1)(L.Flatten()(x))))

    assert (described(name) == described(None)) == (name is None)


def test_what_the_caller_changes_later_changes_no_kernel():
    profile = np.array([0.25, 0.5, 0.25])
    kernel = kernels.convolutional(1, "erf", 1.7, 0.1, variance_profile=profile)
    before = repr(kernel), kernel(IMAGES, get="ntk")
    profile[:] = [0.5, 0.5, 0.0]
    assert repr(kernel) == before[0]
    np.testing.assert_allclose(kernel(IMAGES, get="ntk"), before[1], rtol=1e-12)


def test_partial_files_carry_the_process(tmp_path, monkeypatch):
    names = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (names.append(str(a)), replace(a, b)))
    kernels.fully_connected(1, "erf", 1.7, 0.1)(VECTORS, output_dir=tmp_path)
    assert len(names) == 2 and all(f".{os.getpid()}.partial" in name for name in names)
    assert not list(tmp_path.glob("*.partial"))


def test_a_kernel_with_new_parameters_forgets_what_it_knew():
    kernel = kernels.fully_connected(2, "erf", 1.7, 0.1)
    kernel(VECTORS)
    kernel.set_params(activation="relu", depth=3)
    expected = kernels.fully_connected(3, "relu", 1.7, 0.1)(VECTORS)
    np.testing.assert_allclose(kernel(VECTORS).ntk, expected.ntk, rtol=1e-12)
