import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import activations
from mfcnn.layers import DeepConvolution, DeepDense, NTKDense
from tests.tolerances import float32


@pytest.mark.parametrize(
    "make",
    [lambda a: DeepDense(2, 3, a), lambda a: NTKDense(3, a, seed=0)],
    ids=["deep", "ntk"],
)
@pytest.mark.parametrize(
    "activation",
    ["erf", "swish", "relu", activations.get("abs"), activations.get("tanh"), tf.sin, None],
    ids=["erf", "swish", "relu", "abs object", "tanh object", "callable", "none"],
)
def test_any_activation_survives_configuration_and_is_the_one_that_was_named(make, activation):
    layer = make(activation)
    config = layer.get_config()
    again = type(layer).from_config(config)
    assert again.get_config() == config
    x = np.linspace(-2, 2, 7, dtype="float32")
    expected = {"abs": np.abs, "tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}
    name = getattr(activation, "name", activation)
    if name in expected:
        np.testing.assert_allclose(again._phi(x), expected[name](x), atol=float32.rounded)
    np.testing.assert_array_equal(again._phi(x), layer._phi(x))


def test_a_layer_with_an_activation_object_is_saved(tmp_path):
    model = keras.Sequential(
        [keras.Input((4, 4, 3)), DeepConvolution(2, 3, activation=activations.get("erf"))]
    )
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(x), model(x), atol=float32.rounded)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="tanhh"):
        DeepDense(2, 3, activation="tanhh")
