"""Self-attention in the NTK parameterization against the formula by hand."""

import keras
import numpy as np
import pytest

from mfcnn import layers
from tests.tolerances import float64

MECHANISMS = {
    "softmax": lambda a: np.exp(a) / np.exp(a).sum(-1, keepdims=True),
    "identity": lambda a: a,
    "relu": lambda a: np.maximum(a, 0),
    "abs": np.abs,
}


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_formula(mechanism, masked):
    layer = layers.NTKSelfAttention(3, 2, 4, mechanism, 0.7, 1.5, 0.2, dtype="float64")
    x = np.random.default_rng(0).normal(size=(2, 5, 6))
    kept = [0, 2, 3] if masked else [0, 1, 2, 3, 4]
    mask = np.isin(np.arange(5), kept)[None].repeat(2, 0) if masked else None
    y = layer(x, mask=mask)
    u, v, w, b = layer.get_weights()
    expected = np.sqrt(0.2) * b + np.zeros([2, 5, 3])
    for h in range(2):
        keys, values = (x @ k[:, h] / np.sqrt(6) for k in (u, v))
        logits = 0.7 / 4 * keys @ keys[:, kept].transpose(0, 2, 1)
        heads = MECHANISMS[mechanism](logits) @ values[:, kept]
        expected += np.sqrt(1.5 / 8) * heads @ w[h]
    np.testing.assert_allclose(y, expected, rtol=float64.summed, atol=float64.summed)


def test_images_are_sequences_of_their_pixels():
    layer = layers.NTKSelfAttention(3, 2, 4, seed=1)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 6)).astype("float32")
    y = layer(x)
    np.testing.assert_array_equal(y, np.reshape(layer(x.reshape(2, 12, 6)), [2, 3, 4, 3]))


def test_the_seed_decides_and_no_two_weights_are_alike():
    one, again, other = (layers.NTKSelfAttention(8, 1, 8, seed=s) for s in (1, 1, 2))
    for layer in (one, again, other):
        layer.build((None, 5, 8))
    for a, b, c in zip(one.get_weights(), again.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    u, v, w = (weight.ravel() for weight in one.get_weights())
    assert not (np.array_equal(u, v) or np.array_equal(v, w))


def test_it_survives_a_file(tmp_path):
    layer = layers.NTKSelfAttention(3, 2, 4, "abs", 0.7, 1.5, 0.2, seed=1)
    model = keras.Sequential([keras.Input((5, 2)), layer])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = np.ones([2, 5, 2], "float32")
    np.testing.assert_array_equal(again(x), model(x))
    assert again.layers[0].get_config() == layer.get_config()


@pytest.mark.parametrize(
    "options, match",
    [
        ({"units": 0}, "units must be an integer of at least 1"),
        ({"num_heads": 0}, "num_heads"),
        ({"key_dim": 2.5}, "key_dim"),
        ({"mechanism": "linear"}, "mechanism"),
        ({"key_variance": -1.0}, "key_variance"),
        ({"bias_variance": float("nan")}, "bias_variance"),
    ],
)
def test_bad_arguments_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        layers.NTKSelfAttention(**{"units": 2} | options)
